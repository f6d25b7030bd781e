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
  const long threads = thread_count(), most = 4 * threads;
  const long unit = bytes ? 32 : 16;  // outputs that belong together
  if (gated) {  // both jobs have the same rows: a chunk finishes its part of the result
    long chunks = 2 * widest * k * m / 40000;
    chunks = chunks < 1 ? 1 : chunks > most ? most : chunks;
    const long step = ((widest + chunks - 1) / chunks + unit - 1) / unit * unit;
    parallel((widest + step - 1) / step, [&](long c) {
      const long n0 = c * step, n1 = n0 + step < widest ? n0 + step : widest;
      for (long j = 0; j < 2; j++) run_job(jobs[j], input, z_of[j], n0, n1, n0 + threads * step);
      for (long i = 0; i < m; i++)
        gate(jobs[0].y + i * widest, jobs[1].y + i * widest, n0, n1);
    });
    return;
  }
  long chunks = rows * k * m / 40000;
  chunks = chunks < 1 ? 1 : chunks > most ? most : chunks;
  const long step = ((rows + chunks - 1) / chunks + unit - 1) / unit * unit;
  parallel((rows + step - 1) / step, [&](long c) {
    long from = c * step, to = from + step < rows ? from + step : rows;
    for (long j = 0; j < count && from < to; j++) {
      const long n = jobs[j].w.rows;
      if (from < n) run_job(jobs[j], input, z_of[j], from, to < n ? to : n, from + threads * step);
      from = from > n ? from - n : 0;
      to -= n;
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

INLINE long rounded_up_to_page(long n) { return (n + kPageTokens - 1) / kPageTokens * kPageTokens; }
INLINE long values_start(long kv_heads, long width) { return kv_heads * kPageTokens * width; }

static void fill_page(float* page, long kv_heads, long width, long at, long n, const float* k,
                      const float* v, const long* k_stride, const long* v_stride) {
  for (long i = 0; i < n; i++) {
    const long token = at + i;
    for (long h = 0; h < kv_heads; h++) {
      const float* key = k + i * k_stride[0] + h * k_stride[1];
      float* block = page + (h * kPageTokens + token / kLanes * kLanes) * width + token % kLanes;
      for (long d = 0; d < width; d++) block[d * kLanes] = key[d];
      memcpy(page + values_start(kv_heads, width) + (h * kPageTokens + token) * width,
             v + i * v_stride[0] + h * v_stride[1], width * 4);
    }
  }
}

// scores[h][0 .. 2 * kLanes) = q[h] . two blocks of keys, for Heads heads `stride` apart. `next` is
// what will be read after them: pages lie anywhere.
template <int Heads>
INLINE void score_blocks(const float* q, const float* keys, const float* next, long width,
                         float* scores, long stride) {
  Vec s0[Heads], s1[Heads];
#pragma GCC unroll 4
  for (int h = 0; h < Heads; h++) s0[h] = s1[h] = Vec{};
  for (long d = 0; d < width; d++) {
    const Vec k0 = load(keys + d * kLanes), k1 = load(keys + (width + d) * kLanes);
    __builtin_prefetch(next + d * kLanes);
    __builtin_prefetch(next + (width + d) * kLanes);
#pragma GCC unroll 4
    for (int h = 0; h < Heads; h++) {
      s0[h] += q[h * width + d] * k0;
      s1[h] += q[h * width + d] * k1;
    }
  }
#pragma GCC unroll 4
  for (int h = 0; h < Heads; h++) {
    store(scores + h * stride, s0[h]);
    store(scores + h * stride + kLanes, s1[h]);
  }
}

// Adds to columns [d, d + Vectors * kLanes) of out[h] (width,) the sum over n tokens of
// weights[h][token] * values[token].
template <int Heads, int Vectors>
INLINE void add_value_columns(const float* weights, long stride, const float* values,
                              const float* next, long n, long width, long d, float* out) {
  Vec sums[Heads][Vectors];
#pragma GCC unroll 4
  for (int h = 0; h < Heads; h++)
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; v++) sums[h][v] = load(out + h * width + d + v * kLanes);
  for (long i = 0; i < n; i++) {
    Vec value[Vectors];
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; v++) {
      value[v] = load(values + i * width + d + v * kLanes);
      __builtin_prefetch(next + i * width + d + v * kLanes);
    }
#pragma GCC unroll 4
    for (int h = 0; h < Heads; h++)
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; v++) sums[h][v] += weights[h * stride + i] * value[v];
  }
#pragma GCC unroll 4
  for (int h = 0; h < Heads; h++)
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; v++) store(out + h * width + d + v * kLanes, sums[h][v]);
}

template <int Heads>
INLINE void add_values(const float* weights, long stride, const float* values, const float* next,
                       long n, long width, float* out) {
  constexpr int kVectors = kTileRows > 6 ? 4 : 2;
  long d = 0;
  for (; d + kVectors * kLanes <= width; d += kVectors * kLanes)
    add_value_columns<Heads, kVectors>(weights, stride, values, next, n, width, d, out);
  for (; d < width; d += kLanes)
    add_value_columns<Heads, 1>(weights, stride, values, next, n, width, d, out);
}

// A group of heads in runs of at most four: body(first head, number of heads as a constant).
#define FOR_HEADS(group, call)                                    \
  for (long h = 0; h < (group);) {                                \
    const long left = (group)-h;                                  \
    if (left >= 4) { call(4); h += 4; }                           \
    else if (left == 3) { call(3); h += 3; }                      \
    else if (left == 2) { call(2); h += 2; }                      \
    else { call(1); h += 1; }                                     \
  }

