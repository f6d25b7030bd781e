// What a decoding step needs beside the products: several layers in one hand-over to the pool, and
// attention of single tokens over paged keys and values.
#pragma once

#include "lora.h"
#include "pointwise.h"
#include "some_rows.h"

namespace minialign {
namespace MINIALIGN_ISA {

// ---- several linear layers on the same few rows ----

// x in the forms that the kernels read it in.
struct Input {
  long m;
  const float* plain;  // (m, K)
  const float* split;  // for 4-bit weights, see few_rows.h
  const float* lanes;  // for more than kFewRows rows, see some_rows.h
  const float* split_lanes;
  const float *words4, *words8;  // for one row, see one_row.h; for several, see byte_rows.h
};

// Whether m rows are read as bytes by quantized weights.
INLINE bool as_bytes(long m) {
#if MINIALIGN_AVX512
  return byte_products && m >= kByteRows;
#else
  return false;
#endif
}

template <int Bits>
INLINE void job_rows(const Input& x, const Weight& w, long n0, long n1, long next, float* y,
                     bool add) {
#if MINIALIGN_AVX512
  if constexpr (Bits != 32) {
    if (as_bytes(x.m))
      return byte_rows_block<Bits>(Bits == 4 ? x.words4 : x.words8, x.m, w, n0, n1, next, y, w.rows,
                                   add, {});
    if (x.m == 1) return one_row_task<Bits>(Bits == 4 ? x.words4 : x.words8, w, n0, n1, y, add);
  }
#endif
  if (x.m > kFewRows)
    some_rows_task<Bits>(Bits == 4 ? x.split_lanes : x.lanes, x.m, w, n0, n1, y, add);
  else
    pick_few_rows<Bits, kFewRows>(x.m)(Bits == 4 ? x.split : x.plain, w.cols, w, n0, n1, y, w.rows,
                                       add);
}

// Outputs [n0, n1) of a job, then probably those from `next` on; z (m, rank) is its low-rank
// projection.
INLINE void run_job(const LinearJob& job, const Input& x, const float* z, long n0, long n1,
                    long next) {
  const Weight& w = job.w;
  const long m = x.m;
  switch (w.bits) {
    case 4: job_rows<4>(x, w, n0, n1, next, job.y, job.add); break;
    case 8: job_rows<8>(x, w, n0, n1, next, job.y, job.add); break;
    default: job_rows<32>(x, w, n0, n1, next, job.y, job.add);
  }
  for (long i = 0; i < m; i++) {
    float* y = job.y + i * w.rows;
    for (long r = 0; r < job.rank; r++) {
      const float factor = job.scale * z[i * job.rank + r];
      const float* b = job.b + r * w.rows;
      for (long n = n0; n < n1; n++) y[n] += factor * b[n];
    }
    if (job.bias)
      for (long n = n0; n < n1; n++) y[n] += job.bias[n];
  }
}

INLINE void gate(float* y, const float* up, long n0, long n1) {
  long n = n0;
  for (; n + kLanes <= n1; n += kLanes) {
    const Vec g = load(y + n);
    store(y + n, g * sigmoid(g) * load(up + n));
  }
  if (n < n1) {
    const Vec g = load_part(y + n, n1 - n);
    store_part(y + n, g * sigmoid(g) * load_part(up + n, n1 - n), n1 - n);
  }
}

// Outputs [0, rows) for the threads, in multiples of `unit`: first a long run for each, which is
// read fastest, then a few short ones that let a slower thread catch up.
struct Runs {
  long rows, unit, threads, large, small;
  Runs(long rows, long unit, long threads, bool split) : rows(rows), unit(unit), threads(threads) {
    const long units = (rows + unit - 1) / unit;
    large = split ? units * 3 / 4 / threads : units;
    const long left = units - (split ? large * threads : units);
    small = left ? (left + 4 * threads - 1) / (4 * threads) : 1;
  }
  long first(long run) const {
    const long units = run <= threads ? run * large : threads * large + (run - threads) * small;
    return units * unit < rows ? units * unit : rows;
  }
  long count() const {
    long run = 0;
    while (first(run) < rows) run++;
    return run;
  }
};

static void linears_few(const float* x, long m, const LinearJob* jobs, long count, bool gated) {
  const long k = jobs[0].w.cols, wide = lane_vectors(m) * kLanes;
  long ranks = 0, rows = 0, widest = 0;
  bool any_split = false, any_bytes = false, any_plain = false;
  for (long j = 0; j < count; j++) {
    ranks += jobs[j].rank;
    rows += jobs[j].w.rows;
    widest = jobs[j].w.rows > widest ? jobs[j].w.rows : widest;
    any_split |= jobs[j].w.bits == 4;
    any_bytes |= jobs[j].w.bits == 8;
    any_plain |= jobs[j].w.bits == 32 || jobs[j].rank > 0;
  }
  const bool bytes = as_bytes(m);
  float* room = (float*)scratch(kPackedA, (k * (2 * wide + m + kLanes) + m * ranks + 64) * 4);
  float *lanes = room, *split_lanes = lanes + k * wide, *split = split_lanes + k * wide;
  float* z = split + k * (m > kLanes ? m : kLanes);
  // One row has neither lanes nor split lanes; rows as bytes have no split lanes, and no `split`.
  float *words4 = m == 1 ? lanes : split, *words8 = split_lanes;
#if MINIALIGN_AVX512
  if (bytes) {
    const long pieces = m * k < 8000 ? 1 : 2;
    parallel(pieces, [&](long c) {
      const long i0 = m * c / pieces, i1 = m * (c + 1) / pieces;
      if (any_split) rows_to_bytes<4>(x, m, k, k, i0, i1, words4);
      if (any_bytes) rows_to_bytes<8>(x, m, k, k, i0, i1, words8);
    });
  } else if (m == 1) {
    if (any_split) order_row<4>(x, k, words4);
    if (any_bytes) order_row<8>(x, k, words8);
  }
#endif
  if (m > kFewRows) {
    if (any_plain || (any_bytes && !bytes)) pack_lanes(x, m, k, k, false, lanes, split);
    if (any_split && !bytes) pack_lanes(x, m, k, k, true, split_lanes, split);
  } else if (any_split && !bytes && (m > 1 || !MINIALIGN_AVX512)) {
    for (long i = 0; i < m; i++) split_columns(x + i * k, k, split + i * k);
  }
  const Input input{m, x, split, lanes, split_lanes, words4, words8};
  const float* z_of[8];
  for (long j = 0; j < count; j++) {
    z_of[j] = z;
    if (jobs[j].rank == 0) continue;
    const Weight a = dense_matrix(jobs[j].a_transposed, jobs[j].rank, k);
    job_rows<32>(input, a, 0, a.rows, a.rows, z, false);
    z += m * jobs[j].rank;
  }
  const long unit = bytes ? 32 : 16;  // outputs that belong together
  const bool many = rows * k * m > 80000;
  const Runs runs(gated ? widest : rows, unit, thread_count(), many);
  parallel(runs.count(), [&](long c) {
    long from = runs.first(c), to = runs.first(c + 1), next = runs.first(c + runs.threads);
    if (gated) {  // both jobs have the same rows: a run finishes its part of the result
      for (long j = 0; j < 2; j++) run_job(jobs[j], input, z_of[j], from, to, next);
      for (long i = 0; i < m; i++)
        gate(jobs[0].y + i * widest, jobs[1].y + i * widest, from, to);
      return;
    }
    for (long j = 0; j < count && from < to; j++) {
      const long n = jobs[j].w.rows;
      if (from < n) run_job(jobs[j], input, z_of[j], from, to < n ? to : n, next);
      from = from > n ? from - n : 0;
      to -= n;
      next -= n;
    }
  });
}

template <int Bits>
static void linear_job(const float* x, long m, const LinearJob& job) {
  const Weight& w = job.w;
  if (job.rank) {
    LoraArgs l{};
    l.x = x;
    l.a = job.a;
    l.b = job.b;
    l.w = &w;
    l.m = m;
    l.rank = job.rank;
    l.scale = job.scale;
    l.y = job.y;
    l.add = job.add;
    l.z = (float*)scratch(kTaskD, job.rank * m * 4);  // lora_bits uses kTaskC
    lora_bits<Bits>(l);
  } else {
    linear_bits<Bits>(x, m, w.cols, w, job.y, w.rows, job.add);
  }
}

static void linears(const float* x, long m, const LinearJob* jobs, long count, bool gated) {
  if (m <= kSomeRows) return linears_few(x, m, jobs, count, gated);
  for (long j = 0; j < count; j++) {
    const LinearJob& job = jobs[j];
    switch (job.w.bits) {
      case 4: linear_job<4>(x, m, job); break;
      case 8: linear_job<8>(x, m, job); break;
      default: linear_job<32>(x, m, job);
    }
    if (job.bias)
      for (long i = 0; i < m; i++)
        for (long n = 0; n < job.w.rows; n++) job.y[i * job.w.rows + n] += job.bias[n];
  }
  if (gated) swiglu(jobs[0].y, jobs[1].y, m * jobs[0].w.rows, jobs[0].y);
}

// ---- attention of single tokens ----

INLINE long pages_of(long tokens) { return (tokens + kPageTokens - 1) / kPageTokens; }
INLINE long values_start(long kv_heads, long width) { return kv_heads * kPageTokens * width; }

// Writes one head's key and value of the token at place `at` of a page.
INLINE void put_token(float* page, long kv_heads, long width, long head, long at, const float* key,
                      const float* value) {
  float* block = page + (head * kPageTokens + at / kLanes * kLanes) * width + at % kLanes;
  for (long d = 0; d < width; d++) block[d * kLanes] = key[d];
  memcpy(page + values_start(kv_heads, width) + (head * kPageTokens + at) * width, value,
         width * 4);
}

// Keys of tokens that are not there yet are multiplied, though never used: no odd numbers there.
INLINE void clear_keys(float* page, long width, long head) {
  memset(page + head * kPageTokens * width, 0, kPageTokens * width * 4);
}

static void fill_page(float* page, long kv_heads, long width, long n, const float* k,
                      const float* v, const long* k_stride, const long* v_stride) {
  for (long h = 0; h < kv_heads; h++) {
    if (n < kPageTokens) clear_keys(page, width, h);
    for (long i = 0; i < n; i++)
      put_token(page, kv_heads, width, h, i, k + i * k_stride[0] + h * k_stride[1],
                v + i * v_stride[0] + h * v_stride[1]);
  }
}

// scores[q][0 .. 2 * kLanes) = queries[q] . two blocks of keys, for Queries of them, `stride` apart.
// `next` is what will be read after them: pages lie anywhere.
template <int Queries>
INLINE void score_blocks(const float* queries, const float* keys, const float* next, long width,
                         float* scores, long stride) {
  Vec s0[Queries], s1[Queries];
#pragma GCC unroll 8
  for (int q = 0; q < Queries; q++) s0[q] = s1[q] = Vec{};
  for (long d = 0; d < width; d++) {
    const Vec k0 = load(keys + d * kLanes), k1 = load(keys + (width + d) * kLanes);
    __builtin_prefetch(next + d * kLanes);
    __builtin_prefetch(next + (width + d) * kLanes);
#pragma GCC unroll 8
    for (int q = 0; q < Queries; q++) {
      s0[q] += queries[q * width + d] * k0;
      s1[q] += queries[q * width + d] * k1;
    }
  }
#pragma GCC unroll 8
  for (int q = 0; q < Queries; q++) {
    store(scores + q * stride, s0[q]);
    store(scores + q * stride + kLanes, s1[q]);
  }
}

// Adds to columns [d, d + Vectors * kLanes) of out[q] (ldo apart) the sum over n tokens of
// weights[q][token] * values[token].
template <int Queries, int Vectors>
INLINE void add_value_columns(const float* weights, long stride, const float* values,
                              const float* next, long n, long width, long d, float* out, long ldo) {
  Vec sums[Queries][Vectors];
#pragma GCC unroll 4
  for (int q = 0; q < Queries; q++)
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; v++) sums[q][v] = load(out + q * ldo + d + v * kLanes);
  for (long i = 0; i < n; i++) {
    Vec value[Vectors];
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; v++) {
      value[v] = load(values + i * width + d + v * kLanes);
      __builtin_prefetch(next + i * width + d + v * kLanes);
    }
#pragma GCC unroll 4
    for (int q = 0; q < Queries; q++)
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; v++) sums[q][v] += weights[q * stride + i] * value[v];
  }
