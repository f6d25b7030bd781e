// y = x @ w^T for more rows of x than rows_to_8.h takes and too few for packed tiles of w to pay:
// batches of 9 to 32 while decoding.
//
// Here the rows of x are the lanes: x is transposed once, eight rows of w at a time are decoded
// to a buffer in L1 as they come, and each of their values is broadcast.
#pragma once

#include "matmul/rows_to_8.h"

namespace minialign {
namespace MINIALIGN_ISA {

constexpr long kRowBuffer = 256;              // columns of w a pass: with x they stay in L1
constexpr long kRowStride = kRowBuffer + 16;  // not a power of two: all rows share L1's sets

// Rows of w a pass, for one vector of lanes and for more: as many sums as registers take, which
// hides a multiply-add's latency.
constexpr int kTogetherOne = kTileRows > 6 ? 16 : 8, kTogetherMore = kTogetherOne / 2;

INLINE long lane_vectors(long m) { return (m + kLanes - 1) / kLanes; }

// x (m, k) -> [k][vectors of lanes], columns in the order decode_pair gives them for 4 bits.
INLINE void pack_lanes(const float* x, long m, long k, bool split, float* out, float* row) {
  const long wide = lane_vectors(m) * kLanes;
  for (long i = 0; i < m; i += kLanes) {
    const long rows = m - i < kLanes ? m - i : kLanes;
    const float* from = x + i * k;
    if (split) {
      for (long r = 0; r < rows; r++) split_columns(from + r * k, k, row + r * k);
      from = row;
    }
    long j = 0;
    for (; j + kLanes <= k; j += kLanes) {
      Vec square[kLanes];
#pragma GCC unroll 16
      for (int r = 0; r < kLanes; r++) square[r] = r < rows ? load(from + r * k + j) : Vec{};
      transpose(square);
#pragma GCC unroll 16
      for (int d = 0; d < kLanes; d++) store(out + (j + d) * wide + i, square[d]);
    }
    for (; j < k; j++)
      for (long r = 0; r < kLanes; r++)
        out[j * wide + i + r] = r < rows ? from[r * k + j] : 0.f;
  }
}

// Columns [k0, k0 + n) of row r into out, in decode_pair's order. Those of row r + ahead are
// asked for: the parts of many rows at once are more than the processor foresees.
template <int Bits>
INLINE void decode_part(const Weight& w, long r, long k0, long n, long ahead, float* out) {
  const uint8_t* source = row(w, r);
  for (long byte = 0; byte < n * Bits / 8; byte += 64)
    __builtin_prefetch(source + ahead * row_bytes(w) + k0 * Bits / 8 + byte);
  if constexpr (Bits == 32) {
    memcpy(out, (const float*)source + k0, n * 4);
    return;
  }
  const long first = (r * w.cols + k0) / w.group;  // a part is whole groups
  const long groups = n / w.group;
  float scales[kRowBuffer / 32], biases[kRowBuffer / 32];
  convert_scales(w.scales, w.scale_type, first, groups, scales);
  convert_scales(w.biases, w.scale_type, first, groups, biases);
  for (long g = 0; g < groups; g++) {
    const Vec scale = broadcast(scales[g]), bias = broadcast(biases[g]);
    for (long k = g * w.group; k < (g + 1) * w.group; k += 2 * kLanes) {
      Vec low, high;
      decode_pair<Bits>(source, k0 + k, scale, bias, low, high);
      store(out + k, low);
      store(out + k + kLanes, high);
    }
  }
}

template <int kRows, int Vectors>
INLINE void add_lanes(const float* weights, const float* x, long wide, long n, float* sums) {
  Vec s[kRows][Vectors];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; r++)
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; v++) s[r][v] = load(sums + (r * Vectors + v) * kLanes);
  for (long k = 0; k < n; k++) {
    Vec lanes[Vectors];
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; v++) lanes[v] = load(x + k * wide + v * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; r++)
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; v++) s[r][v] += weights[r * kRowStride + k] * lanes[v];
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; r++)
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; v++) store(sums + (r * Vectors + v) * kLanes, s[r][v]);
}

