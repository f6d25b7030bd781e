// y = x @ w^T for more rows of x than few_rows.h takes and too few for packed tiles of w to pay:
// batches of 9 to 32 while decoding.
//
// Here the rows of x are the lanes: x is transposed once, eight rows of w at a time are decoded
// to a buffer in L1 as they come, and each of their values is broadcast.
#pragma once

#include "few_rows.h"

namespace minialign {
namespace MINIALIGN_ISA {

constexpr long kSomeRows = 32;
constexpr int kTogether = kTileRows > 6 ? 8 : 4;  // rows of w a pass
constexpr long kRowBuffer = 512;                  // their columns a pass
constexpr long kRowStride = kRowBuffer + 16;      // not a power of two: eight rows share L1's sets

INLINE long lane_vectors(long m) { return (m + kLanes - 1) / kLanes; }

// x (m, k) -> [k][vectors of lanes], columns in the order decode_pair gives them for 4 bits.
INLINE void pack_lanes(const float* x, long m, long ldx, long k, bool split, float* out,
                       float* row) {
  const long wide = lane_vectors(m) * kLanes;
  for (long i = 0; i < m; i += kLanes) {
    const long rows = m - i < kLanes ? m - i : kLanes;
    const float* from = x + i * ldx;
    long stride = ldx;
    if (split) {
      for (long r = 0; r < rows; r++) split_columns(from + r * ldx, k, row + r * k);
      from = row;
      stride = k;
    }
    long j = 0;
    for (; j + kLanes <= k; j += kLanes) {
      Vec square[kLanes];
#pragma GCC unroll 16
      for (int r = 0; r < kLanes; r++) square[r] = r < rows ? load(from + r * stride + j) : Vec{};
      transpose(square);
#pragma GCC unroll 16
      for (int d = 0; d < kLanes; d++) store(out + (j + d) * wide + i, square[d]);
    }
    for (; j < k; j++)
      for (long r = 0; r < kLanes; r++)
        out[j * wide + i + r] = r < rows ? from[r * stride + j] : 0.f;
  }
}

// Columns [k0, k0 + n) of row r into out, in decode_pair's order.
template <int Bits>
INLINE void decode_part(const Weight& w, long r, long k0, long n, float* out) {
  const uint8_t* source = row(w, r);
  if constexpr (Bits == 32) {
    memcpy(out, (const float*)source + k0, n * 4);
    return;
  }
  const long groups = w.cols / w.group;
  Vec scale = Vec{}, bias = Vec{};
  for (long k = k0; k < k0 + n; k += 2 * kLanes) {
    if (k == k0 || k % w.group == 0) {
      const long at = r * groups + k / w.group;
      scale = broadcast(scale_at(w.scales, w.scale_type, at));
      bias = broadcast(scale_at(w.biases, w.scale_type, at));
    }
    Vec first, second;
    decode_pair<Bits>(source, k, scale, bias, first, second);
    store(out + k - k0, first);
    store(out + k - k0 + kLanes, second);
  }
}

template <int Vectors>
INLINE void add_lanes(const float* weights, const float* x, long wide, long n, float* sums) {
  Vec s[kTogether][Vectors];
#pragma GCC unroll 8
  for (int r = 0; r < kTogether; r++)
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; v++) s[r][v] = load(sums + (r * Vectors + v) * kLanes);
  for (long k = 0; k < n; k++) {
    Vec lanes[Vectors];
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; v++) lanes[v] = load(x + k * wide + v * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < kTogether; r++)
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; v++) s[r][v] += weights[r * kRowStride + k] * lanes[v];
  }
#pragma GCC unroll 8
  for (int r = 0; r < kTogether; r++)
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; v++) store(sums + (r * Vectors + v) * kLanes, s[r][v]);
}

// Outputs [n0, n1) for all m rows; `lanes` as pack_lanes made it.
template <int Bits>
static void some_rows_task(const float* lanes, long m, const Weight& w, long n0, long n1, float* y,
                           bool add) {
  const long wide = lane_vectors(m) * kLanes;
  alignas(64) float decoded[kTogether * kRowStride];
  alignas(64) float sums[kTogether * kSomeRows];
  for (long n = n0; n < n1; n += kTogether) {
    const long rows = n1 - n < kTogether ? n1 - n : kTogether;
    memset(sums, 0, sizeof(sums));
    for (long k0 = 0; k0 < w.cols; k0 += kRowBuffer) {
      const long depth = w.cols - k0 < kRowBuffer ? w.cols - k0 : kRowBuffer;
      for (long r = 0; r < kTogether; r++)
        decode_part<Bits>(w, n + (r < rows ? r : 0), k0, depth, decoded + r * kRowStride);
      float* part = sums;
      for (long v = 0; v * kLanes < wide;) {  // vectors of lanes two by two
        const float* x = lanes + k0 * wide + v * kLanes;
        if (wide - v * kLanes > kLanes) {
          add_lanes<2>(decoded, x, wide, depth, part);
          part += 2 * kTogether * kLanes;
          v += 2;
        } else {
          add_lanes<1>(decoded, x, wide, depth, part);
          part += kTogether * kLanes;
          v += 1;
        }
      }
    }
    for (long i = 0; i < m; i++) {
      const long v = i / kLanes, pair = v / 2 * 2;
      const long together = wide / kLanes - pair > 1 ? 2 : 1;
      const float* part = sums + pair * kTogether * kLanes + (v - pair) * kLanes + i % kLanes;
      float* out = y + i * w.rows + n;
      for (long r = 0; r < rows; r++) {
        const float value = part[r * together * kLanes];
        out[r] = add ? out[r] + value : value;
      }
    }
  }
}

template <int Bits>
static void some_rows(const float* x, long m, long ldx, const Weight& w, float* y, bool add) {
  const long wide = lane_vectors(m) * kLanes;
  float* lanes = (float*)scratch(kPackedA, (w.cols * (wide + kLanes) + 64) * 4);
  pack_lanes(x, m, ldx, w.cols, Bits == 4, lanes, lanes + w.cols * wide);
  const long most = 4 * thread_count();
  long step = (w.rows + most - 1) / most;
  step = (step + kTogether - 1) / kTogether * kTogether;
  parallel((w.rows + step - 1) / step, [&](long c) {
    const long n1 = (c + 1) * step < w.rows ? (c + 1) * step : w.rows;
    some_rows_task<Bits>(lanes, m, w, c * step, n1, y, add);
  });
}

}  // namespace MINIALIGN_ISA
}  // namespace minialign
