// Causal or masked attention with grouped heads, in blocks of queries and keys (flash attention).
//
// A task owns one (batch, key head) and some blocks of its queries. It packs the keys and values
// once, then runs block by block: scores as a product, a running softmax, and the weighted sum of
// values. Keys that the mask hides from a whole block of queries cost a look at the mask.
#pragma once

#include "matmul/gemm.h"
#include "pointwise/pointwise.h"

namespace minialign {
namespace MINIALIGN_ISA {

constexpr long kQueryBlock = 28 / kTileRows * kTileRows;  // small: a packed row's texts are short
constexpr long kKeyBlock = 4 * kTileCols;
constexpr float kFloor = -1e30f;  // below every real score: the start of a running maximum

INLINE long rounded_up(long n, long step) { return (n + step - 1) / step * step; }

// A block of queries: all of [i0, i1) for each head in [h0, h1). Row r is head h0 + r / length().
struct QueryBlock {
  long h0, h1, i0, i1;
  long length() const { return i1 - i0; }
  long rows() const { return (h1 - h0) * (i1 - i0); }
  long head(long r) const { return h0 + r / length(); }
  long query(long r) const { return i0 + r % length(); }
};

// The blocks of the query heads that share one key head.
struct QueryBlocks {
  long group, heads_each, head_steps, query_steps, query_width, queries;
  explicit QueryBlocks(const AttentionArgs& a) {
    group = a.heads / a.kv_heads;
    queries = a.queries;
    heads_each = a.queries >= kQueryBlock ? 1 : kQueryBlock / a.queries;
    heads_each = heads_each > group ? group : heads_each;
    head_steps = (group + heads_each - 1) / heads_each;
    query_steps = (a.queries + kQueryBlock - 1) / kQueryBlock;
    query_width = (a.queries + query_steps - 1) / query_steps;
    query_steps = (a.queries + query_width - 1) / query_width;
  }
  long count() const { return head_steps * query_steps; }
  long step(long i) const { return i / head_steps; }  // of the queries; their heads follow
  QueryBlock at(long i, long kv_head) const {
    const long hs = i % head_steps * heads_each, qs = step(i) * query_width;
    const long he = hs + heads_each < group ? hs + heads_each : group;
    const long qe = qs + query_width < queries ? qs + query_width : queries;
    return {kv_head * group + hs, kv_head * group + he, qs, qe};
  }
};

INLINE const float* at(const float* p, const long* stride, long b, long h, long i) {
  return p + b * stride[0] + h * stride[1] + i * stride[2];
}

// Copies a block's rows of q (or dout) to dense rows, multiplied by scale.
INLINE void gather_block(const QueryBlock& block, const float* source, const long* stride, long b,
                         long width, float scale, float* out) {
  for (long r = 0; r < block.rows(); r++) {
    const float* from = at(source, stride, b, block.head(r), block.query(r));
    for (long d = 0; d < width; d++) out[r * width + d] = from[d] * scale;
  }
}

INLINE void pack_rows(const float* dense, const Strips& strips, long rows, long depth, float* out) {
  for (long s = 0; s < strips.count; s++)
    pack_strip(dense + s * strips.rows * depth, depth, strips.height(s, rows), depth,
               out + s * strips.stride);
}

// (n, width) rows as B operands. "across": strips of kTileCols rows, [strip][width][kTileCols];
// "along": strips of kTileCols columns, [strip][length][kTileCols].
INLINE void pack_across(const float* source, long stride, long n, long width, float* out) {
  Weight w{};
  w.words = source;
  w.cols = stride;
  w.bits = 32;
  for (long j = 0; j < n; j += kTileCols, out += width * kTileCols)
    TransposedWeight<32>{w}.pack(0, width, j, n - j < kTileCols ? n - j : kTileCols, out);
}

INLINE void pack_along(const float* source, long stride, long n, long width, long length,
                       float* out) {
  Weight w{};
  w.words = source;
  w.cols = stride;
  w.bits = 32;
  for (long j = 0; j < width; j += kTileCols, out += length * kTileCols)
    StraightWeight<32>{w}.pack(0, n, j, width - j < kTileCols ? width - j : kTileCols, out);
}

enum class Seen { none, some, all };

// What of keys [j0, j1) the rows of a block see.
INLINE Seen look(const AttentionArgs& a, long b, const QueryBlock& block, long j0, long j1) {
  if (a.mask_added) return Seen::some;
  if (a.causal) {
    const long past = a.keys - a.queries;
    if (j0 > past + block.i1 - 1) return Seen::none;
    return j1 - 1 <= past + block.i0 ? Seen::all : Seen::some;
  }
  if (!a.mask) return Seen::all;
  bool any = false, all = true;
  const long heads = a.mask_stride[1] ? block.h1 : block.h0 + 1;
  const long queries = a.mask_stride[2] ? block.i1 : block.i0 + 1;
  for (long h = block.h0; h < heads; h++)
    for (long i = block.i0; i < queries; i++) {
      const uint8_t* m =
          a.mask + b * a.mask_stride[0] + h * a.mask_stride[1] + i * a.mask_stride[2];
      uint8_t or_all = 0, and_all = 1;
      for (long j = j0; j < j1; j++) {
        or_all |= m[j];
        and_all &= m[j];
      }
      any |= or_all != 0;
      all &= and_all != 0;
    }
  return all ? Seen::all : any ? Seen::some : Seen::none;
}

// What each block of queries sees of each strip of keys. A mask that is the same for all heads is
// looked at once for all of them.
class Sight {
 public:
  Sight(const AttentionArgs& a, const QueryBlocks& blocks) : a_(a), blocks_(blocks) {
    if (!a.mask || a.mask_stride[1]) return;
    const long batches = a.mask_stride[0] ? a.batch : 1;
    strips_ = (a.keys + kTileCols - 1) / kTileCols;
    table_ = (Seen*)scratch(kPackedA, batches * blocks.query_steps * strips_ * sizeof(Seen));
    parallel(batches * blocks.query_steps, [&](long t) {
      const long b = t / blocks.query_steps, i = t % blocks.query_steps * blocks.head_steps;
      for (long s = 0; s < strips_; s++)
        table_[t * strips_ + s] = look_at(b, blocks.at(i, 0), s * kTileCols);
    });
  }

