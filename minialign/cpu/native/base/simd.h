// One float vector type for every instruction set, written with the compiler's vector
// extensions so that the same source becomes SSE2, AVX2, AVX-512 or NEON.
//
// Included only by kernels.cpp, which is compiled once per instruction set: everything here
// lives in a namespace of its own (MINIALIGN_ISA), and nothing from std:: is instantiated, so
// the linker can never pick an AVX-512 copy of a shared inline function for an older machine.
#pragma once

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define INLINE static inline __attribute__((always_inline))

#if defined(__AVX512F__) && defined(__AVX512BW__)
#define MINIALIGN_AVX512 1
#else
#define MINIALIGN_AVX512 0
#endif

namespace minialign {
namespace MINIALIGN_ISA {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
constexpr int kTileRows = 14;  // 14 x 2 accumulators + 2 operands of 32 registers
#elif defined(__AVX2__)
constexpr int kLanes = 8;
constexpr int kTileRows = 6;  // 6 x 2 accumulators + 3 operands of 16 registers
#elif defined(__aarch64__)
constexpr int kLanes = 4;
constexpr int kTileRows = 12;
#else
constexpr int kLanes = 4;
constexpr int kTileRows = 6;
#endif
constexpr int kTileCols = 2 * kLanes;

typedef float Vec __attribute__((vector_size(kLanes * 4)));
typedef int32_t IntVec __attribute__((vector_size(kLanes * 4)));
typedef uint32_t UintVec __attribute__((vector_size(kLanes * 4)));
// A Vec as it may lie in memory: at any address, with another type behind it.
typedef Vec VecU __attribute__((aligned(4), may_alias));

INLINE Vec load(const float* p) { return *(const VecU*)p; }
INLINE void store(float* p, Vec v) { *(VecU*)p = v; }
INLINE Vec broadcast(float x) { return x - Vec{}; }
INLINE Vec max(Vec a, Vec b) { return a > b ? a : b; }
INLINE Vec min(Vec a, Vec b) { return a < b ? a : b; }

// The first n values, the rest filled: for the ends of rows.
INLINE Vec load_part(const float* p, long n, float fill = 0.f) {
  float buffer[kLanes];
  for (int i = 0; i < kLanes; i++) buffer[i] = i < n ? p[i] : fill;
  return load(buffer);
}

INLINE void store_part(float* p, Vec v, long n) {
  float buffer[kLanes];
  store(buffer, v);
  for (int i = 0; i < kLanes && i < n; i++) p[i] = buffer[i];
}

INLINE float as_float(uint32_t bits) {
  float f;
  memcpy(&f, &bits, 4);
  return f;
}

// e^x to about one unit in the last place; 0 below -87.3, no infinity above 88.3, NaN for NaN (of a
// comparison with one the second operand is taken).
INLINE Vec exp(Vec x) {
  const Vec clamped = min(broadcast(88.37626f), max(broadcast(-87.33654f), x));
  const Vec magic = broadcast(12582912.f);  // 1.5 * 2^23: adding it rounds to an integer
  const Vec shifted = clamped * 1.44269504f + magic;
  const Vec n = shifted - magic;
  const Vec r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;  // ln 2 in two parts
  Vec p = broadcast(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.f;
  const IntVec power = ((IntVec)shifted - 0x4B400000 + 127) << 23;
  const Vec result = p * (Vec)power;
  return x < broadcast(-87.33654f) ? Vec{} : result;
}

// 1 / x to about one unit in the last place, for x of 1 and more; 0 where that is below 1e-38.
INLINE Vec reciprocal(Vec x) {
#if defined(__AVX512F__)
  const Vec r = (Vec)_mm512_rcp14_ps((__m512)x);
  return r * (2.f - x * r);
#else
  return 1.f / x;
#endif
}

template <int... I>
struct Lanes {};
template <int N, int... I>
struct MakeLanes : MakeLanes<N - 1, N - 1, I...> {};
template <int... I>
struct MakeLanes<0, I...> {
  typedef Lanes<I...> type;
};

// One butterfly of a transpose: swaps the lanes of a and b whose index has different bit S.
template <int S, int... I>
INLINE void butterfly(Vec& a, Vec& b, Lanes<I...>) {
  const Vec low = __builtin_shufflevector(a, b, ((I & S) ? kLanes + I - S : I)...);
  const Vec high = __builtin_shufflevector(a, b, ((I & S) ? kLanes + I : I + S)...);
  a = low;
  b = high;
}

template <int S>
INLINE void butterflies(Vec* rows) {
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; i++)
    if (!(i & S)) butterfly<S>(rows[i], rows[i | S], typename MakeLanes<kLanes>::type());
}

// Transposes a kLanes x kLanes square held in registers.
INLINE void transpose(Vec* rows) {
  butterflies<1>(rows);
  butterflies<2>(rows);
  if constexpr (kLanes > 4) butterflies<4>(rows);
  if constexpr (kLanes > 8) butterflies<8>(rows);
}

template <int S, int... I>
INLINE Vec swap_lanes(Vec v, Lanes<I...>) {
  return __builtin_shufflevector(v, v, (I ^ S)...);
}

// The sum of all lanes.
INLINE float sum(Vec v) {
  typedef typename MakeLanes<kLanes>::type All;
  if constexpr (kLanes > 8) v += swap_lanes<8 % kLanes>(v, All());
  if constexpr (kLanes > 4) v += swap_lanes<4 % kLanes>(v, All());
  v += swap_lanes<2>(v, All());
  v += swap_lanes<1>(v, All());
  return v[0];
}

template <int S>
INLINE void fold(Vec* v) {
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; i += 2 * S) {
    butterfly<S>(v[i], v[i + S], typename MakeLanes<kLanes>::type());
    v[i] += v[i + S];
  }
}

// The sum of all lanes, of each of n vectors.
INLINE void sum_each(const Vec* v, int n, float* out) {
#pragma GCC unroll 16
  for (int i = 0; i < n; i += kLanes) {
    Vec square[kLanes];
#pragma GCC unroll 16
    for (int j = 0; j < kLanes; j++) square[j] = i + j < n ? v[i + j] : Vec{};
    fold<1>(square);
    fold<2>(square);
    if constexpr (kLanes > 4) fold<4>(square);
    if constexpr (kLanes > 8) fold<8>(square);
    if (n - i >= kLanes)
      store(out + i, square[0]);
    else
      store_part(out + i, square[0], n - i);
  }
}

INLINE float max_lane(Vec v) {
  typedef typename MakeLanes<kLanes>::type All;
  if constexpr (kLanes > 8) v = max(v, swap_lanes<8 % kLanes>(v, All()));
  if constexpr (kLanes > 4) v = max(v, swap_lanes<4 % kLanes>(v, All()));
  v = max(v, swap_lanes<2>(v, All()));
  v = max(v, swap_lanes<1>(v, All()));
  return v[0];
}

// kLanes bytes as integers. Intrinsics: gcc takes a vector conversion apart into single bytes.
INLINE IntVec widen_bytes(const uint8_t* p) {
#if defined(__AVX512F__)
  return (IntVec)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p));
#elif defined(__AVX2__)
  return (IntVec)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p));
#elif defined(__x86_64__)
  int32_t bytes;
  memcpy(&bytes, p, 4);
  const __m128i zero = _mm_setzero_si128();
  return (IntVec)_mm_unpacklo_epi16(_mm_unpacklo_epi8(_mm_cvtsi32_si128(bytes), zero), zero);
#elif defined(__aarch64__)
  uint32_t bytes;
  memcpy(&bytes, p, 4);
  return (IntVec)vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(bytes))));
#else
  return IntVec{p[0], p[1], p[2], p[3]};
#endif
}

INLINE float half_to_float(uint16_t h) {
#if defined(__F16C__)
  return _cvtsh_ss(h);
#else
  const uint32_t sign = (uint32_t)(h & 0x8000) << 16;
  const uint32_t magnitude = (uint32_t)(h & 0x7fff) << 13;
  const float scaled = as_float(magnitude) * as_float(0x77800000);  // 2^112 fixes the exponent
  uint32_t bits;
  memcpy(&bits, &scaled, 4);
  return as_float(bits | sign);
#endif
}

}  // namespace MINIALIGN_ISA
}  // namespace minialign