#pragma GCC unroll 4
  for (int q = 0; q < Queries; q++)
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; v++) store(out + q * ldo + d + v * kLanes, sums[q][v]);
}

template <int Queries>
INLINE void add_values(const float* weights, long stride, const float* values, const float* next,
                       long n, long width, float* out, long ldo) {
  constexpr int kVectors = kTileRows > 6 ? 4 : 2;
  long d = 0;
  for (; d + kVectors * kLanes <= width; d += kVectors * kLanes)
    add_value_columns<Queries, kVectors>(weights, stride, values, next, n, width, d, out, ldo);
  for (; d < width; d += kLanes)
    add_value_columns<Queries, 1>(weights, stride, values, next, n, width, d, out, ldo);
}

constexpr int kQueries = kTileRows > 6 ? 8 : 4;  // whose scores are in registers

template <int N>
struct Number {
  static constexpr int value = N;
};

// [0, n) in runs of at most Most: body(first, the run's length as a Number).
template <int Most, class Body>
INLINE void in_runs(long n, const Body& body) {
  long first = 0;
  for (; first + Most <= n; first += Most) body(first, Number<Most>());
  if constexpr (Most > 4)
    if (first + 4 <= n) body(first, Number<4>()), first += 4;
  if (n - first == 3) return body(first, Number<3>());
  if (n - first == 2) return body(first, Number<2>());
  if (n - first == 1) return body(first, Number<1>());
}

