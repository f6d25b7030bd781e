// y = x @ w^T for one row of x and a 4-bit w with products of bytes (AVX-512 VNNI).
//
// x becomes integers of 24 bits, scaled for every 32 columns, and these three signed bytes each:
// x = scale * (a * 65536 + b * 256 + c). A vector of bytes holds 64 weights where one of floats
// holds 16, so three products of bytes cost less than those of floats, and their sums are exact:
// the result is as close to the true one as with floats. Whether the processor has the
// instructions is known at run time (`has_vnni`): only what is marked WITH_VNNI has them.
#pragma once

#include "base/parallel.h"
#include "matmul/weights.h"

#if MINIALIGN_AVX512

namespace minialign {
namespace MINIALIGN_ISA {

#define WITH_VNNI __attribute__((target("avx512vnni")))

INLINE __mmask16 first_lanes(long n) { return n >= kLanes ? 0xffff : (__mmask16)((1u << n) - 1); }

constexpr long kVnniBlock = 128;              // columns in one vector of words
constexpr long kBlockBytes = 3 * kVnniBlock;  // a, b, c, each with the even columns first
constexpr long kPart = 32;                    // columns with one scale

// A row in that form; the last block is filled up with zeros.
struct RowOfBytes {
  const uint8_t* blocks;
  const float *scales, *sums;  // one for every kPart columns, and zeros for whole vectors
};

INLINE long padded_parts(long cols) { return (cols / kPart + kLanes - 1) / kLanes * kLanes; }

INLINE RowOfBytes row_of_bytes_at(const void* at, long cols) {
  const uint8_t* blocks = (const uint8_t*)at;
  const float* scales =
      (const float*)(blocks + (cols + kVnniBlock - 1) / kVnniBlock * kBlockBytes);
  return {blocks, scales, scales + padded_parts(cols)};
}

// x (cols,) in that form; `out` has room for 8 * cols + 1024 bytes.
static void to_bytes(const float* x, long cols, void* out) {
  const RowOfBytes to = row_of_bytes_at(out, cols);
  float *scales = (float*)to.scales, *sums = (float*)to.sums;
  const long parts = cols / kPart;
  for (long p = parts; p < padded_parts(cols); p++) scales[p] = sums[p] = 0.f;
  for (long k = 0; k < cols; k += kVnniBlock) {
    uint8_t* block = (uint8_t*)to.blocks + k / kVnniBlock * kBlockBytes;
    alignas(64) uint8_t bytes[3][kVnniBlock];
    memset(bytes, 0, sizeof(bytes));
    for (long i = 0; i < kVnniBlock && k + i < cols; i += kPart) {
      const Vec first = load(x + k + i), second = load(x + k + i + kLanes);
      const Vec size = max(first > 0.f ? first : -first, second > 0.f ? second : -second);
      const float largest = max_lane(size);
      const float scale = largest / 8e6f;
      scales[(k + i) / kPart] = scale;
      sums[(k + i) / kPart] = sum(first + second);
      const Vec inverse = broadcast(scale > 1e-37f ? 1.f / scale : 0.f);
      for (int half = 0; half < 2; half++) {
        // The bytes of x + 128 * (65536 + 256 + 1) are a + 128, b + 128, c + 128.
        __m512i q = _mm512_cvtps_epi32((__m512)((half ? second : first) * inverse));
        q = _mm512_xor_si512(_mm512_add_epi32(q, _mm512_set1_epi32(0x808080)),
                             _mm512_set1_epi32(0x808080));
        for (int plane = 2; plane >= 0; plane--, q = _mm512_srli_epi32(q, 8))
          _mm_store_si128((__m128i*)(bytes[plane] + i + half * kLanes), _mm512_cvtepi32_epi8(q));
      }
    }
    for (int plane = 0; plane < 3; plane++)
      for (int half = 0; half < 2; half++) {
        const __m512i v = _mm512_load_si512(bytes[plane] + 64 * half);
        uint8_t* even = block + plane * kVnniBlock + 32 * half;
        _mm256_storeu_si256((__m256i*)even, _mm512_cvtepi16_epi8(v));
        _mm256_storeu_si256((__m256i*)(even + 64),
                            _mm512_cvtepi16_epi8(_mm512_srli_epi16(v, 8)));
      }
  }
}

// The larger of two sizes (numbers without their sign), NaN if one of them is: integers with the
// same bits have the same order.
INLINE __m512 larger_size(__m512 a, __m512 b) {
  return _mm512_castsi512_ps(_mm512_max_epi32(_mm512_castps_si512(a), _mm512_castps_si512(b)));
}

// All lanes of each of four vectors joined by `both`.
template <class Both>
INLINE __m128 four_joined(const Vec* v, const Both& both) {
  const __m512 a = (__m512)v[0], b = (__m512)v[1], c = (__m512)v[2], d = (__m512)v[3];
  const __m512d ab = _mm512_castps_pd(both(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)));
  const __m512d cd = _mm512_castps_pd(both(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d)));
  const __m512 all = both(_mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd)),
                          _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd)));
  const __m512 half = both(all, _mm512_shuffle_f32x4(all, all, 0x4e));
  return _mm512_castps512_ps128(both(half, _mm512_shuffle_f32x4(half, half, 0xb1)));
}
INLINE __m128 four_sums(const Vec* v) {
  return four_joined(v, [](__m512 a, __m512 b) { return a + b; });
}
INLINE __m128 four_largest_sizes(const Vec* v) {
  return four_joined(v, [](__m512 a, __m512 b) { return larger_size(a, b); });
}

