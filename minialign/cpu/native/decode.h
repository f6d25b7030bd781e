// Several linear layers on the few rows of a decoding step, in one hand-over to the pool.
#pragma once

#include "lora.h"
#include "pointwise.h"
#include "some_rows.h"

namespace minialign {
namespace MINIALIGN_ISA {

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

}  // namespace MINIALIGN_ISA
}  // namespace minialign