// Pages [p0, p1) of one row and key head: adds to out (group, width) with maximum and total.
INLINE void attend_pages(const DecodeArgs& a, long row, long kv, long p0, long p1, float* scores,
                         float* out, float* maximum, float* total) {
  const long group = a.heads / a.kv_heads, width = a.width;
  const long t0 = p0 * kPageTokens;
  const long t1 = p1 * kPageTokens < a.lengths[row] ? p1 * kPageTokens : a.lengths[row];
  const long stride = rounded_up_to_page(t1 - t0);
  const float* q = a.q + (row * a.heads + kv * group) * width;
  const float* const* pages = a.pages + a.first_page[row];
  for (long p = p0; p < p1; p++)
    for (long t = 0; t < kPageTokens && p * kPageTokens + t < t1; t += 2 * kLanes) {
      const float* keys = pages[p] + (kv * kPageTokens + t) * width;
      const float* next = pages[p + 1 < p1 ? p + 1 : p] + (kv * kPageTokens + t) * width;
      float* to = scores + p * kPageTokens + t - t0;
#define CALL(n) score_blocks<n>(q + h * width, keys, next, width, to + h * stride, stride)
      FOR_HEADS(group, CALL)
#undef CALL
    }
  const long n = t1 - t0;
  for (long h = 0; h < group; h++) {
    float* s = scores + h * stride;
    for (long i = n; i % kLanes; i++) s[i] = -3e38f;
    Vec best = broadcast(-3e38f);
    for (long i = 0; i < n; i += kLanes) {
      store(s + i, load(s + i) * a.scale);
      best = max(best, load(s + i));
    }
    maximum[h] = max_lane(best);
    Vec sums = Vec{};
    for (long i = 0; i < n; i += kLanes) {
      const Vec e = exp(load(s + i) - maximum[h]);
      sums += e;
      store(s + i, e);
    }
    total[h] = sum(sums);
  }
  memset(out, 0, group * width * 4);
  for (long p = p0; p < p1; p++) {
    const long from = p * kPageTokens;
    const long tokens = t1 - from < kPageTokens ? t1 - from : kPageTokens;
    const long start = values_start(a.kv_heads, width) + kv * kPageTokens * width;
    const float *values = pages[p] + start, *next = pages[p + 1 < p1 ? p + 1 : p] + start;
    float* weights = scores + from - t0;
#define CALL(n) \
  add_values<n>(weights + h * stride, stride, values, next, tokens, width, out + h * width)
    FOR_HEADS(group, CALL)
#undef CALL
  }
}

static void decode_attention(const DecodeArgs& a) {
  const long group = a.heads / a.kv_heads, width = a.width;
  long longest = 0;
  for (long r = 0; r < a.rows; r++) longest = a.lengths[r] > longest ? a.lengths[r] : longest;
  const long pages = (longest + kPageTokens - 1) / kPageTokens;
  // Few rows over a long context: each in several parts, joined afterwards.
  long parts = (2 * thread_count() + a.rows * a.kv_heads - 1) / (a.rows * a.kv_heads);
  parts = parts > pages / 4 ? pages / 4 : parts;
  parts = parts < 1 ? 1 : parts;
  const long each = group * (width + 2), tasks = a.rows * a.kv_heads * parts;
  float* partial = (float*)scratch(kTaskD, tasks * each * 4);
  auto task = [&](long t) {
    const long part = t % parts, pair = t / parts, row = pair / a.kv_heads;
    const long own = (a.lengths[row] + kPageTokens - 1) / kPageTokens;
    const long p0 = own * part / parts, p1 = own * (part + 1) / parts;
    float* out = partial + t * each;
    float* scores = (float*)scratch(kTaskA, group * (pages + 1) * kPageTokens * 4);
    float *maxima = out + group * width, *totals = out + group * (width + 1);
    attend_pages(a, row, pair % a.kv_heads, p0, p1, scores, out, maxima, totals);
    for (long h = 0; parts == 1 && h < group; h++)
      for (long d = 0; d < width; d++)
        a.out[(pair * group + h) * width + d] = out[h * width + d] / totals[h];
  };
  if (a.rows * a.heads * longest * width < 40000)
    for (long t = 0; t < tasks; t++) task(t);
  else
    parallel(tasks, task);
  if (parts == 1) return;
  for (long pair = 0; pair < a.rows * a.kv_heads; pair++)
    for (long h = 0; h < group; h++) {
      const float* first = partial + pair * parts * each;
      float best = -3e38f, total = 0.f;
      for (long p = 0; p < parts; p++) {
        const float m = first[p * each + group * width + h];
        best = m > best ? m : best;
      }
      float* out = a.out + (pair * group + h) * width;
      for (long d = 0; d < width; d++) out[d] = 0.f;
      for (long p = 0; p < parts; p++) {
        const float* from = first + p * each;
        const float share = exp(broadcast(from[group * width + h] - best))[0];
        total += share * from[group * (width + 1) + h];
        for (long d = 0; d < width; d++) out[d] += share * from[h * width + d];
      }
      for (long d = 0; d < width; d++) out[d] /= total;
    }
}

}  // namespace MINIALIGN_ISA
}  // namespace minialign
