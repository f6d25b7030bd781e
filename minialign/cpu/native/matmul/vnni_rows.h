// y = x @ w^T for several rows of x and a 4- or 8-bit w with products of bytes (AVX-512 VNNI), as
// exact as floats are, see vnni_rows_1.h. A row's result does not depend on the other rows.
//
// Here the lanes are outputs: 32 rows of w at a time, of which a few columns become vectors of four
// weights each for 16 outputs, and four bytes of x at a time are broadcast.
#pragma once

#include "matmul/vnni_rows_1.h"

#if MINIALIGN_AVX512

namespace minialign {
namespace MINIALIGN_ISA {

constexpr long kOutputs = 2 * kLanes;  // rows of w at a time
constexpr long kTogether = 8;          // rows of x whose sums are in registers
constexpr long kRowBlock = 128;        // rows of x that lie together: their bytes stay in L2

// Rows of x as bytes. A row's `part` columns have one scale: for four columns each there are c, b,
// a and 4 bytes more, of which the first are the part's scale and the second its sum. Parts lie as
// [part][row], and take as many bytes as the floats.
struct ByteParts {
  void* at;
  long part;  // kPart, or kWidePart where the weights' groups are multiples of it: fewer scales
};
constexpr long kWidePart = 64;
constexpr long kScaleAt = 12, kSumAt = 28;

// Of one weight, or of several that read the same rows, one after the other.
INLINE long part_of(const Weight& w, long others = kWidePart) {
  return w.bits < 32 && w.group % kWidePart ? kPart : others;
}

INLINE float float_at(const uint8_t* at) {
  float value;
  memcpy(&value, at, 4);
  return value;
}

template <int Bits, long Part>
static void rows_to_parts(const float* x, long m, long ldx, long i0, long i1, long k0, long k1,
                          void* out) {
  constexpr int kVectors = Part / kLanes;
  const __m512i order =
      Bits == 4 ? _mm512_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15)
                : _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i by_plane = _mm512_broadcast_i32x4(
      _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  const __m512i offset = _mm512_set1_epi32(0x808080);
  const long parts = k1 / Part;
  for (long first_row = i0; first_row < i1; first_row += kTogether)
    for (long p0 = k0 / Part; p0 < parts; p0 += 4)
      for (long i = first_row; i < first_row + kTogether && i < i1; i++) {
        const long left = parts - p0 < 4 ? parts - p0 : 4;
        const float* from = x + i * ldx + p0 * Part;
        Vec sizes[4], totals[4];
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
          const float* part = from + (j < left ? j : 0) * Part;
          sizes[j] = totals[j] = Vec{};
#pragma GCC unroll 4
          for (int v = 0; v < kVectors; v++)
            sizes[j] = (Vec)larger_size((__m512)sizes[j],
                                        _mm512_abs_ps(_mm512_loadu_ps(part + v * kLanes)));
        }
        // With 4 bits a part's products must add up to less than 2^31, and 15 * 1.408e8 is; with 8
        // bits the last bytes are added up apart, and three bytes hold 8e6.
        const float largest = Bits == 4 ? 1.408e8f / Part : 8e6f;
        const __m128 scale = four_largest_sizes(sizes) * _mm_set1_ps(1.f / largest);
        const __mmask8 some = _mm_cmp_ps_mask(scale, _mm_set1_ps(1e-37f), _CMP_GT_OQ);
        float scales[4], inverses[4], sums[4];
        _mm_storeu_ps(scales, scale);
        _mm_storeu_ps(inverses, _mm_maskz_div_ps(some, _mm_set1_ps(1.f), scale));
        uint8_t* bytes = (uint8_t*)out + (p0 * m + i) * 4 * Part;
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
          if (j >= left) continue;
          const Vec inverse = broadcast(inverses[j]);
#pragma GCC unroll 4
          for (int v = 0; v < kVectors; v++) {
            // The bytes of x + 128 * (65536 + 256 + 1) are a + 128, b + 128, c + 128.
            const Vec scaled = load(from + j * Part + v * kLanes) * inverse;
            __m512i q = _mm512_cvtps_epi32((__m512)scaled);
            totals[j] += (Vec)_mm512_cvtepi32_ps(q);
            q = _mm512_xor_si512(_mm512_add_epi32(q, offset), offset);
            q = _mm512_shuffle_epi8(_mm512_permutexvar_epi32(order, q), by_plane);
            _mm512_storeu_si512(bytes + j * m * 4 * Part + v * 64, q);
          }
        }
        // The sums of what the bytes are, not of x: that halves what rounding does to the result.
        _mm_storeu_ps(sums, four_sums(totals) * scale);
        for (int j = 0; j < left; j++) {
          memcpy(bytes + j * m * 4 * Part + kScaleAt, &scales[j], 4);
          memcpy(bytes + j * m * 4 * Part + kSumAt, &sums[j], 4);
        }
      }
}

