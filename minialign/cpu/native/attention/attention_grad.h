// The backward pass of attention.h: probabilities are recomputed from the scores and the stored
// log-sum-exp, block by block (Dao et al. 2022, arXiv:2205.14135, algorithm 4).
//
// The gradients of keys and values are gathered transposed, (width, keys): then the probabilities
// are the right-hand operand of their products exactly as the scores product left them.
#pragma once

#include "attention/attention.h"

namespace minialign {
namespace MINIALIGN_ISA {

// Everything a task packs once for its (batch, key head).
struct KeysAndValues {
  float *keys_across, *keys_along, *values_across;
  float *dk, *dv;  // (width, seen keys), transposed
  long from, seen;  // the keys from `from` on that any block sees, whole strips
};

// dense (rows, width) as the A operand of a product over rows: strips of its columns.
INLINE void pack_columns(const float* dense, const Strips& strips, long rows, long width,
                         float* out) {
  for (long s = 0; s < strips.count; s++)
    pack_strip_transposed(dense + s * strips.rows, width, strips.height(s, width), rows,
                          out + s * strips.stride);
}

// grad (width, ld) columns [j0, j0 + n) += columns^T @ scores (rows, n).
INLINE void add_transposed(const float* columns, const Strips& strips, long rows, long width,
                           const float* scores, long j0, long n, float* grad, long ld) {
  for (long j = 0; j < n; j += kTileCols)
    for (long s = 0; s < strips.count; s++)
      pick_micro_kernel<kTileRows>(strips.height(s, width))(
          rows, columns + s * strips.stride, scores + j / kTileCols * rows * kTileCols,
          grad + s * strips.rows * ld + j0 + j, ld, kTileCols, true);
}

static void attention_block_grad(const AttentionArgs& a, const Sight& sight, long b, long kv_head,
                                 long i, const QueryBlock& block, const KeysAndValues& kv,
                                 float* room) {
  const long rows = block.rows(), width = a.width;
  const Strips strips(rows, width), p_strips(rows, kKeyBlock), d_strips(width, rows);
  auto take = [&](long floats) {
    float* p = room;
    room += floats;
    return p;
  };
  float* q = take(rows * width);
  float* dout = take(rows * width);
  float* dq = take(rows * width);
  float* packed_q = take(strips.count * strips.stride);
  float* packed_dout = take(strips.count * strips.stride);
  float* q_columns = take(d_strips.count * d_strips.stride);
  float* dout_columns = take(d_strips.count * d_strips.stride);
  float* p = take(rows * kKeyBlock);
  float* ds = take(rows * kKeyBlock);
  float* packed_ds = take(p_strips.count * p_strips.stride);
  float lse[kQueryBlock], delta[kQueryBlock];
  gather_block(block, a.q, a.q_stride, b, width, a.scale, q);
  gather_block(block, a.dout, a.dout_stride, b, width, 1.f, dout);
  pack_rows(q, strips, rows, width, packed_q);
  pack_rows(dout, strips, rows, width, packed_dout);
  pack_columns(q, d_strips, rows, width, q_columns);
  pack_columns(dout, d_strips, rows, width, dout_columns);
  memset(dq, 0, rows * width * 4);
  for (long r = 0; r < rows; r++) {
    const long h = block.head(r), i = block.query(r);
    lse[r] = a.lse[(b * a.heads + h) * a.queries + i];
    delta[r] = dot(at(a.o, a.o_stride, b, h, i), dout + r * width, width);
  }
  for (auto k = sight.next(b, i, kv_head, 0); k.count;
       k = sight.next(b, i, kv_head, k.first + k.count)) {
    const auto [j0, n, seen] = k;
    block_scores(packed_q, strips, rows, width, kv.keys_across, j0, n, p);
    block_scores(packed_dout, strips, rows, width, kv.values_across, j0, n, ds);
    const long stride = rows * kTileCols;
    for (long r = 0; r < rows; r++) {
      float* row = p + r * kTileCols;
      if (seen == Seen::some) hide(a, b, block, r, j0, n, row, stride);
      for (long j = n; j % kTileCols; j++) row[j / kTileCols * stride + j % kTileCols] = 2 * kFloor;
      for (long j = 0; j < n; j += kTileCols)
        for (long half = 0; half < kTileCols; half += kLanes) {
          const long at = j / kTileCols * stride + r * kTileCols + half;
          const Vec probability = exp(load(p + at) - lse[r]);
          store(p + at, probability);
          store(ds + at, probability * (load(ds + at) - delta[r]));
        }
    }
    pack_scores(ds, p_strips, rows, n, packed_ds);
    add_product(packed_ds, p_strips, rows, kv.keys_along, a.keys, j0, n, width, dq);
    add_transposed(dout_columns, d_strips, rows, width, p, j0 - kv.from, n, kv.dv, kv.seen);
    add_transposed(q_columns, d_strips, rows, width, ds, j0 - kv.from, n, kv.dk, kv.seen);
  }
  for (long r = 0; r < rows; r++) {
    float* to = a.dq + b * a.dq_stride[0] + block.head(r) * a.dq_stride[1] +
                block.query(r) * a.dq_stride[2];
    for (long d = 0; d < width; d++) to[d] = dq[r * width + d] * a.scale;
  }
}

static void attention_grad(const AttentionArgs& a) {
  const QueryBlocks blocks(a);
  const Sight sight(a, blocks);
  const long pairs = a.batch * a.kv_heads, width = a.width;
  const long wide = rounded_up(width, kTileCols), padded = rounded_up(a.keys, kTileCols);
  // Few pairs: several tasks a pair, each with its own sums for dk and dv, added up afterwards.
  long parts = pairs >= 4 * thread_count() ? 1 : (4 * thread_count() + pairs - 1) / pairs;
  parts = parts > blocks.count() ? blocks.count() : parts;
  parts = parts > 8 ? 8 : parts;
  const long grads = 2 * width * padded;
  float* sums = (float*)scratch(kTaskD, pairs * parts * grads * 4 + 256);
  long* ranges = (long*)scratch(kPackedB, pairs * parts * 2 * sizeof(long));  // of keys, by task
  parallel(pairs * parts, [&](long t) {
    const long pair = t / parts, part = t % parts, b = pair / a.kv_heads, kv = pair % a.kv_heads;
    KeysAndValues packed;
    packed.keys_across = (float*)scratch(kTaskA, (2 * padded * width + a.keys * wide + 64) * 4);
    packed.values_across = packed.keys_across + padded * width;
    packed.keys_along = packed.values_across + padded * width;
    const long first = blocks.count() * part / parts, last = blocks.count() * (part + 1) / parts;
    long from, to;
    sight.range(b, kv, first, last, &from, &to);
    packed.from = ranges[2 * t] = from;
    packed.seen = ranges[2 * t + 1] = rounded_up(to - from, kTileCols);
    packed.dk = sums + t * grads;
    packed.dv = packed.dk + width * packed.seen;
    memset(packed.dk, 0, 2 * width * packed.seen * 4);
    const float* k = at(a.k, a.k_stride, b, kv, from);
    pack_across(k, a.k_stride[2], to - from, width, packed.keys_across + from * width);
    pack_along(k, a.k_stride[2], to - from, width, a.keys, packed.keys_along + from * kTileCols);
    pack_across(at(a.v, a.v_stride, b, kv, from), a.v_stride[2], to - from, width,
                packed.values_across + from * width);
    const long strip_room = kTileRows * (2 * width + 2 * kQueryBlock + kKeyBlock) * 8 +
                            2 * kTileRows * kQueryBlock * (width / kTileRows + 1) + 64 * kLanes *
                            (8 + width / kTileRows);
    float* room = (float*)scratch(
        kTaskB, (kQueryBlock * (3 * width + 3 * kKeyBlock) + strip_room) * 4);
    for (long i = first; i < last; i++)
      attention_block_grad(a, sight, b, kv, i, blocks.at(i, kv), packed, room);
  });
  const long steps = (a.keys + kLanes - 1) / kLanes;
  parallel(pairs * steps, [&](long t) {
    const long pair = t / steps, j0 = t % steps * kLanes, b = pair / a.kv_heads,
               kv = pair % a.kv_heads;
    const long j1 = j0 + kLanes < a.keys ? j0 + kLanes : a.keys;
    for (int which = 0; which < 2; which++) {
      float* out = which ? a.dv : a.dk;
      for (long d = 0; d < width; d++) {
        Vec total = Vec{};
        for (long part = 0; part < parts; part++) {
          const long task = pair * parts + part;
          const long from = ranges[2 * task], seen = ranges[2 * task + 1];
          if (j0 >= from && j0 < from + seen)
            total += load(sums + task * grads + (which * width + d) * seen + j0 - from);
        }
        for (long j = j0; j < j1; j++)
          out[b * a.dk_stride[0] + kv * a.dk_stride[1] + j * a.dk_stride[2] + d] = total[j - j0];
      }
    }
  });
}

}  // namespace MINIALIGN_ISA
}  // namespace minialign
