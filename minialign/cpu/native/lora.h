// A linear layer with a low-rank addition: y = x @ w^T + scale * (x @ a) @ b.
//
// The low-rank part rides on the big products as `rank` more steps of their depth, so it costs no
// further pass over y or dx. The thin products are computed transposed, (rank, ...), which fills
// whole tiles.
#pragma once

#include "few_rows.h"
#include "gemm.h"

namespace minialign {
namespace MINIALIGN_ISA {

INLINE Weight dense_matrix(const float* values, long rows, long cols) {
  Weight w{};
  w.words = values;
  w.rows = rows;
  w.cols = cols;
  w.bits = 32;
  return w;
}

// z (rank, m) = scale * (x @ a)^T
INLINE void project(const LoraArgs& l) {
  const Weight x = dense_matrix(l.x, l.m, l.w->cols);
  gemm(ColumnsOf{l.a, l.rank, x.cols}, l.rank, l.m, x.cols, TransposedWeight<32>{x}, l.z, l.m,
       false);
  for (long i = 0; i < l.rank * l.m; i++) l.z[i] *= l.scale;
}

// The same for a few rows, read once: y += z @ b.
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

template <int Bits>
static void lora_bits(const LoraArgs& l) {
  const Weight& w = *l.w;
  if (l.m <= kFewRows) {
    few_rows<Bits>(l.x, l.m, w.cols, w, l.y, w.rows, l.add);
    add_low_rank(l);
    return;
  }
  project(l);
  const Weight b = dense_matrix(l.b, l.rank, w.rows);
  gemm(SideBySide<RowsOf, ColumnsOf>{{l.x, w.cols, w.cols}, {l.z, l.m, l.rank}}, l.m, w.rows,
       w.cols + l.rank,
       Stacked<TransposedWeight<Bits>, StraightWeight<32>>{{w}, w.cols, {b}}, l.y, w.rows, l.add);
}

static void lora(const LoraArgs& l) {
  switch (l.w->bits) {
    case 4: return lora_bits<4>(l);
    case 8: return lora_bits<8>(l);
    default: return lora_bits<32>(l);
  }
}

template <int Bits>
static void lora_dx(const LoraArgs& l, const float* dz) {
  const Weight& w = *l.w;
  const Weight a = dense_matrix(l.a, w.cols, l.rank);
  gemm(SideBySide<RowsOf, ColumnsOf>{{l.dy, w.rows, w.rows}, {dz, l.m, l.rank}}, l.m, w.cols,
       w.rows + l.rank,
       Stacked<StraightWeight<Bits>, TransposedWeight<32>>{{w}, w.rows, {a}}, l.dx, w.cols, false);
}

// dz = scale * dy @ b^T; dx = dy @ w + dz @ a^T; da = x^T @ dz; db = z^T @ dy.
static void lora_grad(const LoraArgs& l) {
  const Weight& w = *l.w;
  const long n = w.rows, k = w.cols, rank = l.rank;
  float* dz = (float*)scratch(kTaskC, (rank * l.m + rank * k) * 4);
  float* da = dz + rank * l.m;
  const Weight dy = dense_matrix(l.dy, l.m, n), x = dense_matrix(l.x, l.m, k);
  gemm(RowsOf{l.b, n, n}, rank, l.m, n, TransposedWeight<32>{dy}, dz, l.m, false);
  for (long i = 0; i < rank * l.m; i++) dz[i] *= l.scale;
  thin_gemm(l.z, rank, n, l.m, dy, l.db);
  thin_gemm(dz, rank, k, l.m, x, da);
  for (long j = 0; j < k; j++)
    for (long r = 0; r < rank; r++) l.da[j * rank + r] = da[r * k + j];
  if (!l.dx) return;
  switch (w.bits) {
    case 4: return lora_dx<4>(l, dz);
    case 8: return lora_dx<8>(l, dz);
    default: return lora_dx<32>(l, dz);
  }
}

}  // namespace MINIALIGN_ISA
}  // namespace minialign
