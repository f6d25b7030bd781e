// The kernels as a table of plain functions, one table per instruction set.
//
// A kernel is named by operation, regime and instruction set:
// - operation: its folder (matmul, attention, logps, lora, pointwise, decode);
// - regime: of several that make the same product, how many rows of x it is for: `rows_1` for one,
//   `rows_to_8` for one to eight, `rows` for any number, `gemm` for many;
// - instruction set: in front of that, if it needs one: `avx512_rows_1`, `vnni_rows`. A kernel
//   without it is written for all of them and compiled for each.
// `_task` behind a name is the part of the outputs that one thread makes at a time, `_op` in a
// file's name the operation of MLX around a kernel. Which product serves how many rows is written
// in matmul/choice.h, which instruction set is used in kernels_choice.cpp.
#pragma once

#include <stdint.h>

namespace minialign {

enum class ScaleType { float32, float16, bfloat16 };

// A (rows, cols) matrix, row-major: float32 (bits = 32) or affine-quantized as mx.quantize does it:
// value = scale * q + bias, one scale and bias for `group` columns, q packed from the low bits up.
struct Weight {
  const void* words;
  const void* scales;
  const void* biases;
  long rows;
  long cols;
  int bits;
  int group;
  ScaleType scale_type;
};

// Rotary position embedding of x (batch, heads, length, width); strides in floats, unit last.
struct RopeArgs {
  const float* x;
  float* y;
  long batch, heads, length, width, dims;
  long x_stride[3], y_stride[3];
  const float *cosines, *sines;  // (length, dims / 2), or (batch, length, dims / 2)
  bool one_table;                // the first of the two
  bool interleaved;              // pairs (2i, 2i + 1) instead of (i, i + dims / 2)
  float sign;                    // -1 rotates back: the gradient
};

// logps (rows,) of targets (rows,) under softmax(hidden (rows, w.cols) @ w^T).
struct LogpArgs {
  const float* hidden;
  const int32_t* targets;
  const Weight* w;
  long rows;
  float* logps;
  float* jacobian;   // (rows, w.cols) d logp / d hidden, or null
  long range_width;  // set by the kernel
};

// Scaled dot-product attention with grouped heads. q, o, dout, dq: (batch, heads, queries, width);
// k, v, dk, dv: (batch, kv_heads, keys, width). Strides in floats, the last one 1.
struct AttentionArgs {
  long batch, heads, kv_heads, queries, keys, width;
  float scale;
  bool causal;  // query i sees keys up to keys - queries + i
  const float *q, *k, *v;
  long q_stride[3], k_stride[3], v_stride[3];
  const uint8_t* mask;      // (batch, heads, queries, keys), true: seen; or null
  const float* mask_added;  // the same shape, added to the scores; or null
  long mask_stride[3];      // in elements, 0 where it is broadcast
  float* o;
  long o_stride[3];
  float* lse;  // (batch, heads, queries) log of the sum of exponentials
  // Backward only:
  const float* dout;
  long dout_stride[3];
  float *dq, *dk, *dv;
  long dq_stride[3], dk_stride[3];
};

// y = x @ w^T + scale * (x @ a) @ b: x (m, K), w (N, K), a (K, rank), b (rank, N).
struct LoraArgs {
  const float *x, *a, *b;
  const Weight* w;
  long m, rank;
  float scale;
  float* y;  // (m, N)
  bool add;  // y += instead of y =; backward: dx += instead of dx =
  float* z;  // (rank, m): scale * (x @ a) transposed, kept for the backward pass
  // Backward only; dx may be null.
  const float* dy;
  float *dx, *da, *db;
};

constexpr long kMostSiblings = 3;

// One of several linear layers that read the same input (q, k and v; gate and up).
struct LinearJob {
  Weight w;
  const float* bias;              // (N,) or null
  const float *a, *a_transposed;  // low-rank addition, (K, rank) and (rank, K), or null
  const float* b;                 // (rank, N)
  long rank;
  float scale;
  float* y;  // (m, N)
  bool add;  // y += instead of y =
};

// Keys and values of kPageTokens tokens of one layer and row of a batch. Keys lie transposed in
// blocks of as many tokens as a vector has lanes, [kv_head][block][width][lane]; then the values,
// [kv_head][token][width].
constexpr long kPageTokens = 32;

// Attention of one new token a row over its pages, into the last of which it writes its own key and
// value. Pages that rows have in common are read once for all of them.
struct DecodeArgs {
  long rows, heads, kv_heads, width;
  float scale;
  const float *q, *k, *v;  // (rows, heads or kv_heads, width), q and k not yet rotated
  long dims;               // of `width` to rotate, see RopeArgs
  bool interleaved;
  const float *cosines, *sines;  // (rows, dims / 2)
  float* out;                    // (rows, heads, width)
  float* const* pages;           // the pages of row 0, then of row 1, ...
  const long* first_page;        // (rows,) where a row's pages start
  const long* lengths;           // (rows,) tokens to look at, the new one included
};

struct Kernels {
  const char* name;
  // y (m, w.rows) = x (m, w.cols) @ w^T.
  void (*linear)(const float* x, long m, const Weight& w, float* y);
  // dx (m, w.cols) = dy (m, w.rows) @ w.
  void (*linear_grad)(const float* dy, long m, const Weight& w, float* dx);
  // dw (N, K) = dy (m, N)^T @ x (m, K), float32.
  void (*weight_grad)(const float* x, const float* dy, long m, long n, long k, float* dw);
  // out (n, w.cols) = w[ids]; ids outside the rows give zeros.
  void (*gather_rows)(const Weight& w, const int32_t* ids, long n, float* out);
  void (*selected_logps)(const LogpArgs& args);
  void (*swiglu)(const float* gate, const float* up, long size, float* out);
  void (*swiglu_grad)(const float* gate, const float* up, const float* dout, long size,
                      float* dgate, float* dup);
  void (*rms_norm)(const float* x, const float* weight, long rows, long n, float eps, float* y);
  void (*rms_norm_grad)(const float* x, const float* weight, const float* dy, long rows, long n,
                        float eps, float* dx);
  void (*softmax)(const float* x, long rows, long n, float* y);
  void (*softmax_grad)(const float* y, const float* dy, long rows, long n, float* dx);
  void (*logsumexp)(const float* x, long rows, long n, float* out);
  void (*logsumexp_grad)(const float* x, const float* lse, const float* factor, long rows, long n,
                         float* dx);
  // A token of each row of logits (rows, n) for uniforms (rows,) in [0, 1); -1 if a row has no
  // finite largest logit.
  void (*draw)(const float* logits, long rows, long n, float temperature, const double* uniforms,
               int32_t* out);
  void (*rope)(const RopeArgs& args);
  void (*attention)(const AttentionArgs& args);
  void (*attention_grad)(const AttentionArgs& args);
  // Up to kMostSiblings layers of one x.
  void (*lora)(const LoraArgs* jobs, long count);
  void (*lora_grad)(const LoraArgs* jobs, long count);
  // All jobs, up to kMostSiblings, on x (m, K).
  void (*linears)(const float* x, long m, const LinearJob* jobs, long count);
  // Three jobs: the third on silu(first) * second of x. The y of those two is room, overwritten.
  void (*feed_forward)(const float* x, long m, const LinearJob* jobs);
  void (*decode_attention)(const DecodeArgs& args);
  // Writes n tokens' keys and values, k and v (n, kv_heads, width) with their strides in floats
  // for token and head, into a new page.
  void (*fill_page)(float* page, long kv_heads, long width, long n, const float* k, const float* v,
                    const long* k_stride, const long* v_stride);
};

// The table for this machine: MINIALIGN_ISA if set and supported, else the widest.
const Kernels& kernels();

// Whether the AVX-512 table may use products of bytes (VNNI), which it looks at in each call.
extern bool has_vnni;

}  // namespace minialign