  // Up to kKeyBlock keys, whole strips, that some row of the block sees.
  struct Keys {
    long first, count;
    Seen seen;
  };

  // The next ones from key j on for block i of a batch and key head; count 0 if there are no more.
  Keys next(long b, long i, long kv, long j) const {
    j = rounded_up(j, kTileCols);
    Seen seen = Seen::none;
    for (; j < a_.keys && (seen = strip(b, i, kv, j)) == Seen::none; j += kTileCols)
      if (a_.causal) return {j, 0, seen};
    long end = j + kTileCols;
    for (; end < a_.keys && end - j < kKeyBlock; end += kTileCols) {
      const Seen more = strip(b, i, kv, end);
      if (more == Seen::none) break;
      if (more != seen) seen = Seen::some;
    }
    if (end > a_.keys) end = a_.keys;
    return {j, end > j ? end - j : 0, seen};
  }

  // The first key that blocks [first, last) see, and what is behind the last one.
  void range(long b, long kv, long first, long last, long* from, long* to) const {
    *from = a_.keys;
    *to = 0;
    for (long i = first; i < last; i++)
      for (Keys k = next(b, i, kv, 0); k.count; k = next(b, i, kv, k.first + k.count)) {
        *from = k.first < *from ? k.first : *from;
        *to = k.first + k.count > *to ? k.first + k.count : *to;
      }
    if (*from > *to) *from = *to;
  }

 private:
  Seen look_at(long b, const QueryBlock& block, long j) const {
    return look(a_, b, block, j, j + kTileCols < a_.keys ? j + kTileCols : a_.keys);
  }
  Seen strip(long b, long i, long kv, long j) const {
    if (!table_) return look_at(b, blocks_.at(i, kv), j);
    const long row = (a_.mask_stride[0] ? b : 0) * blocks_.query_steps + blocks_.step(i);
    return table_[row * strips_ + j / kTileCols];
  }

