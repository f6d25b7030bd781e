// SwiGLU, softmax, RMSNorm and RoPE: passes over rows, forward and backward.
#pragma once

#include "base/kernels.h"
#include "base/parallel.h"

namespace minialign {
namespace MINIALIGN_ISA {

constexpr long kChunk = 16384;  // floats a chunk of an element-wise pass

INLINE Vec sigmoid(Vec x) { return reciprocal(1.f + exp(-x)); }

// Calls body(i, n) over [0, size) in vectors; n < kLanes only at the end.
template <class Body>
INLINE void each_vector(long size, const Body& body) {
  parallel((size + kChunk - 1) / kChunk, [&](long c) {
    const long end = (c + 1) * kChunk < size ? (c + 1) * kChunk : size;
    long i = c * kChunk;
    for (; i + kLanes <= end; i += kLanes) body(i, (long)kLanes);
    if (i < end) body(i, end - i);
  });
}

INLINE Vec load_n(const float* p, long n) { return n == kLanes ? load(p) : load_part(p, n); }
INLINE void store_n(float* p, Vec v, long n) {
  if (n == kLanes)
    store(p, v);
  else
    store_part(p, v, n);
}

// out = silu(gate) * up
static void swiglu(const float* gate, const float* up, long size, float* out) {
  each_vector(size, [=](long i, long n) {
    const Vec g = load_n(gate + i, n);
    store_n(out + i, g * sigmoid(g) * load_n(up + i, n), n);
  });
}

static void swiglu_grad(const float* gate, const float* up, const float* dout, long size,
                        float* dgate, float* dup) {
  each_vector(size, [=](long i, long n) {
    const Vec g = load_n(gate + i, n), d = load_n(dout + i, n), s = sigmoid(g);
    store_n(dgate + i, d * load_n(up + i, n) * s * (1.f + g * (1.f - s)), n);
    store_n(dup + i, d * g * s, n);
  });
}

// The largest of n values.
INLINE float largest(const float* x, long n) {
  Vec best = broadcast(-__builtin_inff());
  long i = 0;
  for (; i + kLanes <= n; i += kLanes) best = max(best, load(x + i));
  if (i < n) best = max(best, load_part(x + i, n - i, -__builtin_inff()));
  return max_lane(best);
}

// Calls body(row) for every row of n values.
template <class Body>
INLINE void each_row(long rows, long n, const Body& body) {
  const long step = 1 + kChunk / n;
  parallel((rows + step - 1) / step, [&](long c) {
    for (long r = c * step; r < rows && r < (c + 1) * step; r++) body(r);
  });
}

static void softmax(const float* x, long rows, long n, float* y) {
  each_row(rows, n, [=](long r) {
    const float* from = x + r * n;
    float* to = y + r * n;
    const float top = largest(from, n);
    Vec sums = Vec{};
    long i = 0;
    for (; i + kLanes <= n; i += kLanes) {
      const Vec e = exp(load(from + i) - top);
      sums += e;
      store(to + i, e);
    }
    if (i < n) {
      const Vec e = exp(load_part(from + i, n - i, -__builtin_inff()) - top);
      sums += e;
      store_part(to + i, e, n - i);
    }
    const float inverse = 1.f / sum(sums);
    for (i = 0; i < n; i++) to[i] *= inverse;
  });
}

static void logsumexp(const float* x, long rows, long n, float* out) {
  each_row(rows, n, [=](long r) {
    const float* from = x + r * n;
    const float top = largest(from, n);
    Vec sums = Vec{};
    long i = 0;
    for (; i + kLanes <= n; i += kLanes) sums += exp(load(from + i) - top);
    if (i < n) sums += exp(load_part(from + i, n - i, -__builtin_inff()) - top);
    out[r] = top == -__builtin_inff() ? top : top + __builtin_logf(sum(sums));
  });
}

// dx = factor[row] * exp(x - lse[row]): the gradient of logsumexp.
static void logsumexp_grad(const float* x, const float* lse, const float* factor, long rows, long n,
                           float* dx) {
  each_row(rows, n, [=](long r) {
    const float* from = x + r * n;
    float* to = dx + r * n;
    long i = 0;
    for (; i + kLanes <= n; i += kLanes) store(to + i, factor[r] * exp(load(from + i) - lse[r]));
    if (i < n) store_part(to + i, factor[r] * exp(load_part(from + i, n - i) - lse[r]), n - i);
  });
}

INLINE float dot(const float* a, const float* b, long n) {
  Vec s0 = Vec{}, s1 = Vec{};
  long i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    s0 += load(a + i) * load(b + i);
    s1 += load(a + i + kLanes) * load(b + i + kLanes);
  }
  float total = sum(s0 + s1);
  for (; i < n; i++) total += a[i] * b[i];
  return total;
}

INLINE float inverse_rms(const float* x, long n, float eps) {
  return 1.f / __builtin_sqrtf(dot(x, x, n) / n + eps);
}

INLINE void rms_norm_row(const float* x, const float* weight, long n, float eps, float* y) {
  const float r = inverse_rms(x, n, eps);
  for (long i = 0; i < n; i++) y[i] = x[i] * r * weight[i];
}

static void rms_norm(const float* x, const float* weight, long rows, long n, float eps, float* y) {
  each_row(rows, n, [=](long r) { rms_norm_row(x + r * n, weight, n, eps, y + r * n); });
}

// dx = y (dy - sum(y dy)), y the softmax.
static void softmax_grad(const float* y, const float* dy, long rows, long n, float* dx) {
  each_row(rows, n, [=](long r) {
    const float *p = y + r * n, *d = dy + r * n;
    const float mean = dot(p, d, n);
    for (long i = 0; i < n; i++) dx[r * n + i] = p[i] * (d[i] - mean);
  });
}

// dx = r (w dy) - x r^3 mean(w dy x), r the inverse root mean square of the row.
static void rms_norm_grad(const float* x, const float* weight, const float* dy, long rows, long n,
                          float eps, float* dx) {
  each_row(rows, n, [=](long row) {
    const float* xr = x + row * n;
    const float* dr = dy + row * n;
    float* out = dx + row * n;
    const float r = inverse_rms(xr, n, eps);
    for (long i = 0; i < n; i++) out[i] = dr[i] * weight[i];
    const float shrink = r * r * r * dot(out, xr, n) / n;
    for (long i = 0; i < n; i++) out[i] = out[i] * r - xr[i] * shrink;
  });
}

// One head's vector of `dims` rotated values; cosines and sines are (dims / 2,).
INLINE void rotate(const float* x, const float* cosines, const float* sines, long dims,
                   bool interleaved, float sign, float* y) {
  const long half = dims / 2;
  if (interleaved) {
    for (long i = 0; i < half; i++) {
      const float a = x[2 * i], b = x[2 * i + 1], s = sign * sines[i];
      y[2 * i] = a * cosines[i] - b * s;
      y[2 * i + 1] = a * s + b * cosines[i];
    }
    return;
  }
  for (long i = 0; i < half; i++) {
    const float a = x[i], b = x[i + half], s = sign * sines[i];
    y[i] = a * cosines[i] - b * s;
    y[i + half] = a * s + b * cosines[i];
  }
}

static void rope(const RopeArgs& r) {
  each_row(r.batch * r.length, r.heads * r.width, [&](long t) {
    const long b = t / r.length, l = t % r.length;
    const float* cosines = r.cosines + (r.one_table ? l : t) * (r.dims / 2);
    const float* sines = r.sines + (r.one_table ? l : t) * (r.dims / 2);
    for (long h = 0; h < r.heads; h++) {
      const float* x = r.x + b * r.x_stride[0] + h * r.x_stride[1] + l * r.x_stride[2];
      float* y = r.y + b * r.y_stride[0] + h * r.y_stride[1] + l * r.y_stride[2];
      rotate(x, cosines, sines, r.dims, r.interleaved, r.sign, y);
      if (r.dims < r.width) memcpy(y + r.dims, x + r.dims, (r.width - r.dims) * 4);
    }
  });
}

}  // namespace MINIALIGN_ISA
}  // namespace minialign