// body(i) for i < n, in this thread alone or in all.
template <class Body>
INLINE void each(bool alone, long n, const Body& body) {
  if (!alone) return parallel(n, body);
  for (long i = 0; i < n; i++) body(i);
}

// Pages [p0, p1) of rows that have these in common, for one key head. `out` is, for each query
// (row, head of the group), the weighted sum of values, the largest score, the sum of weights.
struct Piece {
  long row, rows, kv, p0, p1;
  float* out;
};

INLINE const float* keys_of(const DecodeArgs& a, const Piece& piece, long p) {
  return a.pages[a.first_page[piece.row] + p] + piece.kv * kPageTokens * a.width;
}

// A query's or a key's vector, rotated to the place of the row's new token.
INLINE void rotated(const DecodeArgs& a, const float* from, long row, float* to) {
  const long half = a.dims / 2;
  rotate(from, a.cosines + row * half, a.sines + row * half, a.dims, a.interleaved, 1.f, to);
  if (a.dims < a.width) memcpy(to + a.dims, from + a.dims, (a.width - a.dims) * 4);
}

// Writes the row's new token into its last page; `key` is room for a vector.
INLINE void write_token(const DecodeArgs& a, long row, long kv, float* key) {
  const long last = a.lengths[row] - 1, at = last % kPageTokens;
  const long token = (row * a.kv_heads + kv) * a.width;
  float* page = a.pages[a.first_page[row] + last / kPageTokens];
  rotated(a, a.k + token, row, key);
  if (at == 0) clear_keys(page, a.width, kv);
  put_token(page, a.kv_heads, a.width, kv, at, key, a.v + token);
}