// Rows [i0, i1), columns [k0, k1) (multiples of out.part) of x (m, ...) in that form. Four columns
// are those of a vector of weights: of a word of 4-bit weights the even ones, then the odd ones.
template <int Bits>
static void rows_to_bytes(const float* x, long m, long ldx, long i0, long i1, long k0, long k1,
                          ByteParts out) {
  if (out.part == kWidePart)
    rows_to_parts<Bits, kWidePart>(x, m, ldx, i0, i1, k0, k1, out.at);
  else
    rows_to_parts<Bits, kPart>(x, m, ldx, i0, i1, k0, k1, out.at);
}

// Part columns of kOutputs rows of w from `first` on, `bytes` apart, as [four columns][row][4].
template <int Bits, long Part>
INLINE void weights_of_part(const uint8_t* first, long bytes, uint8_t* to) {
  constexpr int kWords = 8 / Bits;  // vectors of weights in one of words
  const __m512i low_bits = _mm512_set1_epi8(15);
#pragma GCC unroll 2
  for (int half = 0; half < 2; half++)
#pragma GCC unroll 4
    for (int quarter = 0; quarter < Part * Bits / 128; quarter++) {
      const uint8_t* here = first + half * kLanes * bytes + quarter * 16;
      auto words = [=](long r) { return _mm_loadu_si128((const __m128i*)(here + r * bytes)); };
      __m512i rows[4], word[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; i++) {
        rows[i] = _mm512_castsi128_si512(words(i));
        rows[i] = _mm512_inserti32x4(rows[i], words(4 + i), 1);
        rows[i] = _mm512_inserti32x4(rows[i], words(8 + i), 2);
        rows[i] = _mm512_inserti32x4(rows[i], words(12 + i), 3);
      }
      const __m512i a = _mm512_unpacklo_epi32(rows[0], rows[1]);
      const __m512i b = _mm512_unpackhi_epi32(rows[0], rows[1]);
      const __m512i c = _mm512_unpacklo_epi32(rows[2], rows[3]);
      const __m512i d = _mm512_unpackhi_epi32(rows[2], rows[3]);
      word[0] = _mm512_unpacklo_epi64(a, c);
      word[1] = _mm512_unpackhi_epi64(a, c);
      word[2] = _mm512_unpacklo_epi64(b, d);
      word[3] = _mm512_unpackhi_epi64(b, d);
      uint8_t* out = to + half * kLanes * 4 + quarter * 4 * kWords * kOutputs * 4;
#pragma GCC unroll 4
      for (int i = 0; i < 4; i++) {
        if constexpr (Bits == 8) {
          _mm512_store_si512(out + i * kOutputs * 4, word[i]);
          continue;
        }
        _mm512_store_si512(out + 2 * i * kOutputs * 4, _mm512_and_si512(word[i], low_bits));
        _mm512_store_si512(out + (2 * i + 1) * kOutputs * 4,
                           _mm512_and_si512(_mm512_srli_epi32(word[i], 4), low_bits));
      }
    }
}

