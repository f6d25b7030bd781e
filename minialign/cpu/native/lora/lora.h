// A linear layer with a low-rank addition: y = x @ w^T + scale * (x @ a) @ b.
//
// The low-rank part rides on the big products as `rank` more steps of their depth, so it costs no
// further pass over y or dx. The thin products are made of each strip of rows while it is packed
// for the big one and lies in the cache, so they cost no further pass over x or dy either.
#pragma once

#include "matmul/linear.h"

namespace minialign {
namespace MINIALIGN_ISA {

// A strip's columns [k, k + Ranks): scale * (its first k columns @ p), p (k, ...) with `stride`.
template <int Ranks>
INLINE void project_columns(float* strip, long k, const float* p, long stride, float scale,
                            float* out) {
  constexpr int kVectors = (kTileRows + kLanes - 1) / kLanes;
  Vec sums[Ranks][kVectors];
#pragma GCC unroll 8
  for (int r = 0; r < Ranks; r++)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; v++) sums[r][v] = Vec{};
  for (long i = 0; i < k; i++) {
    const float* column = strip + i * kTileRows;
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; v++) {
      const Vec rows = load(column + v * kLanes);
#pragma GCC unroll 8
      for (int r = 0; r < Ranks; r++) sums[r][v] += p[i * stride + r] * rows;
    }
  }
  // In rising order: each store overwrites the surplus lanes of the one before.
#pragma GCC unroll 8
  for (int r = 0; r < Ranks; r++)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; v++)
      store(out + r * kTileRows + v * kLanes, sums[r][v] * scale);
}

// sums (Ranks, n) += z (height, Ranks)^T @ rows (height, n); z transposed, `stride` between ranks.
template <int Ranks>
INLINE void add_outer(const float* z, long stride, const float* rows, long height, long n,
                      float* sums) {
  long j = 0;
  for (; j + kLanes <= n; j += kLanes) {
    Vec s[Ranks];
#pragma GCC unroll 8
    for (int r = 0; r < Ranks; r++) s[r] = load(sums + r * n + j);
    for (long i = 0; i < height; i++) {
      const Vec values = load(rows + i * n + j);
      __builtin_prefetch(rows + (i + height) * n + j, 0, 2);
#pragma GCC unroll 8
      for (int r = 0; r < Ranks; r++) s[r] += z[r * stride + i] * values;
    }
#pragma GCC unroll 8
    for (int r = 0; r < Ranks; r++) store(sums + r * n + j, s[r]);
  }
  for (; j < n; j++)
    for (int r = 0; r < Ranks; r++)
      for (long i = 0; i < height; i++) sums[r * n + j] += z[r * stride + i] * rows[i * n + j];
}

// All ranks in runs of eight, or of what is left: call(run as a constant), from rank `r` on.
constexpr int kMostRanks = kTileRows > 2 * kLanes ? 4 : 8;
#define FOR_RANKS(rank, call)                                                       \
  for (long r = 0; r < (rank);) {                                                   \
    const long left = (rank)-r;                                                     \
    if (kMostRanks == 8 && left >= 8) { call(kMostRanks); r += 8; }                 \
    else if (left >= 4) { call(4); r += 4; }                                        \
    else if (left >= 2) { call(2); r += 2; }                                        \
    else { call(1); r += 1; }                                                       \
  }

// Packs a strip of rows (height, k), and behind it scale * rows @ p, p (k, rank).
INLINE void pack_projected(const float* rows, long height, long k, const float* p, long rank,
                           float scale, float* strip) {
  pack_strip(rows, k, height, k, strip);
#define CALL(n) \
  project_columns<n>(strip, k, p + r, rank, scale, strip + (k + r) * kTileRows)
  FOR_RANKS(rank, CALL)
#undef CALL
}

INLINE void add_outers(const float* z, long stride, long rank, const float* rows, long height,
                       long n, float* sums) {
#define CALL(size) add_outer<size>(z + r * stride, stride, rows, height, n, sums + r * n)
  FOR_RANKS(rank, CALL)
#undef CALL
}

// For a few rows, read once: z (rank, m) = scale * (x @ a)^T, y += z^T @ b.
static void add_low_rank(const LoraArgs& l) {
  const long k = l.w->cols, n = l.w->rows;
  float z[256];
  for (long i = 0; i < l.m; i++) {
    for (long r0 = 0; r0 < l.rank; r0 += 256) {
      const long ranks = l.rank - r0 < 256 ? l.rank - r0 : 256;
      for (long r = 0; r < ranks; r++) z[r] = 0.f;
      for (long j = 0; j < k; j++) {
        const float x = l.x[i * k + j];
        const float* a = l.a + j * l.rank + r0;
        for (long r = 0; r < ranks; r++) z[r] += x * a[r];
      }
      for (long r = 0; r < ranks; r++) {
        z[r] *= l.scale;
        l.z[(r0 + r) * l.m + i] = z[r];
        const float* b = l.b + (r0 + r) * n;
        float* y = l.y + i * n;
        for (long j = 0; j < n; j++) y[j] += z[r] * b[j];
      }
    }
  }
}

