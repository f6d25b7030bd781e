// Drawing a token of each row of logits: one inverse-CDF draw, and no array of weights.
#pragma once

#include "pointwise/pointwise.h"

namespace minialign {
namespace MINIALIGN_ISA {

constexpr long kDrawBlock = 256;  // tokens whose weights are added up before they are cumulated

// Weights exp((logit - top) / temperature) of n <= kDrawBlock tokens; returns their sum.
INLINE float draw_weights(const float* logits, long n, float top, float inverse, float* weights) {
  Vec sums = Vec{};
  long i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const Vec e = exp((load(logits + i) - top) * inverse);
    if (weights) store(weights + i, e);
    sums += e;
  }
  if (i < n) {
    const Vec e = exp((load_part(logits + i, n - i, -__builtin_inff()) - top) * inverse);
    if (weights) store_part(weights + i, e, n - i);
    sums += e;
  }
  return sum(sums);
}

// The largest of n values, or NaN if one of them is.
INLINE float largest_or_nan(const float* x, long n) {
  Vec best = broadcast(-__builtin_inff());
  IntVec odd = IntVec{};
  for (long i = 0; i < n; i += kLanes) {
    const Vec v = i + kLanes <= n ? load(x + i) : load_part(x + i, n - i, -__builtin_inff());
    odd |= v != v;
    best = max(best, v);
  }
  for (int i = 0; i < kLanes; i++)
    if (odd[i]) return __builtin_nanf("");
  return max_lane(best);
}

// out[r]: the first token up to which the weights hold more than the share uniforms[r] of the
// row's whole; -1 if a row's largest logit is not a finite number.
static void draw(const float* logits, long rows, long n, float temperature, const double* uniforms,
                 int32_t* out) {
  const float inverse = 1.f / (temperature > 1e-30f ? temperature : 1e-30f);
  const long blocks = (n + kDrawBlock - 1) / kDrawBlock;
  each_row(rows, n, [=](long r) {
    const float* from = logits + r * n;
    const float top = largest_or_nan(from, n);
    out[r] = -1;
    if (!(top - top == 0.f)) return;
    double* mass = (double*)scratch(kTaskA, blocks * sizeof(double));  // up to each block's end
    double total = 0;
    for (long b = 0; b < blocks; b++) {
      const long at = b * kDrawBlock, size = n - at < kDrawBlock ? n - at : kDrawBlock;
      mass[b] = total += draw_weights(from + at, size, top, inverse, nullptr);
    }
    const double point = uniforms[r] * total;
    long block = 0;  // rounding must not go beyond the last block that holds anything
    while (block + 1 < blocks && mass[block] <= point && mass[block] < total) block++;
    const long at = block * kDrawBlock, size = n - at < kDrawBlock ? n - at : kDrawBlock;
    float weights[kDrawBlock];
    draw_weights(from + at, size, top, inverse, weights);
    double sum = block ? mass[block - 1] : 0;
    long last = 0;
    for (long i = 0; i < size; i++) {
      if (weights[i] > 0.f) last = i;
      if ((sum += weights[i]) > point) break;
    }
    out[r] = (int32_t)(at + last);
  });
}

}  // namespace MINIALIGN_ISA
}  // namespace minialign