// One part of the columns: adds x's rows [0, Rows) @ w^T to sums (Rows, kOutputs).
// `weights` is [four columns][kOutputs][4].
template <int Bits, long Part, int Rows>
WITH_VNNI static inline void vnni_rows_tile(const uint8_t* x, const uint8_t* weights,
                                            const Vec* scales, const Vec* biases, float* sums) {
  __m512i dots[Rows][2], high[Rows][2];
#pragma GCC unroll 8
  for (int r = 0; r < Rows; r++) dots[r][0] = dots[r][1] = _mm512_setzero_si512();
#pragma GCC unroll 3
  for (int plane = 0; plane < 3; plane++) {
    asm volatile("" : "+r"(weights));  // else gcc keeps weights of one plane for the next: too many
    if (plane == 1 || (plane == 2 && Bits == 4))
#pragma GCC unroll 8
      for (int r = 0; r < Rows; r++)
        for (int b = 0; b < 2; b++) dots[r][b] = _mm512_slli_epi32(dots[r][b], 8);
    if (plane == 2 && Bits == 8)  // the sums would not fit: the last bytes' apart
#pragma GCC unroll 8
      for (int r = 0; r < Rows; r++)
        for (int b = 0; b < 2; b++) {
          high[r][b] = dots[r][b];
          dots[r][b] = _mm512_setzero_si512();
        }
#pragma GCC unroll 16
    for (long q = 0; q < Part / 4; q++) {
      const __m512i w0 = _mm512_load_si512(weights + q * kOutputs * 4);
      const __m512i w1 = _mm512_load_si512(weights + q * kOutputs * 4 + 64);
#pragma GCC unroll 8
      for (int r = 0; r < Rows; r++) {
        int32_t four;
        memcpy(&four, x + r * 4 * Part + q * 16 + (2 - plane) * 4, 4);
        const __m512i values = _mm512_set1_epi32(four);
        dots[r][0] = _mm512_dpbusd_epi32(dots[r][0], w0, values);
        dots[r][1] = _mm512_dpbusd_epi32(dots[r][1], w1, values);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < Rows; r++)
    for (int b = 0; b < 2; b++) {
      Vec dot = (Vec)_mm512_cvtepi32_ps(dots[r][b]);
      if constexpr (Bits == 8) dot += (Vec)_mm512_cvtepi32_ps(high[r][b]) * 256.f;
      float* to = sums + r * kOutputs + b * kLanes;
      const float scale = float_at(x + r * 4 * Part + kScaleAt);
      store(to, load(to) + dot * (scales[b] * scale) +
                    biases[b] * float_at(x + r * 4 * Part + kSumAt));
    }
}

template <int Bits, long Part, int Rows>
WITH_VNNI static void vnni_rows_tiles(long rows, const uint8_t* x, const uint8_t* weights,
                                      const Vec* scales, const Vec* biases, float* sums) {
  if constexpr (Rows > 0) {
    if (rows == Rows)
      vnni_rows_tile<Bits, Part, Rows>(x, weights, scales, biases, sums);
    else
      vnni_rows_tiles<Bits, Part, Rows - 1>(rows, x, weights, scales, biases, sums);
  }
}

// The scales or biases of kOutputs rows, `groups` each, as [group][kOutputs] float32.
INLINE void scales_of_rows(const void* source, ScaleType type, long groups, float* out) {
  if (type == ScaleType::float32) {
    Vec square[kLanes];
    for (long b = 0; b < kOutputs; b += kLanes)
      for (long g = 0; g < groups; g += kLanes) {
#pragma GCC unroll 16
        for (int r = 0; r < kLanes; r++)
          square[r] = (Vec)some_scales(source, type, (b + r) * groups + g, first_lanes(groups - g));
        transpose(square);
        for (int i = 0; i < kLanes && g + i < groups; i++)
          store(out + (g + i) * kOutputs + b, square[i]);
      }
    return;
  }
  // Of 16 bits: eight groups at a time, those of row r in a quarter of vector r % 8. The last eight
  // may begin among those before.
  const __mmask8 there = groups < 8 ? (1 << groups) - 1 : 255;
  for (long done = 0; done < groups; done += 8) {
    const long g = groups - done >= 8 || groups < 8 ? done : groups - 8;
    const uint16_t* here = (const uint16_t*)source + g;
    __m512i rows[8], pairs[8], fours[8], all[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
      auto eight = [=](long r) {
        return groups < 8 ? _mm_maskz_loadu_epi16(there, here + r * groups)
                          : _mm_loadu_si128((const __m128i*)(here + r * groups));
      };
      rows[i] = _mm512_castsi128_si512(eight(i));
      rows[i] = _mm512_inserti32x4(rows[i], eight(8 + i), 1);
      rows[i] = _mm512_inserti32x4(rows[i], eight(16 + i), 2);
      rows[i] = _mm512_inserti32x4(rows[i], eight(24 + i), 3);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {  // of rows 2i, 2i + 1: groups 0 to 3, 4 to 7
      pairs[i] = _mm512_unpacklo_epi16(rows[2 * i], rows[2 * i + 1]);
      pairs[4 + i] = _mm512_unpackhi_epi16(rows[2 * i], rows[2 * i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {  // of four rows: two groups, the two after them
      fours[2 * i] = _mm512_unpacklo_epi32(pairs[2 * i], pairs[2 * i + 1]);
      fours[2 * i + 1] = _mm512_unpackhi_epi32(pairs[2 * i], pairs[2 * i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
      const int first = i / 2 * 4 + i % 2;
      all[2 * i] = _mm512_unpacklo_epi64(fours[first], fours[first + 2]);
      all[2 * i + 1] = _mm512_unpackhi_epi64(fours[first], fours[first + 2]);
    }
    for (int i = 0; i < 8 && g + i < groups; i++) {
      float* to = out + (g + i) * kOutputs;
      store(to, (Vec)wide_scales(_mm512_castsi512_si256(all[i]), type));
      store(to + kLanes, (Vec)wide_scales(_mm512_extracti64x4_epi64(all[i], 1), type));
    }
  }
}

// What a low-rank addition gives: z (m, rank) @ b (rank, outputs).
struct LowRank {
  const float *z, *b;
  long rank;
};

// Adds z (Rows, rank) @ b to sums (Rows, kOutputs), for kOutputs outputs of b from `b` on.
template <int Rows>
INLINE void low_rank_tile(const float* z, long rank, const float* b, long ldb, __mmask16 first,
                          __mmask16 second, float* sums) {
  Vec s[Rows][2];
#pragma GCC unroll 8
  for (int i = 0; i < Rows; i++)
    for (int h = 0; h < 2; h++) s[i][h] = load(sums + i * kOutputs + h * kLanes);
  for (long r = 0; r < rank; r++, b += ldb) {
    const Vec b0 = (Vec)_mm512_maskz_loadu_ps(first, b);
    const Vec b1 = (Vec)_mm512_maskz_loadu_ps(second, b + kLanes);
#pragma GCC unroll 8
    for (int i = 0; i < Rows; i++) {
      s[i][0] += z[i * rank + r] * b0;
      s[i][1] += z[i * rank + r] * b1;
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < Rows; i++)
    for (int h = 0; h < 2; h++) store(sums + i * kOutputs + h * kLanes, s[i][h]);
}

// sums (m, kOutputs) with their low-rank addition to outputs [n, n1) of y.
static void put_sums(long m, long n, long n1, LowRank low, long ldb, float* sums, float* y,
                     long ldy, bool add) {
  if (low.rank) {
    const __mmask16 first = first_lanes(n1 - n);
    const __mmask16 second = n1 - n > kLanes ? first_lanes(n1 - n - kLanes) : 0;
    long i = 0;
    for (; i + 8 <= m; i += 8)
      low_rank_tile<8>(low.z + i * low.rank, low.rank, low.b + n, ldb, first, second,
                       sums + i * kOutputs);
    for (; i < m; i++)
      low_rank_tile<1>(low.z + i * low.rank, low.rank, low.b + n, ldb, first, second,
                       sums + i * kOutputs);
  }
  for (long i = 0; i < m; i++)
    for (long b = 0; b < 2 && n + b * kLanes < n1; b++) {
      const long at = n + b * kLanes;
      float* to = y + i * ldy + at;
      const __mmask16 mask = first_lanes(n1 - at);
      Vec out = load(sums + i * kOutputs + b * kLanes);
      if (add) out += (Vec)_mm512_maskz_loadu_ps(mask, to);
      _mm512_mask_storeu_ps(to, mask, (__m512)out);
    }
}

// Where rows of w are, and how many bytes each takes: its words, scales, biases.
struct RowsAt {
  const uint8_t* of[3];
  long bytes[3];
};

INLINE RowsAt rows_at(const Weight& w, long n) {
  const long scale_bytes = w.cols / w.group * (w.scale_type == ScaleType::float32 ? 4 : 2);
  return {{row(w, n), (const uint8_t*)w.scales + n * scale_bytes,
           (const uint8_t*)w.biases + n * scale_bytes},
          {row_bytes(w), scale_bytes, scale_bytes}};
}

// `count` < kOutputs of them in `room`, with the last one again up to kOutputs.
static RowsAt padded(RowsAt rows, long count, uint8_t* room) {
  for (int i = 0; i < 3; i++) {
    const uint8_t* from = rows.of[i];
    rows.of[i] = room;
    for (long r = 0; r < kOutputs; r++, room += rows.bytes[i])
      memcpy(room, from + (r < count ? r : count - 1) * rows.bytes[i], rows.bytes[i]);
  }
  return rows;
}

template <int Bits, long Part>
WITH_VNNI static void vnni_rows_parts(const void* x, long m, const Weight& w, long n0,
                                          long n1, long next, float* y, long ldy, bool add,
                                          LowRank low) {
  const long groups = w.cols / w.group, parts_a_group = w.group / Part, parts = w.cols / Part;
  const long tiles = (m + kTogether - 1) / kTogether, together = (m + tiles - 1) / tiles;
  const auto [bytes, scale_bytes, bias_bytes] = rows_at(w, n0).bytes;
  const long share = kOutputs * scale_bytes / parts;
  const bool odd = (n1 - n0) % kOutputs;
  float* scales = (float*)scratch(
      kTaskA, kOutputs * (8 * groups + (odd ? bytes + scale_bytes + bias_bytes : 0)));
  float* biases = scales + groups * kOutputs;
  alignas(64) uint8_t weights[Part * kOutputs];
  alignas(64) float sums[kRowBlock * kOutputs];
  for (long n = n0; n < n1; n += kOutputs) {
    RowsAt here = rows_at(w, n);
    if (n1 - n < kOutputs)
      here = padded(here, n1 - n, (uint8_t*)(biases + groups * kOutputs));
    const RowsAt next_rows = rows_at(w, n + kOutputs < n1 ? n + kOutputs : next);
    memset(sums, 0, m * kOutputs * 4);
    scales_of_rows(here.of[1], w.scale_type, groups, scales);
    scales_of_rows(here.of[2], w.scale_type, groups, biases);
    for (long p = 0; p < parts; p++) {
      weights_of_part<Bits, Part>(here.of[0] + p * Part * Bits / 8, bytes, weights);
      // What comes next is asked for a little with each tile: rows and scales are too short to be
      // foreseen, and many requests at once would wait for each other. It comes to L2, and to L1
      // when it is only 64 bytes of a row away (the line that their end is in: the other is here).
      constexpr long kParts = 512 / Bits / Part;  // in 64 bytes
      const long asks = (kOutputs + kParts * tiles - 1) / (kParts * tiles);
      const long first = p % kParts * tiles * asks * bytes, k = p / kParts * 64;
      const uint8_t* far = next_rows.of[0] + first + k;
      const uint8_t* near = (k + 64 < bytes ? here.of[0] + k + 64 : next_rows.of[0]) + first + 63;
      for (long at = p * share; at < (p + 1) * share; at += 64)
        for (int i = 1; i < 3; i++) __builtin_prefetch(next_rows.of[i] + at, 0, 2);
      for (long r = p; r < low.rank; r += parts)
        for (long b = 0; b < kOutputs; b += kLanes)
          __builtin_prefetch(low.b + r * w.rows + n + b, 0, 3);
      const long g = p / parts_a_group * kOutputs;
      const Vec scale[2] = {load(scales + g), load(scales + g + kLanes)};
      const Vec bias[2] = {load(biases + g), load(biases + g + kLanes)};
      for (long i = 0; i < m; i += together) {
        // What is written in the end, in many pages: a few rows at a time.
        if (p == i / together % parts)
          for (long r = i; r < i + together && r < m; r++) {
            __builtin_prefetch(y + r * ldy + n, 1);
            __builtin_prefetch(y + r * ldy + n + kLanes, 1);
          }
        for (long r = 0; r < asks; r++, far += bytes, near += bytes) {
          __builtin_prefetch(far, 0, 2);
          __builtin_prefetch(near, 0, 3);
        }
        vnni_rows_tiles<Bits, Part, kTogether>(m - i < together ? m - i : together,
                                               (const uint8_t*)x + (p * m + i) * 4 * Part, weights,
                                               scale, bias, sums + i * kOutputs);
      }
    }
    put_sums(m, n, n1, low, w.rows, sums, y, ldy, add);
  }
}

// Outputs [n0, n1) for the m <= kRowBlock rows in `x`; this thread will probably go on with
// those from `next` on.
template <int Bits>
static void vnni_rows_block(ByteParts x, long m, const Weight& w, long n0, long n1, long next,
                            float* y, long ldy, bool add, LowRank low) {
  if (x.part == kWidePart)
    vnni_rows_parts<Bits, kWidePart>(x.at, m, w, n0, n1, next, y, ldy, add, low);
  else
    vnni_rows_parts<Bits, kPart>(x.at, m, w, n0, n1, next, y, ldy, add, low);
}

// Rows of any number, in blocks of equal height that each have their own room.
struct RowBlocks {
  long m, cols, count, height;
  RowBlocks(long m, long cols) : m(m), cols(cols) {
    count = (m + kRowBlock - 1) / kRowBlock;
    height = ((m + count - 1) / count + kTogether - 1) / kTogether * kTogether;
    count = (m + height - 1) / height;
  }
  long first(long block) const { return block * height; }
  long rows(long block) const { return m - first(block) < height ? m - first(block) : height; }
  ByteParts at(ByteParts all, long block) const {
    return {(float*)all.at + first(block) * cols, all.part};
  }
};

// y (m, w.rows) = x (m, w.cols) @ w^T + low.
struct VnniProduct {
  Weight w;
  float* y;
  LowRank low;
};

// Several of these of one x; `with_rows(i0, i1)` runs once for every row, to make their low.z.
template <int Bits, class WithRows>
static void vnni_rows(const float* x, long m, const VnniProduct* products, long count,
                      bool add, const WithRows& with_rows) {
  constexpr long kAtOnce = 8 * kRowBlock;  // rows whose bytes are held
  const long cols = products[0].w.cols;
  long outputs = 0, part = kWidePart;
  for (long j = 0; j < count; j++) {
    outputs += products[j].w.rows;
    part = part_of(products[j].w, part);
  }
  for (long m0 = 0; m0 < m; m0 += kAtOnce) {
    const RowBlocks blocks(m - m0 < kAtOnce ? m - m0 : kAtOnce, cols);
    const ByteParts bytes = {scratch(kPackedA, blocks.m * cols * 4), part};
    const long pieces = m < 64 ? 1 : 4;
    parallel(blocks.count * pieces, [&](long c) {
      const long block = c / pieces, rows = blocks.rows(block), from = m0 + blocks.first(block);
      const long i0 = rows * (c % pieces) / pieces, i1 = rows * (c % pieces + 1) / pieces;
      rows_to_bytes<Bits>(x + from * cols, rows, cols, i0, i1, 0, cols, blocks.at(bytes, block));
      with_rows(from + i0, from + i1);
    });
    const long wanted = (6 * thread_count() + blocks.count - 1) / blocks.count;
    const long step = ((outputs + wanted - 1) / wanted + kOutputs - 1) / kOutputs * kOutputs;
    long tasks = 0;
    for (long j = 0; j < count; j++) tasks += (products[j].w.rows + step - 1) / step;
    parallel(blocks.count * tasks, [&](long t) {
      const long block = t / tasks, from = m0 + blocks.first(block);
      const VnniProduct* p = products;
      long n0 = t % tasks * step;
      for (; n0 >= p->w.rows; p++) n0 -= (p->w.rows + step - 1) / step * step;
      LowRank low = p->low;
      if (low.rank) low.z += from * low.rank;
      vnni_rows_block<Bits>(blocks.at(bytes, block), blocks.rows(block), p->w, n0,
                            n0 + step < p->w.rows ? n0 + step : p->w.rows, n0 + step,
                            p->y + from * p->w.rows, p->w.rows, add, low);
    });
  }
}

}  // namespace MINIALIGN_ISA
}  // namespace minialign

#endif