#if MINIALIGN_AVX512
constexpr long kRanks = 4;  // ranks whose sums are in registers

// z (Rows, rank) = scale * rows (Rows, k) @ p^T, p (rank, k) filled up to whole kRanks with zeros.
template <int Rows>
INLINE void project_rows(const float* rows, long k, const float* p, long rank, float scale,
                         float* z) {
  for (long r = 0; r < rank; r += kRanks, p += kRanks * k) {
    Vec sums[Rows][kRanks];
#pragma GCC unroll 4
    for (int i = 0; i < Rows; i++)
#pragma GCC unroll 4
      for (int q = 0; q < kRanks; q++) sums[i][q] = Vec{};
    for (long j = 0; j < k; j += kLanes) {
      Vec factors[kRanks];
#pragma GCC unroll 4
      for (int q = 0; q < kRanks; q++) factors[q] = load(p + q * k + j);
#pragma GCC unroll 4
      for (int i = 0; i < Rows; i++) {
        const Vec values = load(rows + i * k + j);
#pragma GCC unroll 4
        for (int q = 0; q < kRanks; q++) sums[i][q] += values * factors[q];
      }
    }
    float totals[Rows][kRanks];
    sum_each(sums[0], Rows * kRanks, totals[0]);
    for (int i = 0; i < Rows; i++)
      for (long q = 0; q < kRanks && r + q < rank; q++)
        z[i * rank + r + q] = scale * totals[i][q];
  }
}

// What project_rows reads and writes for one of several layers.
struct Projection {
  const float* a;  // (ranks, k)
  float* z;        // (m, rank)
};

template <int Bits>
static void lora_vnni_rows(const LoraArgs* jobs, long count) {
  const LoraArgs& first = jobs[0];
  const long k = first.w->cols, m = first.m;
  VnniProduct products[kMostSiblings];
  Projection projections[kMostSiblings];
  auto filled_up = [](long rank) { return (rank + kRanks - 1) / kRanks * kRanks; };
  long room = 0;
  for (long j = 0; j < count; j++) room += m * jobs[j].rank + filled_up(jobs[j].rank) * k;
  float* at = (float*)scratch(kTaskC, room * 4);
  for (long j = 0; j < count; j++) {
    const LoraArgs& l = jobs[j];
    const long rank = l.rank, ranks = filled_up(rank);
    float *a = at, *z = at + ranks * k;
    memset(a + rank * k, 0, (ranks - rank) * k * 4);
    for (long i = 0; i < k; i++)
      for (long r = 0; r < rank; r++) a[r * k + i] = l.a[i * rank + r];
    projections[j] = {a, z};
    products[j] = {*l.w, l.y, {z, l.b, rank}};
    at = z + m * rank;
  }
  vnni_rows<Bits>(first.x, m, products, count, first.add, [&](long i0, long i1) {
    for (long j = 0; j < count; j++) {
      const LoraArgs& l = jobs[j];
      const auto [a, z] = projections[j];
      long i = i0;
      for (; i + 4 <= i1; i += 4)
        project_rows<4>(l.x + i * k, k, a, l.rank, l.scale, z + i * l.rank);
      for (; i < i1; i++) project_rows<1>(l.x + i * k, k, a, l.rank, l.scale, z + i * l.rank);
      for (i = i0; i < i1; i++)
        for (long r = 0; r < l.rank; r++) l.z[r * m + i] = z[i * l.rank + r];
    }
  });
}
#endif

template <int Bits>
static void lora_bits(const LoraArgs& l) {
  const Weight& w = *l.w;
  const Product product = product_for(l.m, Bits, Operation::lora);
#if MINIALIGN_AVX512
  if constexpr (Bits != 32)
    if (product == Product::vnni_rows) return lora_vnni_rows<Bits>(&l, 1);
#endif
  if (product != Product::gemm) {  // the rows are few, and the same product serves them there
    linear_bits<Bits>(l.x, l.m, w, l.y, l.add);
    add_low_rank(l);
    return;
  }
  const long k = w.cols, n = w.rows, depth = k + l.rank;
  const Weight b = dense_matrix(l.b, l.rank, n);
  for (long m0 = 0; m0 < l.m; m0 += kMaxRows) {
    const long rows = l.m - m0 < kMaxRows ? l.m - m0 : kMaxRows;
    const Strips strips(rows, depth);
    float* packed = (float*)scratch(kPackedA, strips.count * strips.stride * 4 + 256);
    parallel(strips.count, [&](long s) {
      const long first = m0 + s * strips.rows, height = strips.height(s, rows);
      float* strip = packed + s * strips.stride;
      pack_projected(l.x + first * k, height, k, l.a, l.rank, l.scale, strip);
      for (long r = 0; r < l.rank; r++)
        memcpy(l.z + r * l.m + first, strip + (k + r) * kTileRows, height * 4);
    });
    gemm_packed(packed, strips, rows, n, depth,
                Stacked<TransposedWeight<Bits>, StraightWeight<32>>{{w}, k, {b}}, l.y + m0 * n, n,
                l.add);
  }
}