  const AttentionArgs& a_;
  const QueryBlocks& blocks_;
  long strips_ = 0;
  Seen* table_ = nullptr;
};

// Hides what row r of the block may not see: its scores become -infinity-like, or are added to.
// `scores` are strips: key j0 + j at scores[j / kTileCols * stride + j % kTileCols].
INLINE void hide(const AttentionArgs& a, long b, const QueryBlock& block, long r, long j0, long n,
                 float* scores, long stride) {
  const long h = block.head(r), i = block.query(r);
  const long offset = b * a.mask_stride[0] + h * a.mask_stride[1] + i * a.mask_stride[2] + j0;
  if (a.causal) {
    const long first = a.keys - a.queries + i + 1 - j0;
    for (long j = first < 0 ? 0 : first; j < n; j++)
      scores[j / kTileCols * stride + j % kTileCols] = 2 * kFloor;
  } else if (a.mask_added) {
    for (long j = 0; j < n; j++)
      scores[j / kTileCols * stride + j % kTileCols] += a.mask_added[offset + j];
  } else if (a.mask) {
    for (long s = 0; s < n; s += kTileCols) {
      float* to = scores + s / kTileCols * stride;
      const uint8_t* m = a.mask + offset + s;
      const long valid = n - s < kTileCols ? n - s : kTileCols;
      for (long j = 0; j < valid; j++) to[j] = m[j] ? to[j] : 2 * kFloor;
    }
  }
}

// scores[strip][rows][kTileCols] = packed rows @ the keys packed across, keys [j0, j0 + n).
INLINE void block_scores(const float* packed_rows, const Strips& strips, long rows, long depth,
                         const float* across, long j0, long n, float* scores) {
  for (long j = 0; j < n; j += kTileCols)
    for (long s = 0; s < strips.count; s++)
      pick_micro_kernel<kTileRows>(strips.height(s, rows))(
          depth, packed_rows + s * strips.stride, across + (j0 + j) / kTileCols * depth * kTileCols,
          scores + j / kTileCols * rows * kTileCols + s * strips.rows * kTileCols, kTileCols,
          kTileCols, false);
}

// Strips of scores -> the packed A operand (rows x n keys).
INLINE void pack_scores(const float* scores, const Strips& strips, long rows, long n, float* out) {
  for (long s = 0; s < strips.count; s++)
    for (long j = 0; j < n; j += kTileCols)
      pack_strip(scores + j / kTileCols * rows * kTileCols + s * strips.rows * kTileCols, kTileCols,
                 strips.height(s, rows), kTileCols, out + s * strips.stride + j * kTileRows);
}

// c (rows, width) += packed (rows x n) @ the rows [j0, j0 + n) packed along; `length` of them all.
INLINE void add_product(const float* packed, const Strips& strips, long rows, const float* along,
                        long length, long j0, long n, long width, float* c) {
  for (long d = 0; d < width; d += kTileCols)
    for (long s = 0; s < strips.count; s++)
      pick_micro_kernel<kTileRows>(strips.height(s, rows))(
          n, packed + s * strips.stride, along + d * length + j0 * kTileCols,
          c + s * strips.rows * width + d, width, width - d, true);
}

static void attention_block(const AttentionArgs& a, const Sight& sight, long b, long kv, long i,
                            const QueryBlock& block, const float* keys, const float* values,
                            float* room) {
  const long rows = block.rows(), width = a.width;
  const Strips strips(rows, width), p_strips(rows, kKeyBlock);
  float* dense = room;
  float* out = dense + rows * width;
  float* packed = out + rows * width;
  float* scores = packed + strips.count * strips.stride;
  float* packed_p = scores + rows * kKeyBlock;
  float maximum[kQueryBlock], total[kQueryBlock];
  gather_block(block, a.q, a.q_stride, b, width, a.scale, dense);
  pack_rows(dense, strips, rows, width, packed);
  memset(out, 0, rows * width * 4);
  for (long r = 0; r < rows; r++) {
    maximum[r] = kFloor;
    total[r] = 0.f;
  }
  for (auto k = sight.next(b, i, kv, 0); k.count; k = sight.next(b, i, kv, k.first + k.count)) {
    const auto [j0, n, seen] = k;
    block_scores(packed, strips, rows, width, keys, j0, n, scores);
    const long stride = rows * kTileCols;
    for (long r = 0; r < rows; r++) {
      float* row = scores + r * kTileCols;
      if (seen == Seen::some) hide(a, b, block, r, j0, n, row, stride);
      for (long j = n; j % kTileCols; j++) row[j / kTileCols * stride + j % kTileCols] = 2 * kFloor;
      Vec best = broadcast(maximum[r]);
      for (long j = 0; j < n; j += kTileCols) {
        const float* p = row + j / kTileCols * stride;
        best = max(best, max(load(p), load(p + kLanes)));
      }
      const float now = max_lane(best);
      Vec sums = Vec{};
      for (long j = 0; j < n; j += kTileCols) {
        float* p = row + j / kTileCols * stride;
        const Vec e0 = exp(load(p) - now), e1 = exp(load(p + kLanes) - now);
        sums += e0 + e1;
        store(p, e0);
        store(p + kLanes, e1);
      }
      if (now != maximum[r]) {
        const float shrink = exp(broadcast(maximum[r] - now))[0];
        for (long d = 0; d < width; d++) out[r * width + d] *= shrink;
        total[r] *= shrink;
        maximum[r] = now;
      }
      total[r] += sum(sums);
    }
    pack_scores(scores, p_strips, rows, n, packed_p);
    add_product(packed_p, p_strips, rows, values, a.keys, j0, n, width, out);
  }
  for (long r = 0; r < rows; r++) {
    const long h = block.head(r), i = block.query(r);
    const float inverse = total[r] > 0.f ? 1.f / total[r] : 0.f;  // a row that sees nothing: 0
    float* to = a.o + b * a.o_stride[0] + h * a.o_stride[1] + i * a.o_stride[2];
    for (long d = 0; d < width; d++) to[d] = out[r * width + d] * inverse;
    a.lse[(b * a.heads + h) * a.queries + i] =
        total[r] > 0.f ? maximum[r] + __builtin_logf(total[r]) : -2 * kFloor;
  }
}

static void attention(const AttentionArgs& a) {
  const QueryBlocks blocks(a);
  const Sight sight(a, blocks);
  const long pairs = a.batch * a.kv_heads, width = a.width;
  const long wide = rounded_up(width, kTileCols), all_keys = rounded_up(a.keys, kTileCols);
  long parts = (8 * thread_count() + pairs - 1) / pairs;
  parts = parts > blocks.count() ? blocks.count() : parts;
  parallel(pairs * parts, [&](long t) {
    const long pair = t / parts, part = t % parts, b = pair / a.kv_heads, kv = pair % a.kv_heads;
    float* keys = (float*)scratch(kTaskA, (all_keys * width + a.keys * wide + 64) * 4);
    float* values = keys + all_keys * width;
    float* room = (float*)scratch(
        kTaskB, (kQueryBlock * (2 * width + 2 * kKeyBlock) +
                 8 * (kTileRows * (width + kKeyBlock) + 4 * kLanes) + 64) * 4);
    const long first = blocks.count() * part / parts, last = blocks.count() * (part + 1) / parts;
    long from, to;
    sight.range(b, kv, first, last, &from, &to);
    pack_across(at(a.k, a.k_stride, b, kv, from), a.k_stride[2], to - from, width,
                keys + from * width);
    pack_along(at(a.v, a.v_stride, b, kv, from), a.v_stride[2], to - from, width, a.keys,
               values + from * kTileCols);
    for (long i = first; i < last; i++)
      attention_block(a, sight, b, kv, i, blocks.at(i, kv), keys, values, room);
  });
}

}  // namespace MINIALIGN_ISA
}  // namespace minialign
