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
#include "matmul/linear.h"
#include "pointwise/pointwise.h"

#define STRING_OF(name) #name
#define NAME_OF(name) STRING_OF(name)

namespace minialign {
namespace MINIALIGN_ISA {

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
