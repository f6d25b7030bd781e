// log softmax(hidden @ w^T)[target] as an MLX operation.
#pragma once

#include <optional>

#include "base/arrays.h"

namespace minialign {

// hidden (N, D) float32, targets (N,), w as in linear_op.h -> (N,) float32, differentiable in
// hidden if `gradient`: the forward pass then also leaves the (N, D) derivative. A target outside
// the vocabulary gives 0.
mx::array selected_logps(const mx::array& hidden, const mx::array& targets, const mx::array& w,
                         const std::optional<mx::array>& scales,
                         const std::optional<mx::array>& biases, int group, int bits,
                         bool gradient);

}  // namespace minialign
