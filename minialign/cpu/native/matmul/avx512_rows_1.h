// y = x @ w^T for one row of x and a quantized w, with 512-bit vectors: one answer being written.
//
// A vector of sixteen 32-bit words is read as it lies: its bytes or nibbles are picked out in
// place, eight (4 bits) or four (8 bits) of each word, and x is laid out once in the same order. So
// nothing is widened, and a group's scale and bias come in once for all its columns.
#pragma once

#include "matmul/vnni_rows_1.h"

#if MINIALIGN_AVX512

namespace minialign {
namespace MINIALIGN_ISA {

template <int Bits>
constexpr long kWordBlock = kLanes * 32 / Bits;  // columns in one vector of words

// x (cols,) -> blocks of kWordBlock columns, [part of the word][word]; zeros behind the end. Behind
// all blocks follow the sums over the parts, [block][word]. `out`: 2 * (cols + kWordBlock) floats.
template <int Bits>
INLINE void order_by_words(const float* x, long cols, float* out) {
  constexpr long kBlock = kWordBlock<Bits>, kParts = kBlock / kLanes;
  const long blocks = (cols + kBlock - 1) / kBlock;
  float* sums = out + blocks * kBlock;
  const __m512i words = _mm512_mullo_epi32(
      _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
      _mm512_set1_epi32((int)kParts));
  for (long b = 0; b < blocks; b++) {
    const __mmask16 valid = first_lanes((cols - b * kBlock) / kParts);
    Vec total = Vec{};
    for (long i = 0; i < kParts; i++) {
      const Vec part = (Vec)_mm512_mask_i32gather_ps(_mm512_setzero_ps(), valid, words,
                                                     x + b * kBlock + i, 4);
      store(out + b * kBlock + i * kLanes, part);
      total += part;
    }
    store(sums + b * kLanes, total);
  }
}

// Part i of each word as float.
template <int Bits>
INLINE Vec part_of_words(__m512i words, int i) {
  if constexpr (Bits == 4) {  // vpermps reads the low four bits of each index
    const Vec values = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return (Vec)_mm512_permutexvar_ps(_mm512_srli_epi32(words, 4 * i), (__m512)values);
  } else {
    return (Vec)_mm512_cvtepi32_ps(
        _mm512_and_si512(_mm512_srli_epi32(words, 8 * i), _mm512_set1_epi32(255)));
  }
}

// Outputs [n, n + Out); scales and biases (Out, groups) float32; x as order_by_words left it.
template <int Bits, int Out>
INLINE void avx512_rows_1_dots(const float* x, const Weight& w, long n, const float* scales,
                               const float* biases, __m512i lane_group, float* y, bool add) {
  constexpr long kBlock = kWordBlock<Bits>, kParts = kBlock / kLanes;
  const long groups = w.cols / w.group, bytes = row_bytes(w);
  const float* x_sums = x + (w.cols + kBlock - 1) / kBlock * kBlock;
  const uint8_t* source = row(w, n);
  Vec sums[Out];
#pragma GCC unroll 8
  for (int o = 0; o < Out; o++) sums[o] = Vec{};
  for (long k = 0; k < w.cols; k += kBlock) {
    const long left = w.cols - k;
    const __mmask16 valid = first_lanes(left / kParts);
    const long g = k / w.group;
    const __mmask16 valid_groups = first_lanes(groups - g);
    Vec parts[kParts];
#pragma GCC unroll 8
    for (int i = 0; i < kParts; i++) parts[i] = load(x + k + i * kLanes);
    const Vec x_sum = load(x_sums + k / kBlock * kLanes);
#pragma GCC unroll 8
    for (int o = 0; o < Out; o++) {
      const uint8_t* here = source + o * bytes + k * Bits / 8;
      const __m512i words = _mm512_maskz_loadu_epi32(valid, here);
      __builtin_prefetch(here + Out * bytes);  // the next rows: each is too short to be foreseen
      Vec dot = part_of_words<Bits>(words, 0) * parts[0];
#pragma GCC unroll 8
      for (int i = 1; i < kParts; i++) dot += part_of_words<Bits>(words, i) * parts[i];
      const __m512 scale = _mm512_maskz_loadu_ps(valid_groups, scales + o * groups + g);
      const __m512 bias = _mm512_maskz_loadu_ps(valid_groups, biases + o * groups + g);
      sums[o] += dot * (Vec)_mm512_permutexvar_ps(lane_group, scale);
      sums[o] += x_sum * (Vec)_mm512_permutexvar_ps(lane_group, bias);
    }
  }
#pragma GCC unroll 8
  for (int o = 0; o < Out; o++) y[n + o] = sum(sums[o]) + (add ? y[n + o] : 0.f);
}

// Outputs [n0, n1); x as order_by_words left it.
template <int Bits>
static void avx512_rows_1_task(const float* x, const Weight& w, long n0, long n1, float* y,
                               bool add) {
  constexpr int kOut = 4, kParts = 32 / Bits;
  const long groups = w.cols / w.group;
  float* scales = (float*)scratch(kTaskA, (2 * kOut * groups + 2 * kLanes) * 4);
  float* biases = scales + kOut * groups + kLanes;
  int lanes[kLanes];
  for (int j = 0; j < kLanes; j++) lanes[j] = (int)(j * kParts / w.group);
  const __m512i lane_group = _mm512_loadu_si512(lanes);
  for (long n = n0; n < n1; n += kOut) {
    const long rows = n1 - n < kOut ? n1 - n : kOut;
    convert_scales(w.scales, w.scale_type, n * groups, rows * groups, scales);
    convert_scales(w.biases, w.scale_type, n * groups, rows * groups, biases);
    if (rows == kOut) {
      avx512_rows_1_dots<Bits, kOut>(x, w, n, scales, biases, lane_group, y, add);
      continue;
    }
    for (long r = 0; r < rows; r++)
      avx512_rows_1_dots<Bits, 1>(x, w, n + r, scales + r * groups, biases + r * groups, lane_group,
                                  y, add);
  }
}

// y (w.rows,) = x (w.cols,) @ w^T, or += if add.
template <int Bits>
static void avx512_rows_1(const float* x, const Weight& w, float* y, bool add) {
  float* words = (float*)scratch(kPackedA, 2 * (w.cols + kWordBlock<Bits>) * 4);
  order_by_words<Bits>(x, w.cols, words);
  parallel_outputs(w.rows, w.rows * w.cols, [&](long n0, long n1) {
    avx512_rows_1_task<Bits>(words, w, n0, n1, y, add);
  });
}

}  // namespace MINIALIGN_ISA
}  // namespace minialign

#endif