// This thread will probably go on with the piece `after`.
INLINE void attend(const DecodeArgs& a, const Piece& piece, const Piece& after) {
  const long group = a.heads / a.kv_heads, width = a.width, ldo = width + 2, kv = piece.kv;
  const long queries = piece.rows * group, length = a.lengths[piece.row];
  const long t0 = piece.p0 * kPageTokens;
  const long t1 = piece.p1 * kPageTokens < length ? piece.p1 * kPageTokens : length;
  const long stride = (piece.p1 - piece.p0) * kPageTokens;
  float* q = (float*)scratch(kTaskA, (queries * (width + stride) + width) * 4);
  float *scores = q + queries * width, *key = scores + queries * stride;
  for (long i = 0; i < queries; i++) {
    const long row = piece.row + i / group;
    rotated(a, a.q + (row * a.heads + kv * group + i % group) * width, row, q + i * width);
  }
  if (t1 == length) write_token(a, piece.row, kv, key);  // the new token is in this piece
  const long values = values_start(a.kv_heads, width);
  for (long p = piece.p0; p < piece.p1; p++)
    for (long t = 0; t < kPageTokens && p * kPageTokens + t < t1; t += 2 * kLanes) {
      const float* keys = keys_of(a, piece, p) + t * width;
      const float* next = p + 1 < piece.p1 ? keys_of(a, piece, p + 1) + t * width
                                           : keys_of(a, piece, piece.p0) + values + t * width;
      float* to = scores + p * kPageTokens + t - t0;
      in_runs<kQueries>(queries, [&](long i, auto count) {
        score_blocks<decltype(count)::value>(q + i * width, keys, next, width, to + i * stride,
                                             stride);
      });
    }
  const long n = t1 - t0;
  for (long h = 0; h < queries; h++) {
    float *s = scores + h * stride, *out = piece.out + h * ldo;
    for (long i = n; i % kLanes; i++) s[i] = -3e38f;
    Vec best = broadcast(-3e38f);
    for (long i = 0; i < n; i += kLanes) {
      store(s + i, load(s + i) * a.scale);
      best = max(best, load(s + i));
    }
    out[width] = max_lane(best);
    Vec sums = Vec{};
    for (long i = 0; i < n; i += kLanes) {
      const Vec e = exp(load(s + i) - out[width]);
      sums += e;
      store(s + i, e);
    }
    out[width + 1] = sum(sums);
    memset(out, 0, width * 4);
  }
  for (long p = piece.p0; p < piece.p1; p++) {
    const long from = p * kPageTokens;
    const long tokens = t1 - from < kPageTokens ? t1 - from : kPageTokens;
    const float* next =
        p + 1 < piece.p1 ? keys_of(a, piece, p + 1) + values : keys_of(a, after, after.p0);
    const float* weights = scores + from - t0;
    in_runs<4>(queries, [&](long i, auto count) {
      add_values<decltype(count)::value>(weights + i * stride, stride,
                                         keys_of(a, piece, p) + values, next, tokens, width,
                                         piece.out + i * ldo, ldo);
    });
  }
}

