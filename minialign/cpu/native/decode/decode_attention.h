// Attention of single tokens over paged keys and values. Pages that rows share are read once for
// all of them; what the pieces of a row give is joined by their largest scores and sums.
#pragma once

#include "pointwise/pointwise.h"

namespace minialign {
namespace MINIALIGN_ISA {

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

// Keys of tokens that are not there yet are multiplied with those of their block, though never
// used: no odd numbers there.
INLINE void clear_keys(float* page, long width, long head, long first, long end) {
  memset(page + (head * kPageTokens + first) * width, 0, (end - first) * width * 4);
}

static void fill_page(float* page, long kv_heads, long width, long n, const float* k,
                      const float* v, const long* k_stride, const long* v_stride) {
  for (long h = 0; h < kv_heads; h++) {
    if (n < kPageTokens) clear_keys(page, width, h, 0, kPageTokens);
    for (long i = 0; i < n; i++)
      put_token(page, kv_heads, width, h, i, k + i * k_stride[0] + h * k_stride[1],
                v + i * v_stride[0] + h * v_stride[1]);
  }
}

// scores[q][0 .. Blocks * kLanes) = queries[q] . Blocks blocks of keys, for Queries of them,
// `stride` apart. `next` is what will be read after them, `next_vectors` of it: pages lie anywhere.
template <int Queries, int Blocks>
INLINE void score_blocks(const float* queries, const float* keys, const float* next,
                         long next_vectors, long width, float* scores, long stride) {
  Vec s[Queries][Blocks];
#pragma GCC unroll 8
  for (int q = 0; q < Queries; q++)
    for (int b = 0; b < Blocks; b++) s[q][b] = Vec{};
  for (long d = 0; d < width; d++) {
    Vec k[Blocks];
#pragma GCC unroll 2
    for (int b = 0; b < Blocks; b++) {
      const long vector = b * width + d;
      k[b] = load(keys + vector * kLanes);
      if (vector < next_vectors) __builtin_prefetch(next + vector * kLanes);
    }
#pragma GCC unroll 8
    for (int q = 0; q < Queries; q++)
#pragma GCC unroll 2
      for (int b = 0; b < Blocks; b++) s[q][b] += queries[q * width + d] * k[b];
  }
#pragma GCC unroll 8
  for (int q = 0; q < Queries; q++)
    for (int b = 0; b < Blocks; b++) store(scores + q * stride + b * kLanes, s[q][b]);
}

// Adds to columns [d, d + Vectors * kLanes) of out[q] (ldo apart) the sum over n tokens of
// weights[q][token] * values[token]. `next`: next_n tokens' vectors that will be read after them.
template <int Queries, int Vectors>
INLINE void add_value_columns(const float* weights, long stride, const float* values,
                              const float* next, long next_n, long n, long width, long d,
                              float* out, long ldo) {
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
      __builtin_prefetch(next + (i < next_n ? i : 0) * width + d + v * kLanes);
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
                       long next_n, long n, long width, float* out, long ldo) {
  constexpr int kVectors = kTileRows > 6 ? 4 : 2;
  long d = 0;
  for (; d + kVectors * kLanes <= width; d += kVectors * kLanes)
    add_value_columns<Queries, kVectors>(weights, stride, values, next, next_n, n, width, d, out,
                                         ldo);
  for (; d < width; d += kLanes)
    add_value_columns<Queries, 1>(weights, stride, values, next, next_n, n, width, d, out, ldo);
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
  if (at % kLanes == 0) clear_keys(page, a.width, kv, at, at + kLanes);
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
    for (long t = 0, left = t1 - p * kPageTokens; t < kPageTokens && t < left; t += 2 * kLanes) {
      const float* keys = keys_of(a, piece, p) + t * width;
      const float* next;
      long vectors;
      if (p + 1 < piece.p1) {
        next = keys_of(a, piece, p + 1) + t * width;
        vectors = (left - kPageTokens - t + kLanes - 1) / kLanes * width;
      } else {
        next = keys_of(a, piece, piece.p0) + values + t * width;
        vectors = (t1 - t0 - t) * width / kLanes;
      }
      float* to = scores + p * kPageTokens + t - t0;
      in_runs<kQueries>(queries, [&](long i, auto count) {
        constexpr int kCount = decltype(count)::value;
        const float* from = q + i * width;
        if (left - t > kLanes)
          score_blocks<kCount, 2>(from, keys, next, vectors, width, to + i * stride, stride);
        else
          score_blocks<kCount, 1>(from, keys, next, vectors, width, to + i * stride, stride);
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
    const bool last = p + 1 == piece.p1;
    const float* next = last ? keys_of(a, after, after.p0) : keys_of(a, piece, p + 1) + values;
    const long next_tokens = last ? kPageTokens : t1 - from - kPageTokens;
    const float* weights = scores + from - t0;
    in_runs<4>(queries, [&](long i, auto count) {
      add_values<decltype(count)::value>(weights + i * stride, stride,
                                         keys_of(a, piece, p) + values, next, next_tokens, tokens,
                                         width, piece.out + i * ldo, ldo);
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
