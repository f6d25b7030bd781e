// y = x @ w^T for a handful of rows of x: the decoding case, bound by reading the weights.
//
// Weights are decoded in registers and never stored. A 4-bit byte holds columns 2j and 2j + 1, so
// for 4-bit weights x is copied once with even and odd columns apart (`split_columns`), and the
// low and the high half of a vector of bytes need no shuffling.
#pragma once

#include "base/parallel.h"
#include "matmul/choice.h"
#include "matmul/weights.h"

namespace minialign {
namespace MINIALIGN_ISA {

// Each run of 2 * kLanes columns: its even columns first, then its odd ones.
INLINE void split_columns(const float* x, long cols, float* out) {
  for (long k = 0; k < cols; k += 2 * kLanes)
    for (int j = 0; j < kLanes; j++) {
      out[k + j] = x[k + 2 * j];
      out[k + kLanes + j] = x[k + 2 * j + 1];
    }
}

// 2 * kLanes columns from k on: for 4 bits as split_columns orders x, else in order.
template <int Bits>
INLINE void decode_pair(const uint8_t* row, long k, Vec scale, Vec bias, Vec& first, Vec& second) {
  if constexpr (Bits == 4) {
    const IntVec q = widen_bytes(row + k / 2);
#if defined(__AVX512F__)
    // One table of the sixteen values a group can take; vpermps reads only the low four bits.
    const Vec steps = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const Vec table = steps * scale + bias;
    first = (Vec)_mm512_permutexvar_ps((__m512i)q, (__m512)table);
    second = (Vec)_mm512_permutexvar_ps((__m512i)(q >> 4), (__m512)table);
#else
    first = __builtin_convertvector(q & 15, Vec) * scale + bias;
    second = __builtin_convertvector(q >> 4, Vec) * scale + bias;
#endif
  } else if constexpr (Bits == 8) {
    first = __builtin_convertvector(widen_bytes(row + k), Vec) * scale + bias;
    second = __builtin_convertvector(widen_bytes(row + k + kLanes), Vec) * scale + bias;
  } else {
    first = load((const float*)row + k);
    second = load((const float*)row + k + kLanes);
  }
}

// y[m][n .. n + Out) for XRows rows of x (already split for 4 bits).
template <int Bits, int XRows, int Out>
INLINE void rows_to_8_dots(const float* x, long ldx, const Weight& w, long n, const float* scales,
                           const float* biases, float* y, long ldy, bool add) {
  Vec sums[Out][XRows];
#pragma GCC unroll 8
  for (int o = 0; o < Out; o++)
#pragma GCC unroll 8
    for (int m = 0; m < XRows; m++) sums[o][m] = Vec{};
  const uint8_t* source = row(w, n);
  const long bytes = row_bytes(w);
  const long group = Bits == 32 ? 2 * kLanes : w.group;
  const long groups = w.cols / group;  // float weights: the whole vectors only
  for (long g = 0; g < groups; g++) {
    Vec scale[Out], bias[Out];
    if constexpr (Bits != 32)
#pragma GCC unroll 8
      for (int o = 0; o < Out; o++) {
        scale[o] = broadcast(scales[o * groups + g]);
        bias[o] = broadcast(biases[o * groups + g]);
      }
    for (long k = g * group; k < (g + 1) * group; k += 2 * kLanes) {
      Vec w0[Out], w1[Out];
#pragma GCC unroll 8
      for (int o = 0; o < Out; o++)
        decode_pair<Bits>(source + o * bytes, k, scale[o], bias[o], w0[o], w1[o]);
      if (k * Bits / 8 % 64 == 0)  // a line of the next rows: each is too short to be foreseen
#pragma GCC unroll 8
        for (int o = 0; o < Out; o++)
          __builtin_prefetch(source + (Out + o) * bytes + k * Bits / 8);
#pragma GCC unroll 8
      for (int m = 0; m < XRows; m++) {
        const Vec x0 = load(x + m * ldx + k), x1 = load(x + m * ldx + k + kLanes);
#pragma GCC unroll 8
        for (int o = 0; o < Out; o++) {
          sums[o][m] += w0[o] * x0;
          sums[o][m] += w1[o] * x1;
        }
      }
    }
  }
  float totals[Out][XRows];
  sum_each(sums[0], Out * XRows, totals[0]);
#pragma GCC unroll 8
  for (int o = 0; o < Out; o++)
#pragma GCC unroll 8
    for (int m = 0; m < XRows; m++) {
      float total = totals[o][m];
      if constexpr (Bits == 32)
        for (long k = groups * group; k < w.cols; k++)
          total += x[m * ldx + k] * ((const float*)(source + o * bytes))[k];
      float* out = y + m * ldy + n + o;
      *out = add ? *out + total : total;
    }
}

template <int Bits, int XRows>
static void rows_to_8_task(const float* x, long ldx, const Weight& w, long n0, long n1, float* y,
                           long ldy, bool add) {
  constexpr int kOut = kTileRows > 6 ? (XRows > 4 ? 2 : 4) : (XRows > 4 ? 1 : 2);
  const long groups = Bits == 32 ? 0 : w.cols / w.group;
  float* scales = Bits == 32 ? nullptr : (float*)scratch(kTaskA, 2 * kOut * groups * 4);
  float* biases = scales + kOut * groups;
  long n = n0;
  for (; n + kOut <= n1; n += kOut) {
    if constexpr (Bits != 32) {
      convert_scales(w.scales, w.scale_type, n * groups, kOut * groups, scales);
      convert_scales(w.biases, w.scale_type, n * groups, kOut * groups, biases);
    }
    rows_to_8_dots<Bits, XRows, kOut>(x, ldx, w, n, scales, biases, y, ldy, add);
  }
  for (; n < n1; n++) {
    if constexpr (Bits != 32) {
      convert_scales(w.scales, w.scale_type, n * groups, groups, scales);
      convert_scales(w.biases, w.scale_type, n * groups, groups, biases);
    }
    rows_to_8_dots<Bits, XRows, 1>(x, ldx, w, n, scales, biases, y, ldy, add);
  }
}

typedef void (*RowsTo8Task)(const float*, long, const Weight&, long, long, float*, long, bool);

template <int Bits, int XRows>
INLINE RowsTo8Task pick_rows_to_8(long m) {
  if constexpr (XRows == 0)
    return nullptr;
  else
    return m == XRows ? rows_to_8_task<Bits, XRows> : pick_rows_to_8<Bits, XRows - 1>(m);
}

// y (m, w.rows) = x (m, w.cols) @ w^T, or += if add, for m <= kRowsTo8.
template <int Bits>
static void rows_to_8(const float* x, long m, const Weight& w, float* y, bool add) {
  const float* input = x;
  if constexpr (Bits == 4) {
    float* split = (float*)scratch(kPackedA, m * w.cols * 4);
    for (long i = 0; i < m; i++) split_columns(x + i * w.cols, w.cols, split + i * w.cols);
    input = split;
  }
  const RowsTo8Task task = pick_rows_to_8<Bits, kRowsTo8>(m);
  parallel_outputs(w.rows, w.rows * w.cols * m, [&](long n0, long n1) {
    task(input, w.cols, w, n0, n1, y, w.rows, add);
  });
}

}  // namespace MINIALIGN_ISA
}  // namespace minialign