// Rows [first, end) whose first `common` pages are the same: `shared` pieces of those a key head,
// from piece number `pieces` on, and behind them `parts` a key head of each row's own pages.
struct Together {
  long first, end, common, shared, pieces, parts, kv_heads;
  long rows() const { return end - first; }
  long shared_piece(long kv, long p) const { return pieces + kv * shared + p; }
  long own_piece(long row, long kv, long p) const {
    return pieces + kv_heads * shared + ((row - first) * kv_heads + kv) * parts + p;
  }
};

INLINE Together rows_together(const DecodeArgs& a, long first, long parts) {
  const float* const* mine = a.pages + a.first_page[first];
  Together t{first, first + 1, pages_of(a.lengths[first]), 0, 0, parts, a.kv_heads};
  for (; t.end < a.rows; t.end++) {
    const float* const* theirs = a.pages + a.first_page[t.end];
    const long pages = pages_of(a.lengths[t.end]);
    long same = 0;
    while (same < t.common && same < pages && mine[same] == theirs[same]) same++;
    if (same == 0) break;
    t.common = same;
  }
  if (t.end == first + 1) t.common = 0;
  return t;
}

static void decode_attention(const DecodeArgs& a) {
  const long group = a.heads / a.kv_heads, width = a.width, room = group * (width + 2);
  const long threads = thread_count();
  long longest = 0, pieces = 0, outputs = 0, sets = 0;
  for (long r = 0; r < a.rows; r++) longest = a.lengths[r] > longest ? a.lengths[r] : longest;
  // Few rows over a long context: each in several parts.
  const long pairs = a.rows * a.kv_heads;
  long parts = (2 * threads + pairs - 1) / pairs;
  parts = parts > pages_of(longest) / 4 ? pages_of(longest) / 4 : parts;
  parts = parts < 1 ? 1 : parts;
  Together* together = (Together*)scratch(kTaskB, a.rows * sizeof(Together));
  for (long r = 0; r < a.rows; r = together[sets++].end) {
    Together& t = together[sets] = rows_together(a, r, parts);
    const long wanted = (threads + a.kv_heads - 1) / a.kv_heads, least = (t.common + 7) / 8;
    t.shared = wanted < least ? least : wanted > t.common ? t.common : wanted;
    t.pieces = pieces;
    pieces += (t.shared + t.rows() * parts) * a.kv_heads;
    outputs += (t.shared + parts) * t.rows() * a.kv_heads;
  }
  float* partial = (float*)scratch(kTaskD, outputs * room * 4 + pieces * sizeof(Piece) + 64);
  Piece* piece = (Piece*)(partial + (outputs * room + 15) / 16 * 16);
  float* out = partial;
  for (const Together* t = together; t < together + sets; t++)
    for (long kv = 0; kv < a.kv_heads; kv++) {
      for (long p = 0; p < t->shared; p++, out += t->rows() * room)
        piece[t->shared_piece(kv, p)] = {t->first, t->rows(), kv, t->common * p / t->shared,
                                         t->common * (p + 1) / t->shared, out};
      for (long r = t->first; r < t->end; r++)
        for (long p = 0; p < parts; p++, out += room) {
          const long own = pages_of(a.lengths[r]) - t->common;
          piece[t->own_piece(r, kv, p)] = {r, 1, kv, t->common + own * p / parts,
                                           t->common + own * (p + 1) / parts, out};
        }
    }
  auto join = [&](const Together& t, long r, long kv) {
    for (long h = 0; h < group; h++) {
      auto partial_of = [&](long p) {
        return p < t.shared
                   ? piece[t.shared_piece(kv, p)].out + ((r - t.first) * group + h) * (width + 2)
                   : piece[t.own_piece(r, kv, p - t.shared)].out + h * (width + 2);
      };
      float best = -3e38f, total = 0.f;
      for (long p = 0; p < t.shared + parts; p++) {
        const float m = partial_of(p)[width];
        best = m > best ? m : best;
      }
      float* to = a.out + ((r * a.kv_heads + kv) * group + h) * width;
      memset(to, 0, width * 4);
      for (long p = 0; p < t.shared + parts; p++) {
        const float* from = partial_of(p);
        const float share = exp(broadcast(from[width] - best))[0];
        total += share * from[width + 1];
        for (long d = 0; d < width; d++) to[d] += share * from[d];
      }
      for (long d = 0; d < width; d++) to[d] /= total;
    }
  };
  const bool alone = a.rows * a.heads * longest * width < 40000;
  each(alone, pieces, [&](long i) {
    attend(a, piece[i], piece[i + threads < pieces ? i + threads : i]);
  });
  each(alone || a.rows < 4, a.rows, [&](long r) {
    const Together* t = together;
    while (t->end <= r) t++;
    for (long kv = 0; kv < a.kv_heads; kv++) join(*t, r, kv);
  });
}

}  // namespace MINIALIGN_ISA
}  // namespace minialign
