// Matrix products over packed operands: C (m, n) = A (m, k) @ B (k, n).
//
// A is packed once into strips of `rows` <= kTileRows rows, [strip][k][kTileRows]; B is packed by
// each task into strips of kTileCols columns, [k][kTileCols], and decoded on the way when it is
// quantized. The micro-kernel keeps a (rows x kTileCols) tile of C in registers.
#pragma once

#include "base/parallel.h"
#include "matmul/weights.h"

namespace minialign {
namespace MINIALIGN_ISA {

// Columns of A a micro-kernel call runs over, so that A's strip stays in L1. The last call takes a
// few more when only these are left: for them alone it would go over C once more.
constexpr long kDepth = 384, kFewMore = 32;

INLINE long depth_at(long k0, long k) { return k - k0 <= kDepth + kFewMore ? k - k0 : kDepth; }

template <int Rows>
static void micro_kernel(long depth, const float* a, const float* b, float* c, long ldc, long cols,
                         bool add) {
  Vec left[Rows], right[Rows];
#pragma GCC unroll 16
  for (int r = 0; r < Rows; r++) left[r] = right[r] = Vec{};
  for (long k = 0; k < depth; k++, a += kTileRows, b += kTileCols) {
    const Vec b0 = load(b), b1 = load(b + kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < Rows; r++) {
      left[r] += a[r] * b0;
      right[r] += a[r] * b1;
    }
  }
  if (cols >= kTileCols) {
#pragma GCC unroll 16
    for (int r = 0; r < Rows; r++) {
      float* out = c + r * ldc;
      store(out, add ? left[r] + load(out) : left[r]);
      store(out + kLanes, add ? right[r] + load(out + kLanes) : right[r]);
    }
    return;
  }
  float tile[kTileCols];
  for (int r = 0; r < Rows; r++) {
    float* out = c + r * ldc;
    store(tile, left[r]);
    store(tile + kLanes, right[r]);
    for (long j = 0; j < cols; j++) out[j] = add ? out[j] + tile[j] : tile[j];
  }
}

typedef void (*MicroKernel)(long, const float*, const float*, float*, long, long, bool);

template <int Rows>
INLINE MicroKernel pick_micro_kernel(long rows) {
  if constexpr (Rows == 0) {
    return nullptr;
  } else {
    return rows == Rows ? micro_kernel<Rows> : pick_micro_kernel<Rows - 1>(rows);
  }
}

// Rows of A in strips of equal height.
struct Strips {
  long count, rows, stride;  // stride: floats from one packed strip to the next
  Strips(long m, long k) {
    count = (m + kTileRows - 1) / kTileRows;
    rows = count ? (m + count - 1) / count : 0;
    count = rows ? (m + rows - 1) / rows : 0;
    stride = k * kTileRows + 2 * kLanes;  // stores of whole vectors run over a strip's end
  }
  long height(long strip, long m) const {
    return m - strip * rows < rows ? m - strip * rows : rows;
  }
};

// Packs `rows` rows (contiguous in k) of a row-major A into one strip.
INLINE void pack_strip(const float* a, long lda, long rows, long k, float* out) {
  long i = 0;
  for (; i + kLanes <= k; i += kLanes) {
    float* to = out + i * kTileRows;
    Vec squares[(kTileRows + kLanes - 1) / kLanes][kLanes];
    constexpr int kSquares = (kTileRows + kLanes - 1) / kLanes;
    for (int s = 0; s < kSquares; s++) {
#pragma GCC unroll 16
      for (int r = 0; r < kLanes; r++) {
        const long row = s * kLanes + r;
        squares[s][r] = row < rows ? load(a + row * lda + i) : Vec{};
      }
      transpose(squares[s]);
    }
    // In rising order: each store overwrites the surplus lanes of the one before.
    for (int j = 0; j < kLanes; j++)
      for (int s = 0; s < kSquares; s++) store(to + j * kTileRows + s * kLanes, squares[s][j]);
  }
  for (; i < k; i++)
    for (long r = 0; r < kTileRows; r++) out[i * kTileRows + r] = r < rows ? a[r * lda + i] : 0.f;
}

// Packs `rows` columns of a row-major (k, lda) matrix, i.e. rows of its transpose, into one strip.
INLINE void pack_strip_transposed(const float* a, long lda, long rows, long k, float* out) {
  for (long i = 0; i < k; i++, out += kTileRows)
    for (long r = 0; r < kTileRows; r++) out[r] = r < rows ? a[i * lda + r] : 0.f;
}

// A operands: `pack` writes the strip of rows [first, first + height), all of the depth.
struct RowsOf {  // a row-major (m, k) matrix
  const float* a;
  long lda, k;
  void pack(long first, long height, float* out) const {
    pack_strip(a + first * lda, lda, height, k, out);
  }
};

struct ColumnsOf {  // the transpose of a row-major (k, m) matrix
  const float* a;
  long lda, k;
  void pack(long first, long height, float* out) const {
    pack_strip_transposed(a + first, lda, height, k, out);
  }
};

// B operands: `pack` writes columns [n, n + cols) of depth [k, k + depth).
// B = w^T: its columns are rows [n, n + cols) of w, its depth w's columns [k, k + depth).
template <int Bits>
struct TransposedWeight {
  const Weight& w;
  void pack(long k, long depth, long n, long cols, float* out) const {
    for (int half = 0; half < 2; half++) {
      const long first = n + half * kLanes;
      const long valid = n + cols - first;
      float* to = out + half * kLanes;
      if (valid <= 0) {
        for (long i = 0; i < depth; i++) store(to + i * kTileCols, Vec{});
        continue;
      }
      if constexpr (Bits == 32) {
        pack_float(k, depth, first, valid, to);
      } else {
        pack_quantized(k, depth, first, valid, to);
      }
    }
  }

