// A linear layer with a low-rank adapter as one MLX operation.
#pragma once

#include <optional>

#include "arrays.h"

namespace minialign {

// x (..., K) -> x @ w^T + scale * (x @ a) @ b, (..., N); a (K, R), b (R, N), w as in linear.h.
// Differentiable in x, a and b.
mx::array lora_linear(const mx::array& x, const mx::array& a, const mx::array& b, float scale,
                      const mx::array& w, const std::optional<mx::array>& scales,
                      const std::optional<mx::array>& biases, int group, int bits);

}  // namespace minialign
