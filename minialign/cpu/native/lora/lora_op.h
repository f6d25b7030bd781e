// Linear layers with low-rank adapters as one MLX operation.
#pragma once

#include <optional>
#include <vector>

#include "base/arrays.h"

namespace minialign {

// One layer: a (K, R), b (R, N), w as in linear_op.h.
struct LoraLayer {
  mx::array a, b;
  float scale;
  mx::array w;
  std::optional<mx::array> scales, biases;
  int group, bits;
};

// x (..., K) -> for each of one to kMostSiblings layers x @ w^T + scale * (x @ a) @ b, (..., N).
// Differentiable in x, a and b.
std::vector<mx::array> lora_linears(const mx::array& x, const std::vector<LoraLayer>& layers);

}  // namespace minialign
