// Products with a weight as it is stored, each by the kernel that choice.h names for it.
#pragma once

#include "matmul/avx512_rows_1.h"
#include "matmul/choice.h"
#include "matmul/gemm.h"
#include "matmul/rows_to_32.h"
#include "matmul/rows_to_8.h"
#include "matmul/vnni_rows.h"
#include "matmul/vnni_rows_1.h"

namespace minialign {
namespace MINIALIGN_ISA {

// y (m, w.rows) = x (m, w.cols) @ w^T, or += if add.
template <int Bits>
static void linear_bits(const float* x, long m, const Weight& w, float* y, bool add) {
  const Product product = product_for(m, Bits);
#if MINIALIGN_AVX512
  if constexpr (Bits != 32) {
    if (product == Product::vnni_rows) {
      const VnniProduct only{w, y, {}};
      return vnni_rows<Bits>(x, m, &only, 1, add, [](long, long) {});
    }
    if (product == Product::vnni_rows_1) return vnni_rows_1(x, w, y, add);
    if (product == Product::avx512_rows_1) return avx512_rows_1<Bits>(x, w, y, add);
  }
#endif
  if (product == Product::rows_to_8) return rows_to_8<Bits>(x, m, w, y, add);
  if (product == Product::rows_to_32) return rows_to_32<Bits>(x, m, w, y, add);
  gemm(RowsOf{x, w.cols, w.cols}, m, w.rows, w.cols, TransposedWeight<Bits>{w}, y, w.rows, add);
}

static void linear(const float* x, long m, const Weight& w, float* y) {
  if (m == 0 || w.rows == 0) return;
  switch (w.bits) {
    case 4: return linear_bits<4>(x, m, w, y, false);
    case 8: return linear_bits<8>(x, m, w, y, false);
    default: return linear_bits<32>(x, m, w, y, false);
  }
}

static void linear_grad(const float* dy, long m, const Weight& w, float* dx) {
  const long n = w.cols, k = w.rows;
  const RowsOf a{dy, k, k};
  switch (w.bits) {
    case 4: return gemm(a, m, n, k, StraightWeight<4>{w}, dx, n, false);
    case 8: return gemm(a, m, n, k, StraightWeight<8>{w}, dx, n, false);
    default: return gemm(a, m, n, k, StraightWeight<32>{w}, dx, n, false);
  }
}

static void weight_grad(const float* x, const float* dy, long m, long n, long k, float* dw) {
  const Weight rows = dense_matrix(x, m, k);
  gemm(ColumnsOf{dy, n, m}, n, k, m, StraightWeight<32>{rows}, dw, k, false);
}

static void gather_rows(const Weight& w, const int32_t* ids, long n, float* out) {
  for (long i = 0; i < n; i++) {
    float* to = out + i * w.cols;
    const long r = ids[i] < 0 ? ids[i] + w.rows : ids[i];
    if (r < 0 || r >= w.rows)
      memset(to, 0, w.cols * 4);
    else if (w.bits == 4)
      decode_row<4>(w, r, to);
    else if (w.bits == 8)
      decode_row<8>(w, r, to);
    else
      decode_row<32>(w, r, to);
  }
}

}  // namespace MINIALIGN_ISA
}  // namespace minialign
