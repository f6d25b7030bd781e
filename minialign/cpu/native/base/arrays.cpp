#include "base/arrays.h"

#include <atomic>
#include <cstring>
#include <stdexcept>
#include <utility>

namespace minialign {

mx::Stream cpu_stream() { return mx::to_stream(mx::StreamOrDevice{mx::Device::cpu}); }

static thread_local size_t allocated = 0;  // bytes, for the next task

static auto take(size_t bytes) {
  allocated += bytes;
  return mx::allocator::malloc(bytes);
}

void allocate(mx::array& out) { out.set_data(take(out.nbytes())); }

std::shared_ptr<void> wait_for_room() {
  constexpr size_t kRoom = 8 << 20;
  // Shared with the tasks, which may outlive the thread.
  static thread_local auto ahead = std::make_shared<std::atomic<size_t>>(0);
  for (size_t bytes; (bytes = ahead->load()) > kRoom;) ahead->wait(bytes);
  const size_t own = std::exchange(allocated, 0);
  ahead->fetch_add(own);
  return {nullptr, [ahead = ahead, own](void*) {
            ahead->fetch_sub(own);
            ahead->notify_all();
          }};
}

static void copy_strided(const char* from, const mx::Shape& shape, const mx::Strides& strides,
                         size_t item, size_t dim, char*& to) {
  if (dim == shape.size()) {
    std::memcpy(to, from, item);
    to += item;
    return;
  }
  const int64_t step = strides[dim] * static_cast<int64_t>(item);
  if (dim + 1 == shape.size() && strides[dim] == 1) {
    std::memcpy(to, from, shape[dim] * item);
    to += shape[dim] * item;
    return;
  }
  for (int i = 0; i < shape[dim]; i++)
    copy_strided(from + i * step, shape, strides, item, dim + 1, to);
}

mx::array dense(const mx::array& a, mx::Stream stream) {
  if (a.flags().row_contiguous) return a;
  mx::array copy(a.shape(), a.dtype(), nullptr, {});
  allocate(copy);
  auto& encoder = mx::cpu::get_command_encoder(stream);
  encoder.add_temporary(copy);
  encoder.dispatch([from = a.data<char>(), shape = a.shape(), strides = a.strides(),
                    item = a.itemsize(), to = copy.data<char>()]() mutable {
    copy_strided(from, shape, strides, item, 0, to);
  });
  return copy;
}

mx::array dense_rows(const mx::array& a, mx::Stream stream) {
  return a.shape(-1) == 1 || a.strides().back() == 1 ? a : dense(a, stream);
}

void allocate_heads_inside(mx::array& out) {
  const int64_t heads = out.shape(1), length = out.shape(2), width = out.shape(3);
  mx::Strides strides = {length * heads * width, width, heads * width, 1};
  mx::array::Flags flags{};
  flags.contiguous = true;
  flags.row_contiguous = heads == 1 || length == 1;
  flags.col_contiguous = out.size() <= 1;
  out.set_data(take(out.nbytes()), out.size(), strides, flags);
}

void check_weight(const mx::array& w, const std::optional<mx::array>& scales,
                  const std::optional<mx::array>& biases, int group, int bits) {
  auto require = [](bool ok, const char* what) {
    if (!ok) throw std::invalid_argument(what);
  };
  require(w.ndim() == 2, "weight: must have two dimensions");
  if (bits == 32) {
    require(w.dtype() == mx::float32 && !scales && !biases, "weight: must be float32");
    return;
  }
  require(bits == 4 || bits == 8, "weight: bits must be 4, 8 or 32");
  require(group == 32 || group == 64 || group == 128, "weight: group must be 32, 64 or 128");
  require(w.dtype() == mx::uint32, "weight: quantized words must be uint32");
  require(scales && biases, "weight: quantized words need scales and biases");
  const auto type = scales->dtype();
  require(type == mx::float32 || type == mx::float16 || type == mx::bfloat16,
          "weight: scales must be float32, float16 or bfloat16");
  require(biases->dtype() == type && biases->shape() == scales->shape(),
          "weight: biases must have the type and shape of the scales");
  require(scales->ndim() == 2 && scales->shape(0) == w.shape(0) &&
              scales->shape(1) * group * bits == w.shape(1) * 32,
          "weight: the scales do not fit the words");
}

Weight weight_view(const mx::array& words, const mx::array* scales, const mx::array* biases,
                   int group, int bits) {
  Weight w{};
  w.words = words.data<char>();
  w.rows = words.shape(0);
  w.cols = weight_cols(words, bits);
  w.bits = bits;
  w.group = group;
  if (bits != 32) {
    w.scales = scales->data<char>();
    w.biases = biases->data<char>();
    w.scale_type = scales->dtype() == mx::float16    ? ScaleType::float16
                   : scales->dtype() == mx::bfloat16 ? ScaleType::bfloat16
                                                     : ScaleType::float32;
  }
  return w;
}

}  // namespace minialign
