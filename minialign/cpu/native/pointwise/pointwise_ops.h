// SwiGLU, softmax, RMSNorm and RoPE as MLX operations, all float32.
#pragma once

#include <optional>
#include <variant>

#include "base/arrays.h"

namespace minialign {

// silu(gate) * up, of equal shapes.
mx::array swiglu(const mx::array& gate, const mx::array& up);

// Over the last dimension, float32.
mx::array softmax(const mx::array& x);
mx::array logsumexp(const mx::array& x);  // without that dimension

// x / rms(x) * weight over the last dimension; weight (D,).
mx::array rms_norm(const mx::array& x, const mx::array& weight, float eps);

// Rotates the first `dims` of x (B, H, L, D) by its positions: row l stands at offset + l, offset
// one number or one a batch row (B,). As mx.fast.rope: `base` or `freqs` (dims / 2,).
mx::array rope(const mx::array& x, int dims, bool traditional, std::optional<float> base,
               float scale, const std::variant<int, mx::array>& offset,
               const std::optional<mx::array>& freqs);

// An output of swiglu or rms_norm, computed once more as soon as `when` is there, so that what
// holds on to it for a backward pass holds only its inputs; any other array comes back as it is.
mx::array made_again(const mx::array& x, const mx::array& when);

}  // namespace minialign
