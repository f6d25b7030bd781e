// What every MLX primitive of this extension shares: streams, dense inputs, outputs.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "base/kernels.h"
#include "base/pool.h"
#include "mlx/allocator.h"
#include "mlx/array.h"
#include "mlx/backend/cpu/encoder.h"
#include "mlx/ops.h"
#include "mlx/primitives.h"
#include "mlx/utils.h"

namespace minialign {

namespace mx = mlx::core;

// The default stream of the CPU on the calling thread: these kernels run nowhere else.
mx::Stream cpu_stream();

// Allocates a dense, row-major output.
void allocate(mx::array& out);

// `a` itself if it is dense and row-major, else a dense copy that is made on the stream before
// whatever is dispatched next. The copy lives until the stream has passed it.
mx::array dense(const mx::array& a, mx::Stream stream);

// `a` itself if its last dimension is contiguous, else a dense copy.
mx::array dense_rows(const mx::array& a, mx::Stream stream);

// Allocates a (batch, heads, length, width) output that lies in memory as (batch, length, heads,
// width): the transpose back, which follows in every model, then costs nothing.
void allocate_heads_inside(mx::array& out);

// The first three strides of a four-dimensional array, in elements.
inline void take_strides(const mx::array& a, long* strides) {
  for (int i = 0; i < 3; i++) strides[i] = a.strides()[i];
}

// Waits while more than 8 MB of outputs are allocated for tasks of the calling thread that have not
// run yet, and gives back what the next task must hold until it has. (MLX would go a hundred
// operations ahead, none of which can use the memory that those before it are going to free.)
std::shared_ptr<void> wait_for_room();

// Runs `task` on the stream, after everything dispatched before.
template <class Task>
void dispatch(mx::Stream stream, Task&& task) {
  mx::cpu::get_command_encoder(stream).dispatch(
      [room = wait_for_room(), task = std::forward<Task>(task)]() mutable {
        const NoSubnormals here;
        task();
      });
}

// Throws std::invalid_argument unless the three arrays make a weight the kernels can read.
void check_weight(const mx::array& w, const std::optional<mx::array>& scales,
                  const std::optional<mx::array>& biases, int group, int bits);

// Columns of a weight; `w`: its float32 values, or its quantized words.
inline int weight_cols(const mx::array& w, int bits) {
  return bits == 32 ? w.shape(1) : w.shape(1) * 32 / bits;
}

// A quantized or (scales and biases empty) float32 matrix; the arrays must be dense.
Weight weight_view(const mx::array& words, const mx::array* scales, const mx::array* biases,
                   int group, int bits);

// Of words, scales and biases one after the other, or a float32 matrix alone.
inline Weight weight_view(const mx::array* parts, int group, int bits) {
  const bool quantized = bits != 32;
  return weight_view(parts[0], quantized ? &parts[1] : nullptr, quantized ? &parts[2] : nullptr,
                     group, bits);
}

// Rows of an array seen as (rows, last dimension).
inline long rows_of(const mx::array& a) { return a.size() == 0 ? 0 : a.size() / a.shape(-1); }

// A primitive of this extension: CPU only; vmap and jvp are not offered.
class CpuPrimitive : public mx::Primitive {
 public:
  explicit CpuPrimitive(mx::Stream stream) : mx::Primitive(stream) {}
  void eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) override {
    throw std::runtime_error("minialign's native kernels run on the CPU only");
  }
};

}  // namespace minialign