static void lora(const LoraArgs* jobs, long count) {
#if MINIALIGN_AVX512
  const int bits = jobs[0].w->bits;
  bool joined = product_for(jobs[0].m, bits, Operation::lora) == Product::vnni_rows;
  for (long j = 1; j < count; j++) joined &= jobs[j].w->bits == bits;
  if (joined && bits == 4) return lora_vnni_rows<4>(jobs, count);
  if (joined && bits == 8) return lora_vnni_rows<8>(jobs, count);
#endif
  for (long j = 0; j < count; j++) {
    switch (jobs[j].w->bits) {
      case 4: lora_bits<4>(jobs[j]); break;
      case 8: lora_bits<8>(jobs[j]); break;
      default: lora_bits<32>(jobs[j]);
    }
  }
}

template <int Bits>
static void lora_dx(const LoraArgs& l, const float* packed, const Strips& strips, long m0,
                    long rows) {
  const Weight& w = *l.w;
  const Weight a = dense_matrix(l.a, w.cols, l.rank);
  gemm_packed(packed, strips, rows, w.cols, w.rows + l.rank,
              Stacked<StraightWeight<Bits>, TransposedWeight<32>>{{w}, w.rows, {a}},
              l.dx + m0 * w.cols, w.cols, l.add);
}

// dz = scale * dy @ b^T; dx = dy @ w + dz @ a^T; da = x^T @ dz; db = z^T @ dy.
static void lora_grad_one(const LoraArgs& l) {
  const Weight& w = *l.w;
  const long n = w.rows, k = w.cols, rank = l.rank;
  // Sums of da^T and db, one for every few strips whichever thread takes them: the same numbers
  // come out in every run.
  constexpr long kSums = 8;
  const long each = rank * (n + k);
  float* sums = (float*)scratch(kTaskD, (kSums * each + n * rank) * 4 + 256);
  float* b_transposed = sums + kSums * each;
  memset(sums, 0, kSums * each * 4);
  for (long r = 0; r < rank; r++)
    for (long j = 0; j < n; j++) b_transposed[j * rank + r] = l.b[r * n + j];
  for (long m0 = 0; m0 < l.m; m0 += kMaxRows) {
    const long rows = l.m - m0 < kMaxRows ? l.m - m0 : kMaxRows;
    const Strips strips(rows, n + rank);
    float* packed = (float*)scratch(kPackedA, strips.count * strips.stride * 4 + 256);
    parallel(kSums, [&](long c) {
      float *db = sums + c * each, *da = db + rank * n;
      for (long s = strips.count * c / kSums; s < strips.count * (c + 1) / kSums; s++) {
        const long first = m0 + s * strips.rows, height = strips.height(s, rows);
        const float* dy = l.dy + first * n;
        float* strip = packed + s * strips.stride;
        pack_projected(dy, height, n, b_transposed, rank, l.scale, strip);
        add_outers(l.z + first, l.m, rank, dy, height, n, db);
        add_outers(strip + n * kTileRows, kTileRows, rank, l.x + first * k, height, k, da);
      }
    });
    if (!l.dx) continue;
    switch (w.bits) {
      case 4: lora_dx<4>(l, packed, strips, m0, rows); break;
      case 8: lora_dx<8>(l, packed, strips, m0, rows); break;
      default: lora_dx<32>(l, packed, strips, m0, rows);
    }
  }
  for (long c = 1; c < kSums; c++)
    for (long i = 0; i < each; i++) sums[i] += sums[c * each + i];
  memcpy(l.db, sums, rank * n * 4);
  const float* da = sums + rank * n;
  for (long j = 0; j < k; j++)
    for (long r = 0; r < rank; r++) l.da[j * rank + r] = da[r * k + j];
}

static void lora_grad(const LoraArgs* jobs, long count) {
  for (long j = 0; j < count; j++) lora_grad_one(jobs[j]);
}

}  // namespace MINIALIGN_ISA
}  // namespace minialign
