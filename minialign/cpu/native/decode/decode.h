// The linear layers on the few rows of a decoding step: those of one input in one hand-over to the
// pool, the feed-forward part as one call.
#pragma once

#include "lora/lora.h"
#include "matmul/linear.h"
#include "pointwise/pointwise.h"

namespace minialign {
namespace MINIALIGN_ISA {

// x (m, k) in the forms that the products read it in.
struct Input {
  long m, k;
  const float* plain;
  bool by_4, by_8, by_floats;  // the jobs' weights: of 4 bits, of 8, float ones
  float* split;                // for 4-bit weights, see rows_to_8.h
  float* lanes;                // for rows_to_32.h
  float* split_lanes;          // for rows_to_32.h and 4-bit weights
  float *words4, *words8;      // for avx512_rows_1.h, vnni_rows_1.h or vnni_rows.h
  long part;                   // of several rows' bytes, see vnni_rows.h
  float* z;                    // room for low-rank projections (m, ranks)
};

// Whether m rows are read as bytes by quantized weights, of 4 or 8 bits.
INLINE bool as_bytes(long m) { return product_for(m, 4) == Product::vnni_rows; }

// Outputs [n0, n1) of a job, then probably those from `next` on. Returns whether the low-rank part,
// whose projection is z (m, rank), has been added.
template <int Bits>
INLINE bool job_rows(const LinearJob& job, const Input& x, const float* z, long n0, long n1,
                     long next) {
  const Weight& w = job.w;
  const Product product = product_for(x.m, Bits);
#if MINIALIGN_AVX512
  if constexpr (Bits != 32) {
    float* words = Bits == 4 ? x.words4 : x.words8;
    if (product == Product::vnni_rows) {
      vnni_rows_block<Bits>({words, x.part}, x.m, w, n0, n1, next, job.y, w.rows, job.add,
                            {z, job.b, job.rank});
      return true;
    }
    if (product == Product::vnni_rows_1) {
      vnni_rows_1_task(row_of_bytes_at(words, w.cols), w, n0, n1, job.y, job.add);
      return false;
    }
    if (product == Product::avx512_rows_1) {
      avx512_rows_1_task<Bits>(words, w, n0, n1, job.y, job.add);
      return false;
    }
  }
#endif
  if (product == Product::rows_to_32)
    rows_to_32_task<Bits>(Bits == 4 ? x.split_lanes : x.lanes, x.m, w, n0, n1, job.y, job.add);
  else
    pick_rows_to_8<Bits, kRowsTo8>(x.m)(Bits == 4 ? x.split : x.plain, w.cols, w, n0, n1, job.y,
                                        w.rows, job.add);
  return false;
}

// Outputs [n0, n1) of a job with all that belongs to it: low-rank part and bias.
INLINE void run_job(const LinearJob& job, const Input& x, const float* z, long n0, long n1,
                    long next) {
  const bool added = job.w.bits == 4   ? job_rows<4>(job, x, z, n0, n1, next)
                     : job.w.bits == 8 ? job_rows<8>(job, x, z, n0, n1, next)
                                       : job_rows<32>(job, x, z, n0, n1, next);
  const long outputs = job.w.rows;
  for (long i = 0; i < x.m; i++) {
    float* y = job.y + i * outputs;
    for (long r = 0; r < (added ? 0 : job.rank); r++) {
      const float factor = z[i * job.rank + r];
      const float* b = job.b + r * outputs;
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

static Input room_for(const float* x, long m, const LinearJob* jobs, long count,
                      ScratchSlot slot) {
  Input in{};
  in.m = m;
  in.k = jobs[0].w.cols;
  in.plain = x;
#if MINIALIGN_AVX512
  in.part = kWidePart;
#endif
  long ranks = 0;
  for (long j = 0; j < count; j++) {
#if MINIALIGN_AVX512
    in.part = part_of(jobs[j].w, in.part);
#endif
    ranks += jobs[j].rank;
    in.by_4 |= jobs[j].w.bits == 4;
    in.by_8 |= jobs[j].w.bits == 8;
    in.by_floats |= jobs[j].w.bits == 32;
  }
  const long wide = lane_vectors(m) * kLanes, high = m > kLanes ? m : kLanes;
  in.lanes = (float*)scratch(slot, (in.k * (2 * wide + high) + m * ranks + 64) * 4);
  in.split_lanes = in.lanes + in.k * wide;
  in.split = in.split_lanes + in.k * wide;
  in.z = in.split + in.k * high;
  // Words and bytes lie where other products' forms would: of the two only one is read.
  in.words4 = in.split;
  in.words8 = in.split_lanes;
  return in;
}

// Rows [i0, i1), columns [k0, k1) as bytes.
INLINE void fill_bytes(const Input& in, long i0, long i1, long k0, long k1) {
#if MINIALIGN_AVX512
  if (in.by_4) rows_to_bytes<4>(in.plain, in.m, in.k, i0, i1, k0, k1, {in.words4, in.part});
  if (in.by_8) rows_to_bytes<8>(in.plain, in.m, in.k, i0, i1, k0, k1, {in.words8, in.part});
#endif
}

// The form in which weights of these bits read x, unless it is bytes of several rows.
template <int Bits>
static void fill_form(const Input& in) {
  switch (product_for(in.m, Bits)) {
#if MINIALIGN_AVX512
    case Product::vnni_rows_1: return to_bytes(in.plain, in.k, in.words4);
    case Product::avx512_rows_1:
      if constexpr (Bits != 32)
        order_by_words<Bits>(in.plain, in.k, Bits == 4 ? in.words4 : in.words8);
      return;
#endif
    case Product::rows_to_8:
      if (Bits == 4)
        for (long i = 0; i < in.m; i++)
          split_columns(in.plain + i * in.k, in.k, in.split + i * in.k);
      return;
    case Product::rows_to_32:
      return pack_lanes(in.plain, in.m, in.k, Bits == 4, Bits == 4 ? in.split_lanes : in.lanes,
                        in.split);
    default: return;
  }
}

static void fill_others(const Input& in) {
  if (in.by_4) fill_form<4>(in);
  if (in.by_8) fill_form<8>(in);
  const bool filled = in.by_8 && product_for(in.m, 8) == product_for(in.m, 32);
  if (in.by_floats && !filled) fill_form<32>(in);
}

static void fill(const Input& in) {
  if (as_bytes(in.m) && (in.by_4 || in.by_8)) {
    const long pieces = in.m * in.k < 8000 ? 1 : 2;
    parallel(pieces, [&](long c) {
      fill_bytes(in, in.m * c / pieces, in.m * (c + 1) / pieces, 0, in.k);
    });
  }
  fill_others(in);
}

// The low-rank projections of all jobs, times their scales.
struct Projected {
  float* of[kMostSiblings];
  Projected(const Input& in, const LinearJob* jobs, long count) {
    long ranks = 0;
    for (long j = 0; j < count; ranks += jobs[j++].rank) of[j] = in.z + in.m * ranks;
    const long pieces = in.m * in.k * ranks > 9000 ? thread_count() : 1;
    parallel(pieces, [&](long c) {
      long from = ranks * c / pieces, to = ranks * (c + 1) / pieces;
      for (long j = 0; j < count; from -= jobs[j].rank, to -= jobs[j].rank, j++)
        project(in, jobs[j], from > 0 ? from : 0, to < jobs[j].rank ? to : jobs[j].rank, of[j]);
    });
  }

  // Ranks [r0, r1) of z (m, rank) = scale * x @ a.
  static void project(const Input& in, const LinearJob& job, long r0, long r1, float* z) {
    if (r0 >= r1) return;
    const Weight a = dense_matrix(job.a_transposed, job.rank, in.k);
    for (long i = 0; i < in.m; i += kRowsTo8) {
      const long rows = in.m - i < kRowsTo8 ? in.m - i : kRowsTo8;
      pick_rows_to_8<32, kRowsTo8>(rows)(in.plain + i * in.k, in.k, a, r0, r1, z + i * job.rank,
                                         job.rank, false);
    }
    for (long i = 0; i < in.m; i++)
      for (long r = r0; r < r1; r++) z[i * job.rank + r] *= job.scale;
  }
};

// Outputs [0, rows) of jobs on `in`, for all threads, in multiples of `unit`: body(from, to, where
// this one probably goes on).
template <class Body>
static void share_outputs(const Input& in, long rows, long unit, const Body& body) {
  const Runs runs(rows, unit, thread_count(), rows * in.k * in.m > 80000);
  parallel(runs.count(),
           [&](long c) { body(runs.first(c), runs.first(c + 1), runs.first(c + runs.threads)); });
}

static void run_jobs(const Input& in, const LinearJob* jobs, long count) {
  const Projected z(in, jobs, count);
  long rows = 0;
  for (long j = 0; j < count; j++) rows += jobs[j].w.rows;
  share_outputs(in, rows, as_bytes(in.m) ? 32 : 16, [&](long from, long to, long next) {
    for (long j = 0; j < count && from < to; j++) {
      const long n = jobs[j].w.rows;
      if (from < n) run_job(jobs[j], in, z.of[j], from, to < n ? to : n, next);
      from = from > n ? from - n : 0;
      to -= n;
      next -= n;
    }
  });
}

static void linears_together(const float* x, long m, const LinearJob* jobs, long count) {
  const Input in = room_for(x, m, jobs, count, kPackedA);
  fill(in);
  run_jobs(in, jobs, count);
}

static void feed_forward_together(const float* x, long m, const LinearJob* jobs) {
  const Input in = room_for(x, m, jobs, 2, kPackedA);
  fill(in);
  const Projected z(in, jobs, 2);
  const long inner = jobs[0].w.rows;
  float* gated = jobs[0].y;
  const Input next_in = room_for(gated, m, jobs + 2, 1, kPackedB);
  // A run finishes its part of the result: as bytes too, while it lies in the cache.
  share_outputs(in, inner, as_bytes(m) ? next_in.part : 16, [&](long from, long to, long next) {
    for (long j = 0; j < 2; j++) run_job(jobs[j], in, z.of[j], from, to, next);
    for (long i = 0; i < m; i++)
      gate(gated + i * inner, jobs[1].y + i * inner, from, to);
    if (as_bytes(m)) fill_bytes(next_in, 0, m, from, to);
  });
  fill_others(next_in);
  run_jobs(next_in, jobs + 2, 1);
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
    linear_bits<Bits>(x, m, w, job.y, job.add);
  }
}

static void linears(const float* x, long m, const LinearJob* jobs, long count) {
  if (go_together(m)) return linears_together(x, m, jobs, count);
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
}

static void feed_forward(const float* x, long m, const LinearJob* jobs) {
  if (go_together(m)) return feed_forward_together(x, m, jobs);
  linears(x, m, jobs, 2);
  swiglu(jobs[0].y, jobs[1].y, m * jobs[0].w.rows, jobs[0].y);
  linears(jobs[0].y, m, jobs + 2, 1);
}

}  // namespace MINIALIGN_ISA
}  // namespace minialign
