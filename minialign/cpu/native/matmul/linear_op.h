// Products with a weight that stays as it is stored, 4-bit, 8-bit or float32.
#pragma once

#include <optional>

#include "base/arrays.h"

namespace minialign {

// x (..., K) float32 -> (..., N) = x @ w^T. w: (N, K) float32, or quantized words (N, K*bits/32)
// with scales and biases (N, K/group). Differentiable in x, and in a float32 w.
mx::array linear(const mx::array& x, const mx::array& w, const std::optional<mx::array>& scales,
                 const std::optional<mx::array>& biases, int group, int bits);

// Rows `ids` (any shape, int32) of such a matrix, decoded: (ids.shape, K) float32. No gradient.
mx::array gather_rows(const mx::array& ids, const mx::array& w,
                      const std::optional<mx::array>& scales,
                      const std::optional<mx::array>& biases, int group, int bits);

}  // namespace minialign
