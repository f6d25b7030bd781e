// Which product serves how many rows of x: here, and nowhere else.
//
//   rows      float32       8 bits                     4 bits
//   1         rows_to_8     avx512_rows_1, rows_to_8   vnni_rows_1, avx512_rows_1, rows_to_8
//   2         rows_to_8     rows_to_8                  rows_to_8
//   3 to 8    rows_to_8     vnni_rows, rows_to_8       vnni_rows, rows_to_8
//   9 to 32   rows_to_32    vnni_rows, rows_to_32      vnni_rows, rows_to_32
//   more      gemm          vnni_rows, gemm            vnni_rows, gemm
//
// Of several the first whose instruction set the processor has (it is in the name, see kernels.h).
// How wide a weight's groups are makes no difference.
#pragma once

#include "base/kernels.h"
#include "base/simd.h"

namespace minialign {
namespace MINIALIGN_ISA {

enum class Product { vnni_rows_1, vnni_rows, avx512_rows_1, rows_to_8, rows_to_32, gemm };

// What the product is part of.
enum class Operation {
  matmul,
  lora,   // low-rank steps ride on the depth of gemm: it serves what rows_to_32 would
  logps,  // blocks of the vocabulary meet all rows: however few they are, as if they were many
};

constexpr long kRowsTo8 = 8, kRowsTo32 = 32;  // the most rows of these two

INLINE Product product_for(long rows, int bits, Operation operation = Operation::matmul) {
  constexpr long kVnniRows = 3;  // from so many on it is the fastest
  const bool many = operation == Operation::logps;
#if MINIALIGN_AVX512
  if (bits != 32) {
    if (has_vnni && (many || rows >= kVnniRows)) return Product::vnni_rows;
    if (!many && rows == 1)
      return has_vnni && bits == 4 ? Product::vnni_rows_1 : Product::avx512_rows_1;
  }
#endif
  if (!many && rows <= kRowsTo8) return Product::rows_to_8;
  if (operation == Operation::matmul && rows <= kRowsTo32) return Product::rows_to_32;
  return Product::gemm;
}

// Whether layers of one input are handed to the threads together while decoding, see decode.h.
INLINE bool go_together(long rows) { return rows <= kRowsTo32; }

}  // namespace MINIALIGN_ISA
}  // namespace minialign
