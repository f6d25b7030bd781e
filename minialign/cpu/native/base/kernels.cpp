// The kernel table of one instruction set. CMake compiles this file once per set, with
// MINIALIGN_ISA naming the namespace (baseline, avx2, avx512) and the matching -march.
#include "attention/attention.h"
#include "attention/attention_grad.h"
#include "base/kernels.h"
#include "decode/decode.h"
#include "decode/decode_attention.h"
#include "decode/draw.h"
#include "logps/selected_logps.h"
#include "lora/lora.h"
#include "matmul/rows_to_8.h"
#include "matmul/gemm.h"
#include "matmul/rows_to_32.h"
#include "matmul/weights.h"
#include "pointwise/pointwise.h"

#define STRING_OF(name) #name
#define NAME_OF(name) STRING_OF(name)

namespace minialign {
namespace MINIALIGN_ISA {

static void linear(const float* x, long m, long ldx, const Weight& w, float* y, long ldy,
                   bool add) {
  if (m == 0 || w.rows == 0) return;
  switch (w.bits) {
    case 4: return linear_bits<4>(x, m, ldx, w, y, ldy, add);
    case 8: return linear_bits<8>(x, m, ldx, w, y, ldy, add);
    default: return linear_bits<32>(x, m, ldx, w, y, ldy, add);
  }
}

static void linear_grad(const float* dy, long m, long ldy, const Weight& w, float* dx, long ldx,
                        bool add) {
  const long n = w.cols, k = w.rows;
  const RowsOf a{dy, ldy, k};
  switch (w.bits) {
    case 4: return gemm(a, m, n, k, StraightWeight<4>{w}, dx, ldx, add);
    case 8: return gemm(a, m, n, k, StraightWeight<8>{w}, dx, ldx, add);
    default: return gemm(a, m, n, k, StraightWeight<32>{w}, dx, ldx, add);
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

extern const Kernels table;
const Kernels table = {
    .name = NAME_OF(MINIALIGN_ISA),
    .linear = linear,
    .linear_grad = linear_grad,
    .weight_grad = weight_grad,
    .gather_rows = gather_rows,
    .selected_logps = selected_logps,
    .swiglu = swiglu,
    .swiglu_grad = swiglu_grad,
    .rms_norm = rms_norm,
    .rms_norm_grad = rms_norm_grad,
    .softmax = softmax,
    .softmax_grad = softmax_grad,
    .logsumexp = logsumexp,
    .logsumexp_grad = logsumexp_grad,
    .draw = draw,
    .rope = rope,
    .attention = attention,
    .attention_grad = attention_grad,
    .lora = lora,
    .lora_grad = lora_grad,
    .linears = linears,
    .feed_forward = feed_forward,
    .decode_attention = decode_attention,
    .fill_page = fill_page,
};

}  // namespace MINIALIGN_ISA
}  // namespace minialign