// Outputs [n0, n1) for all m rows; `lanes` as pack_lanes made it.
template <int Bits, int kRows>
static void rows_to_32_part(const float* lanes, long m, const Weight& w, long n0, long n1, float* y,
                            bool add) {
  const long vectors = lane_vectors(m), wide = vectors * kLanes;
  alignas(64) float decoded[kRows * kRowStride];
  alignas(64) float sums[kRows * kRowsTo32];
  for (long n = n0; n < n1; n += kRows) {
    const long rows = n1 - n < kRows ? n1 - n : kRows;
    memset(sums, 0, sizeof(sums));
    for (long k0 = 0; k0 < w.cols; k0 += kRowBuffer) {
      const long depth = w.cols - k0 < kRowBuffer ? w.cols - k0 : kRowBuffer;
      for (long r = 0; r < kRows; r++)
        decode_part<Bits>(w, n + (r < rows ? r : 0), k0, depth, kRows,
                          decoded + r * kRowStride);
      const float* x = lanes + k0 * wide;
      for (long v = 0; v < vectors; v += 2) {  // two by two
        float* part = sums + v * kRows * kLanes;
        if (vectors - v > 1)
          add_lanes<kRows, 2>(decoded, x + v * kLanes, wide, depth, part);
        else
          add_lanes<kRows, 1>(decoded, x + v * kLanes, wide, depth, part);
      }
    }
    if constexpr (kRows == kLanes)
      if (vectors == 1 && rows == kRows) {
        Vec square[kLanes];
#pragma GCC unroll 16
        for (int r = 0; r < kLanes; r++) square[r] = load(sums + r * kLanes);
        transpose(square);
        for (long i = 0; i < m; i++) {
          float* out = y + i * w.rows + n;
          store(out, add ? square[i] + load(out) : square[i]);
        }
        continue;
      }
    for (long i = 0; i < m; i++) {
      const long v = i / kLanes, pair = v / 2 * 2, together = vectors - pair > 1 ? 2 : 1;
      const float* part = sums + (pair * kRows + v - pair) * kLanes + i % kLanes;
      float* out = y + i * w.rows + n;
      for (long r = 0; r < rows; r++) {
        const float value = part[r * together * kLanes];
        out[r] = add ? out[r] + value : value;
      }
    }
  }
}

template <int Bits>
INLINE void rows_to_32_task(const float* lanes, long m, const Weight& w, long n0, long n1, float* y,
                            bool add) {
  if (m <= kLanes)
    rows_to_32_part<Bits, kTogetherOne>(lanes, m, w, n0, n1, y, add);
  else
    rows_to_32_part<Bits, kTogetherMore>(lanes, m, w, n0, n1, y, add);
}

// y (m, w.rows) = x (m, w.cols) @ w^T, or += if add, for m <= kRowsTo32.
template <int Bits>
static void rows_to_32(const float* x, long m, const Weight& w, float* y, bool add) {
  const long wide = lane_vectors(m) * kLanes;
  float* lanes = (float*)scratch(kPackedA, (w.cols * (wide + kLanes) + 64) * 4);
  pack_lanes(x, m, w.cols, Bits == 4, lanes, lanes + w.cols * wide);
  const long most = 4 * thread_count();
  long step = (w.rows + most - 1) / most;
  step = (step + kTogetherOne - 1) / kTogetherOne * kTogetherOne;
  parallel((w.rows + step - 1) / step, [&](long c) {
    const long n1 = (c + 1) * step < w.rows ? (c + 1) * step : w.rows;
    rows_to_32_task<Bits>(lanes, m, w, c * step, n1, y, add);
  });
}

}  // namespace MINIALIGN_ISA
}  // namespace minialign