// 16 scales or biases of a 16-bit type as float32.
INLINE __m512 wide_scales(__m256i halves, ScaleType type) {
  if (type == ScaleType::float16) return _mm512_cvtph_ps(halves);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

// The first lanes of scales or biases [first, ...) as float32, zeros behind.
INLINE __m512 some_scales(const void* source, ScaleType type, long first, __mmask16 valid) {
  if (type == ScaleType::float32)
    return _mm512_maskz_loadu_ps(valid, (const float*)source + first);
  return wide_scales(_mm256_maskz_loadu_epi16(valid, (const uint16_t*)source + first), type);
}

// Outputs [n, n + Out); `factors` are the weights' scales times x's, (Out, padded_parts); `sums`
// what the biases give.
template <int Out>
WITH_VNNI static inline void vnni_rows_1_dots(const RowOfBytes& x, const Weight& w, long n,
                                              const float* factors, const Vec* sums, float* y,
                                              bool add) {
  const long bytes = row_bytes(w), parts = padded_parts(w.cols);
  const uint8_t* source = row(w, n);
  const __m512i lane_part = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
  const __m512i low = _mm512_set1_epi8(15);
  Vec totals[Out];
#pragma GCC unroll 8
  for (int o = 0; o < Out; o++) totals[o] = sums[o];
  for (long k = 0; k < w.cols; k += kVnniBlock) {
    const __mmask16 valid = first_lanes((w.cols - k) / 8);
    const uint8_t* block = x.blocks + k / kVnniBlock * kBlockBytes;
    __m512i even[3], odd[3];
#pragma GCC unroll 3
    for (int plane = 0; plane < 3; plane++) {
      even[plane] = _mm512_loadu_si512(block + plane * kVnniBlock);
      odd[plane] = _mm512_loadu_si512(block + plane * kVnniBlock + 64);
    }
#pragma GCC unroll 8
    for (int o = 0; o < Out; o++) {
      const uint8_t* here = source + o * bytes + k / 2;
      const __m512i words = _mm512_maskz_loadu_epi32(valid, here);
      __builtin_prefetch(here + Out * bytes);  // the next rows: each is too short to be foreseen
      const __m512i w0 = _mm512_and_si512(words, low);
      const __m512i w1 = _mm512_and_si512(_mm512_srli_epi16(words, 4), low);
      __m512i dot = _mm512_setzero_si512();
#pragma GCC unroll 3
      for (int plane = 0; plane < 3; plane++) {
        if (plane) dot = _mm512_slli_epi32(dot, 8);
        dot = _mm512_dpbusd_epi32(dot, w0, even[plane]);
        dot = _mm512_dpbusd_epi32(dot, w1, odd[plane]);
      }
      const __m512 factor = _mm512_castps128_ps512(_mm_loadu_ps(factors + o * parts + k / kPart));
      totals[o] += (Vec)_mm512_cvtepi32_ps(dot) * (Vec)_mm512_permutexvar_ps(lane_part, factor);
    }
  }
  if constexpr (Out == 4) {
    __m128 four = four_sums(totals);
    if (add) four = _mm_add_ps(four, _mm_loadu_ps(y + n));
    _mm_storeu_ps(y + n, four);
    return;
  }
  for (int o = 0; o < Out; o++) y[n + o] = sum(totals[o]) + (add ? y[n + o] : 0.f);
}

// Outputs [n0, n1).
WITH_VNNI static void vnni_rows_1_task(const RowOfBytes& x, const Weight& w, long n0, long n1,
                                       float* y, bool add) {
  constexpr int kOut = 4;
  const long groups = w.cols / w.group, parts = padded_parts(w.cols), shift = w.group / kPart / 2;
  float* factors = (float*)scratch(kTaskA, kOut * parts * 4);
  int lanes[kLanes];
  for (int j = 0; j < kLanes; j++) lanes[j] = j >> shift;
  const __m512i group_of = _mm512_loadu_si512(lanes);
  for (long n = n0; n < n1; n += kOut) {
    const long rows = n1 - n < kOut ? n1 - n : kOut;
    Vec sums[kOut];
    for (long r = 0; r < rows; r++) {
      sums[r] = Vec{};
      for (long p = 0; p < parts; p += kLanes) {
        const long g = p >> shift, first = (n + r) * groups + g;
        const __mmask16 valid = first_lanes(groups - g);
        const __m512 scale = some_scales(w.scales, w.scale_type, first, valid);
        const __m512 bias = some_scales(w.biases, w.scale_type, first, valid);
        store(factors + r * parts + p,
              (Vec)_mm512_permutexvar_ps(group_of, scale) * load(x.scales + p));
        sums[r] += (Vec)_mm512_permutexvar_ps(group_of, bias) * load(x.sums + p);
      }
    }
    if (rows == kOut) {
      vnni_rows_1_dots<kOut>(x, w, n, factors, sums, y, add);
      continue;
    }
    for (long r = 0; r < rows; r++)
      vnni_rows_1_dots<1>(x, w, n + r, factors + r * parts, sums + r, y, add);
  }
}

// y (w.rows,) = x (w.cols,) @ w^T, or += if add.
static void vnni_rows_1(const float* x, const Weight& w, float* y, bool add) {
  void* bytes = scratch(kPackedA, 8 * w.cols + 1024);
  to_bytes(x, w.cols, bytes);
  const RowOfBytes row = row_of_bytes_at(bytes, w.cols);
  parallel_outputs(w.rows, w.rows * w.cols,
                   [&](long n0, long n1) { vnni_rows_1_task(row, w, n0, n1, y, add); });
}

}  // namespace MINIALIGN_ISA
}  // namespace minialign

#endif