  void pack_float(long k, long depth, long first, long valid, float* to) const {
    const float* source = (const float*)w.words + first * w.cols + k;
    long i = 0;
    for (; i + kLanes <= depth; i += kLanes) {
      Vec square[kLanes];
#pragma GCC unroll 16
      for (int r = 0; r < kLanes; r++)
        square[r] = r < valid ? load(source + r * w.cols + i) : Vec{};
      transpose(square);
#pragma GCC unroll 16
      for (int j = 0; j < kLanes; j++) store(to + (i + j) * kTileCols, square[j]);
    }
    for (; i < depth; i++)
      for (int r = 0; r < kLanes; r++)
        to[i * kTileCols + r] = r < valid ? source[r * w.cols + i] : 0.f;
  }

  void pack_quantized(long k, long depth, long first, long valid, float* to) const {
    const long groups = w.cols / w.group;
    const uint8_t* source = row(w, first);
    const long bytes = row_bytes(w);
    float scales[kLanes], biases[kLanes];
    long g = k / w.group, group_ends = 0;  // the depth's parts are whole groups
    for (long i = 0; i < depth; i += kLanes) {
      if (i == group_ends) {
        for (int r = 0; r < kLanes; r++) {
          const long at = (first + (r < valid ? r : 0)) * groups + g;
          scales[r] = scale_at(w.scales, w.scale_type, at);
          biases[r] = scale_at(w.biases, w.scale_type, at);
        }
        g++;
        group_ends += w.group;
      }
      Vec square[kLanes];
#pragma GCC unroll 16
      for (int r = 0; r < kLanes; r++)
        square[r] = decode<Bits>(source + (r < valid ? r : 0) * bytes, k + i, scales[r], biases[r]);
      transpose(square);
#pragma GCC unroll 16
      for (int j = 0; j < kLanes; j++) store(to + (i + j) * kTileCols, square[j]);
    }
  }
};

// B = w: its columns are columns [n, n + cols) of w, its depth w's rows [k, k + depth).
template <int Bits>
struct StraightWeight {
  const Weight& w;
  void pack(long k, long depth, long n, long cols, float* out) const {
    const long groups = Bits == 32 ? 0 : w.cols / w.group;
    const long group = Bits == 32 ? 1 : w.group;
    const long group_of[2] = {n / group, (n + kLanes) / group};
    for (long i = 0; i < depth; i++, out += kTileCols) {
      const uint8_t* source = row(w, k + i);
      for (int half = 0; half < 2; half++) {
        const long at = n + half * kLanes, valid = cols - half * kLanes;
        Vec v = Vec{};
        if constexpr (Bits == 32) {
          const float* p = (const float*)source + at;
          if (valid >= kLanes)
            v = load(p);
          else if (valid > 0)
            v = load_part(p, valid);
        } else if (valid > 0) {
          const long g = (k + i) * groups + group_of[half];
          v = decode<Bits>(source, at, scale_at(w.scales, w.scale_type, g),
                           scale_at(w.biases, w.scale_type, g));
        }
        store(out + half * kLanes, v);
      }
    }
  }
};

// One B above the other: the depth runs over `k` of the first, then over the second.
template <class First, class Second>
struct Stacked {
  First first;
  long k;
  Second second;
  void pack(long from, long depth, long n, long cols, float* out) const {
    const long above = from >= k ? 0 : k - from < depth ? k - from : depth;
    if (above > 0) first.pack(from, above, n, cols, out);
    if (above < depth)
      second.pack(from + above - k, depth - above, n, cols, out + above * kTileCols);
  }
};

// One task of a product: C[rows of strips s0..s1, columns n0..n1], with A already packed.
template <class B>
INLINE void gemm_task(const float* packed_a, const Strips& strips, long m, long k, const B& b,
                      long s0, long s1, long n0, long n1, float* c, long ldc, bool add,
                      float* packed_b) {
  const long b_strips = (n1 - n0 + kTileCols - 1) / kTileCols;
  for (long k0 = 0, depth; k0 < k; k0 += depth) {
    depth = depth_at(k0, k);
    for (long j = 0; j < b_strips; j++) {
      const long n = n0 + j * kTileCols;
      b.pack(k0, depth, n, n1 - n < kTileCols ? n1 - n : kTileCols,
             packed_b + j * depth * kTileCols);
    }
    for (long s = s0; s < s1; s++) {
      const long rows = strips.height(s, m);
      const MicroKernel kernel = pick_micro_kernel<kTileRows>(rows);
      for (long j = 0; j < b_strips; j++) {
        const long n = n0 + j * kTileCols;
        kernel(depth, packed_a + s * strips.stride + k0 * kTileRows,
               packed_b + j * depth * kTileCols, c + s * strips.rows * ldc + n, ldc, n1 - n,
               add || k0 > 0);
      }
    }
  }
}

constexpr long kMaxRows = 1024;  // rows of A that are packed at once

// Strips that one task packs.
INLINE long strips_a_chunk(long k) { return 1 + 60000 / (k * kTileRows); }

// C (m, n) = A @ B, or += if add, for m <= kMaxRows rows of A already packed.
template <class B>
static void gemm_packed(const float* packed_a, const Strips& strips, long m, long n, long k,
                        const B& b, float* c, long ldc, bool add) {
  // Tasks: six tiles of columns, so that a strip of A that was fetched is used six times; rows
  // are split as far as that gives too few tasks to end together (B is then decoded again).
  const long tiles = (n + kTileCols - 1) / kTileCols, wanted = 6 * thread_count();
  const long most = (strips.count + 3) / 4;
  long width = tiles * most / wanted;
  width = width < 1 ? 1 : width > 6 ? 6 : width;
  const long n_tasks = (tiles + width - 1) / width;
  width = (tiles + n_tasks - 1) / n_tasks;
  long m_tasks = (wanted + n_tasks - 1) / n_tasks;
  m_tasks = m_tasks > most ? most : m_tasks;
  auto task = [&](long t) {
    const long ni = t / m_tasks, mi = t % m_tasks;
    const long s0 = strips.count * mi / m_tasks, s1 = strips.count * (mi + 1) / m_tasks;
    const long n0 = ni * width * kTileCols;
    const long n1 = n0 + width * kTileCols < n ? n0 + width * kTileCols : n;
    const long deepest = k < kDepth + kFewMore ? k : kDepth + kFewMore;
    float* packed_b = (float*)scratch(kPackedB, deepest * width * kTileCols * 4 + 256);
    gemm_task(packed_a, strips, m, k, b, s0, s1, n0, n1, c, ldc, add, packed_b);
  };
  if (m * n * k < 50000) {
    for (long t = 0; t < n_tasks * m_tasks; t++) task(t);
  } else {
    parallel(n_tasks * m_tasks, task);
  }
}

// C (m, n) = A @ B, or += if add, split over the pool.
template <class A, class B>
static void gemm(const A& a, long m, long n, long k, const B& b, float* c, long ldc, bool add) {
  if (m == 0 || n == 0) return;
  if (k == 0) {
    for (long i = 0; i < m && !add; i++) memset(c + i * ldc, 0, n * 4);
    return;
  }
  for (long m0 = 0; m0 < m; m0 += kMaxRows) {
    const long rows = m - m0 < kMaxRows ? m - m0 : kMaxRows;
    const Strips strips(rows, k);
    float* packed_a = (float*)scratch(kPackedA, strips.count * strips.stride * 4 + 256);
    const long chunk_strips = strips_a_chunk(k);
    parallel((strips.count + chunk_strips - 1) / chunk_strips, [&](long chunk) {
      const long end = (chunk + 1) * chunk_strips;
      for (long s = chunk * chunk_strips; s < end && s < strips.count; s++)
        a.pack(m0 + s * strips.rows, strips.height(s, rows), packed_a + s * strips.stride);
    });
    gemm_packed(packed_a, strips, rows, n, k, b, c + m0 * ldc, ldc, add);
  }
}

}  // namespace MINIALIGN_ISA
}  // namespace minialign
