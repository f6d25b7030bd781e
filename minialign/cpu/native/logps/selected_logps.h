// log softmax(h @ w^T)[target] for rows of h, without ever holding (rows x vocabulary) logits.
//
// The vocabulary passes by in blocks, as keys do in flash attention: each row keeps its running
// maximum, sum and, when a gradient is wanted, sum of p * w, so that
//   jacobian = d logp / d h = w[target] - sum_v p_v w_v
// is ready with the forward pass, and the backward pass is one scaling of it.
#pragma once

#include "matmul/choice.h"
#include "matmul/gemm.h"
#include "matmul/vnni_rows.h"
#include "pointwise/pointwise.h"

namespace minialign {
namespace MINIALIGN_ISA {

constexpr long kVocabBlock = 4 * kTileCols;
constexpr long kMostRanges = 64;
constexpr long kTokenBlock = 14 * kTileRows;

// The running state of rows [r0, r0 + rows) over one range of the vocabulary.
struct LogpState {
  float* maximum;   // (rows,)
  float* total;     // (rows,) sum of exp(logit - maximum)
  float* chosen;    // (rows,) the target's logit; only the range that holds it writes
  float* expected;  // (rows, cols) sum of exp(logit - maximum) * w, or null
};

// Turns a row of logits, in strips of kTileCols, into exp(logit - new maximum); returns what the
// row's earlier sums must be multiplied by.
INLINE float exponentiate(float* logits, long stride, long cols, float& maximum, float& total) {
  Vec best = broadcast(maximum);
  for (long j = 0; j < cols; j += kLanes) {
    float* p = logits + j / kTileCols * stride + j % kTileCols;
    if (cols - j < kLanes)  // the strip's unused columns
      for (long i = cols - j; i < kLanes; i++) p[i] = -3e38f;
    best = max(best, load(p));
  }
  const float now = max_lane(best);
  Vec sums = Vec{};
  for (long j = 0; j < cols; j += kLanes) {
    float* p = logits + j / kTileCols * stride + j % kTileCols;
    const Vec e = exp(load(p) - now);
    sums += e;
    store(p, e);
  }
  for (long j = (cols + kLanes - 1) / kLanes * kLanes; j % kTileCols; j += kLanes)
    store(logits + j / kTileCols * stride + j % kTileCols, Vec{});
  const float shrink = exp(broadcast(maximum - now))[0];
  maximum = now;
  total = total * shrink + sum(sums);
  return shrink;
}

template <int Bits>
static void logps_range(const LogpArgs& a, long r0, long rows, long v0, long v1, LogpState state) {
  const Weight& w = *a.w;
  const long cols = w.cols;
  const Strips strips(rows, cols);
  const MicroKernel full = pick_micro_kernel<kTileRows>(strips.rows);
  float* packed = (float*)scratch(kPackedA, strips.count * strips.stride * 4 + 256);
  const long deepest = cols > kVocabBlock ? cols : kVocabBlock;
  float* strip = (float*)scratch(kPackedB, deepest * kTileCols * 4);
  const long tile = rows * kTileCols;
  float* logits = (float*)scratch(kTaskB, kVocabBlock / kTileCols * tile * 4 + 256);
  const Strips p_strips(rows, kVocabBlock);
  float* packed_p = (float*)scratch(kTaskC, p_strips.count * p_strips.stride * 4 + 256);
  const float* hidden = a.hidden + r0 * cols;
  bool bytes = false;  // products with a quantized head, see vnni_rows.h
#if MINIALIGN_AVX512
  const RowBlocks blocks(rows, cols);
  const ByteParts hidden_bytes = {packed, part_of(w)};
  if constexpr (Bits != 32) {
    bytes = product_for(rows, Bits, Operation::logps) == Product::vnni_rows;
    for (long i = 0; bytes && i < blocks.count; i++)
      rows_to_bytes<Bits>(hidden + blocks.first(i) * cols, blocks.rows(i), cols, 0, blocks.rows(i),
                          0, cols, blocks.at(hidden_bytes, i));
  }
#endif
  for (long s = 0; !bytes && s < strips.count; s++)
    pack_strip(hidden + s * strips.rows * cols, cols, strips.height(s, rows), cols,
               packed + s * strips.stride);
  for (long r = 0; r < rows; r++) {
    state.maximum[r] = -3e38f;
    state.total[r] = 0.f;
  }
  if (state.expected) memset(state.expected, 0, rows * cols * 4);

  auto kernel_of = [&](long s) {
    const long height = strips.height(s, rows);
    return height == strips.rows ? full : pick_micro_kernel<kTileRows>(height);
  };
  for (long v = v0; v < v1; v += kVocabBlock) {
    const long block = v1 - v < kVocabBlock ? v1 - v : kVocabBlock;
    const long block_strips = (block + kTileCols - 1) / kTileCols;
    for (long j = 0; j < block_strips; j++) {
      const long valid = block - j * kTileCols < kTileCols ? block - j * kTileCols : kTileCols;
      const long n = v + j * kTileCols;
#if MINIALIGN_AVX512
      if constexpr (Bits != 32) {
        for (long i = 0; bytes && i < blocks.count; i++)
          vnni_rows_block<Bits>(blocks.at(hidden_bytes, i), blocks.rows(i), w, n, n + valid,
                                n + kTileCols, logits + j * tile + blocks.first(i) * kTileCols - n,
                                kTileCols, false, {});
        if (bytes) continue;
      }
#endif
      TransposedWeight<Bits>{w}.pack(0, cols, n, valid, strip);
      for (long k = 0; k < cols; k += kDepth)
        for (long s = 0; s < strips.count; s++)
          kernel_of(s)(cols - k < kDepth ? cols - k : kDepth,
                       packed + s * strips.stride + k * kTileRows, strip + k * kTileCols,
                       logits + j * tile + s * strips.rows * kTileCols, kTileCols, kTileCols,
                       k > 0);
    }
    for (long r = 0; r < rows; r++) {
      float* row_logits = logits + r * kTileCols;
      const long target = a.targets[r0 + r] - v;
      if (target >= 0 && target < block)
        state.chosen[r] = row_logits[target / kTileCols * tile + target % kTileCols];
      const float shrink =
          exponentiate(row_logits, tile, block, state.maximum[r], state.total[r]);
      if (state.expected && shrink != 1.f && v > v0) {
        float* sums = state.expected + r * cols;
        for (long k = 0; k < cols; k++) sums[k] *= shrink;
      }
    }
    if (!state.expected) continue;
    for (long s = 0; s < strips.count; s++)
      for (long j = 0; j < block_strips; j++)
        pack_strip(logits + j * tile + s * strips.rows * kTileCols, kTileCols,
                   strips.height(s, rows), kTileCols,
                   packed_p + s * p_strips.stride + j * kTileCols * kTileRows);
    for (long k = 0; k < cols; k += kTileCols) {
      const long valid = cols - k < kTileCols ? cols - k : kTileCols;
      StraightWeight<Bits>{w}.pack(v, block, k, valid, strip);
      for (long s = 0; s < strips.count; s++)
        kernel_of(s)(block, packed_p + s * p_strips.stride, strip,
                     state.expected + s * strips.rows * cols + k, cols, valid, true);
    }
  }
}

// Joins the ranges of the vocabulary for row r: state i lies at states[i].
template <int Bits>
INLINE void join_ranges(const LogpArgs& a, const LogpState* states, long ranges, long at,
                        long r) {
  const long cols = a.w->cols;
  float best = -3e38f, total = 0.f;
  for (long i = 0; i < ranges; i++)
    if (states[i].maximum[at] > best) best = states[i].maximum[at];
  for (long i = 0; i < ranges; i++)
    total += states[i].total[at] * exp(broadcast(states[i].maximum[at] - best))[0];
  const long target = a.targets[r];
  if (target < 0 || target >= a.w->rows) {  // no such token: probability one, no gradient
    a.logps[r] = 0.f;
    if (a.jacobian) memset(a.jacobian + r * cols, 0, cols * 4);
    return;
  }
  const long range = target / a.range_width;
  a.logps[r] = states[range].chosen[at] - (best + __builtin_logf(total));
  if (!a.jacobian) return;
  float* out = a.jacobian + r * cols;
  decode_row<Bits>(*a.w, target, out);
  for (long i = 0; i < ranges; i++) {
    const float share = exp(broadcast(states[i].maximum[at] - best))[0] / total;
    const float* sums = states[i].expected + at * cols;
    for (long k = 0; k < cols; k++) out[k] -= share * sums[k];
  }
}

template <int Bits>
static void selected_logps_bits(LogpArgs a) {
  const Weight& w = *a.w;
  const long cols = w.cols;
  const long blocks = (a.rows + kTokenBlock - 1) / kTokenBlock;
  const long block = (a.rows + blocks - 1) / blocks;
  // Enough tasks for the threads: cut the vocabulary where there are few rows.
  const long wanted = 4 * thread_count();
  long ranges = blocks >= wanted ? 1 : (wanted + blocks - 1) / blocks;
  const long most = (w.rows + 4 * kVocabBlock - 1) / (4 * kVocabBlock);
  ranges = ranges > most ? most : ranges;
  ranges = ranges > kMostRanges ? kMostRanges : ranges;
  a.range_width = (w.rows + ranges - 1) / ranges;
  a.range_width = (a.range_width + kVocabBlock - 1) / kVocabBlock * kVocabBlock;
  ranges = (w.rows + a.range_width - 1) / a.range_width;
  const long per_row = 3 + (a.jacobian ? cols : 0);
  float* states = (float*)scratch(kTaskD, blocks * ranges * block * per_row * 4);
  auto state_of = [&](long b, long i) {
    float* base = states + (b * ranges + i) * block * per_row;
    return LogpState{base, base + block, base + 2 * block, a.jacobian ? base + 3 * block : nullptr};
  };
  parallel(blocks * ranges, [&](long t) {
    const long b = t / ranges, i = t % ranges, r0 = b * block;
    const long rows = a.rows - r0 < block ? a.rows - r0 : block;
    const long v0 = i * a.range_width;
    const long v1 = v0 + a.range_width < w.rows ? v0 + a.range_width : w.rows;
    if (rows > 0) logps_range<Bits>(a, r0, rows, v0, v1, state_of(b, i));
  });
  each_row(a.rows, ranges * cols, [&](long r) {
    LogpState of_row[kMostRanges];
    for (long i = 0; i < ranges; i++) of_row[i] = state_of(r / block, i);
    join_ranges<Bits>(a, of_row, ranges, r % block, r);
  });
}

static void selected_logps(const LogpArgs& a) {
  switch (a.w->bits) {
    case 4: return selected_logps_bits<4>(a);
    case 8: return selected_logps_bits<8>(a);
    default: return selected_logps_bits<32>(a);
  }
}

}  // namespace MINIALIGN_ISA
}  // namespace minialign
