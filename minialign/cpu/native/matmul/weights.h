// Reading rows of a Weight as float vectors, decoded in registers.
#pragma once

#include "base/kernels.h"
#include "base/simd.h"

namespace minialign {
namespace MINIALIGN_ISA {

// Scales or biases [first, first + n) of a weight as float32.
INLINE void convert_scales(const void* source, ScaleType type, long first, long n, float* out) {
  if (type == ScaleType::float32) {
    memcpy(out, (const float*)source + first, n * 4);
    return;
  }
  const uint16_t* in = (const uint16_t*)source + first;
  if (type == ScaleType::bfloat16) {
    for (long i = 0; i < n; i++) out[i] = as_float((uint32_t)in[i] << 16);
    return;
  }
  long i = 0;
#if defined(__F16C__)
  for (; i + 8 <= n; i += 8)
    _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(in + i))));
#endif
  for (; i < n; i++) out[i] = half_to_float(in[i]);
}

INLINE float scale_at(const void* source, ScaleType type, long i) {
  if (type == ScaleType::float16) return half_to_float(((const uint16_t*)source)[i]);
  if (type == ScaleType::bfloat16) return as_float((uint32_t)((const uint16_t*)source)[i] << 16);
  return ((const float*)source)[i];
}

INLINE Weight dense_matrix(const float* values, long rows, long cols) {
  Weight w{};
  w.words = values;
  w.rows = rows;
  w.cols = cols;
  w.bits = 32;
  return w;
}

INLINE long row_bytes(const Weight& w) { return w.cols * w.bits / 8; }
INLINE const uint8_t* row(const Weight& w, long r) {
  return (const uint8_t*)w.words + r * row_bytes(w);
}

// Columns [k, k + kLanes) of a row, in order; k is a multiple of kLanes.
template <int Bits>
INLINE Vec decode(const uint8_t* row, long k, float scale, float bias) {
  if constexpr (Bits == 32) {
    return load((const float*)row + k);
  } else if constexpr (Bits == 8) {
    return __builtin_convertvector(widen_bytes(row + k), Vec) * scale + bias;
  } else {
    uint32_t w[2];
    IntVec q;
    if constexpr (kLanes == 16) {
      memcpy(w, row + k / 2, 8);
      const IntVec first_half = {-1, -1, -1, -1, -1, -1, -1, -1};
      const UintVec words = first_half ? UintVec{} + w[0] : UintVec{} + w[1];
      const UintVec shifts = {0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28};
      q = (IntVec)((words >> shifts) & 15u);
    } else if constexpr (kLanes == 8) {
      memcpy(w, row + k / 2, 4);
      const UintVec shifts = {0, 4, 8, 12, 16, 20, 24, 28};
      q = (IntVec)(((UintVec{} + w[0]) >> shifts) & 15u);
    } else {
      uint16_t h;
      memcpy(&h, row + k / 2, 2);
      q = IntVec{h & 15, (h >> 4) & 15, (h >> 8) & 15, h >> 12};
    }
    return __builtin_convertvector(q, Vec) * scale + bias;
  }
}

// Row r, all columns, into out.
template <int Bits>
INLINE void decode_row(const Weight& w, long r, float* out) {
  const uint8_t* source = row(w, r);
  if constexpr (Bits == 32) {
    memcpy(out, source, w.cols * 4);
  } else {
    const long groups = w.cols / w.group;
    for (long g = 0; g < groups; g++) {
      const float scale = scale_at(w.scales, w.scale_type, r * groups + g);
      const float bias = scale_at(w.biases, w.scale_type, r * groups + g);
      for (long k = g * w.group; k < (g + 1) * w.group; k += kLanes)
        store(out + k, decode<Bits>(source, k, scale, bias));
    }
  }
}

}  // namespace MINIALIGN_ISA
}  // namespace minialign
