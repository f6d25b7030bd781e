// Scaled dot-product attention as an MLX operation.
#pragma once

#include <optional>

#include "base/arrays.h"

namespace minialign {

// q (B, H, L, D), k and v (B, G, S, D) float32, H a multiple of G -> (B, H, L, D).
// causal: query i sees keys up to S - L + i. mask: boolean (true: seen) or float32 (added to the
// scores), broadcast to (B, H, L, S); it has no gradient. A query that sees nothing gives zeros.
mx::array attention(const mx::array& q, const mx::array& k, const mx::array& v, float scale,
                    bool causal, const std::optional<mx::array>& mask);

}  // namespace minialign
