#include "pointwise/pointwise_ops.h"

#include <cmath>
#include <cstring>
#include <stdexcept>

#include "base/pool.h"

namespace minialign {
namespace {

class SwiGlu : public CpuPrimitive {
 public:
  using CpuPrimitive::CpuPrimitive;
  const char* name() const override { return "MinialignSwiGlu"; }
  bool is_equivalent(const mx::Primitive&) const override { return true; }
  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override {
    return {inputs[0].shape()};
  }

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    const auto gate = dense(inputs[0], stream()), up = dense(inputs[1], stream());
    allocate(outputs[0]);
    dispatch(stream(), [g = gate.data<float>(), u = up.data<float>(),
                        size = static_cast<long>(gate.size()), out = outputs[0].data<float>()] {
      kernels().swiglu(g, u, size, out);
    });
  }

  std::vector<mx::array> vjp(const std::vector<mx::array>& primals,
                             const std::vector<mx::array>& cotangents,
                             const std::vector<int>& argnums,
                             const std::vector<mx::array>&) override;
};

class SwiGluGrad : public CpuPrimitive {
 public:
  using CpuPrimitive::CpuPrimitive;
  const char* name() const override { return "MinialignSwiGluGrad"; }
  bool is_equivalent(const mx::Primitive&) const override { return true; }
  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override {
    return {inputs[0].shape(), inputs[0].shape()};
  }

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    const auto gate = dense(inputs[0], stream()), up = dense(inputs[1], stream());
    const auto dout = dense(inputs[2], stream());
    allocate(outputs[0]);
    allocate(outputs[1]);
    dispatch(stream(), [g = gate.data<float>(), u = up.data<float>(), d = dout.data<float>(),
                        size = static_cast<long>(gate.size()), dg = outputs[0].data<float>(),
                        du = outputs[1].data<float>()] {
      kernels().swiglu_grad(g, u, d, size, dg, du);
    });
  }
};

std::vector<mx::array> SwiGlu::vjp(const std::vector<mx::array>& primals,
                                   const std::vector<mx::array>& cotangents,
                                   const std::vector<int>& argnums,
                                   const std::vector<mx::array>&) {
  const auto shape = primals[0].shape();
  auto both = mx::array::make_arrays({shape, shape}, {mx::float32, mx::float32},
                                     std::make_shared<SwiGluGrad>(stream()),
                                     {primals[0], primals[1], cotangents[0]});
  std::vector<mx::array> grads;
  for (int arg : argnums) grads.push_back(both[arg]);
  return grads;
}

// Inputs: x, weight[, dy]: with dy it is the gradient by x.
class RmsNorm : public CpuPrimitive {
 public:
  RmsNorm(mx::Stream stream, float eps, bool gradient)
      : CpuPrimitive(stream), eps_(eps), gradient_(gradient) {}
  bool forward() const { return !gradient_; }
  const char* name() const override {
    return gradient_ ? "MinialignRmsNormGrad" : "MinialignRmsNorm";
  }
  bool is_equivalent(const mx::Primitive& other) const override {
    const auto& o = static_cast<const RmsNorm&>(other);
    return eps_ == o.eps_ && gradient_ == o.gradient_;
  }
  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override {
    return {inputs[0].shape()};
  }

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    const auto x = dense(inputs[0], stream()), weight = dense(inputs[1], stream());
    const auto dy = gradient_ ? dense(inputs[2], stream()) : x;
    allocate(outputs[0]);
    if (x.size() == 0) return;
    dispatch(stream(), [xp = x.data<float>(), w = weight.data<float>(), d = dy.data<float>(),
                        rows = rows_of(x), n = static_cast<long>(x.shape(-1)), eps = eps_,
                        gradient = gradient_, out = outputs[0].data<float>()] {
      if (gradient)
        kernels().rms_norm_grad(xp, w, d, rows, n, eps, out);
      else
        kernels().rms_norm(xp, w, rows, n, eps, out);
    });
  }

  std::vector<mx::array> vjp(const std::vector<mx::array>& primals,
                             const std::vector<mx::array>& cotangents,
                             const std::vector<int>& argnums,
                             const std::vector<mx::array>&) override {
    std::vector<mx::array> grads;
    const auto& x = primals[0];
    for (int arg : argnums) {
      if (arg == 0) {
        grads.push_back(mx::array(x.shape(), mx::float32,
                                  std::make_shared<RmsNorm>(stream(), eps_, true),
                                  {x, primals[1], cotangents[0]}));
      } else {
        const auto unit = rms_norm(x, mx::ones_like(primals[1], stream()), eps_);
        std::vector<int> axes;
        for (int i = 0; i + 1 < static_cast<int>(x.ndim()); i++) axes.push_back(i);
        const auto products = mx::multiply(cotangents[0], unit, stream());
        grads.push_back(mx::sum(products, axes, false, stream()));
      }
    }
    return grads;
  }

 private:
  float eps_;
  bool gradient_;
};

// Inputs: x, offsets (int32, one or one a row), frequencies (dims / 2,) float32.
class Rope : public CpuPrimitive {
 public:
  Rope(mx::Stream stream, int dims, bool traditional, float scale, bool back)
      : CpuPrimitive(stream), dims_(dims), traditional_(traditional), scale_(scale), back_(back) {}
  const char* name() const override { return "MinialignRope"; }
  bool is_equivalent(const mx::Primitive& other) const override {
    const auto& o = static_cast<const Rope&>(other);
    return dims_ == o.dims_ && traditional_ == o.traditional_ && scale_ == o.scale_ &&
           back_ == o.back_;
  }
  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override {
    return {inputs[0].shape()};
  }

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    const auto x = dense_rows(inputs[0], stream());
    const auto offsets = dense(inputs[1], stream()), frequencies = dense(inputs[2], stream());
    auto& out = outputs[0];
    allocate_heads_inside(out);
    if (out.size() == 0) return;
    RopeArgs args{};
    args.x = x.data<float>();
    args.y = out.data<float>();
    args.batch = x.shape(0);
    args.heads = x.shape(1);
    args.length = x.shape(2);
    args.width = x.shape(3);
    args.dims = dims_;
    args.interleaved = traditional_;
    args.sign = back_ ? -1.f : 1.f;
    args.one_table = offsets.size() == 1;
    take_strides(x, args.x_stride);
    take_strides(out, args.y_stride);
    dispatch(stream(), [args, scale = scale_, from = offsets.data<int32_t>(),
                        frequency = frequencies.data<float>()]() mutable {
      fill_table(args, from, frequency, scale);
      kernels().rope(args);
    });
  }

  std::vector<mx::array> vjp(const std::vector<mx::array>& primals,
                             const std::vector<mx::array>& cotangents,
                             const std::vector<int>& argnums,
                             const std::vector<mx::array>&) override {
    if (argnums != std::vector<int>{0})
      throw std::invalid_argument("native rope: only x has a gradient");
    return {mx::array(primals[0].shape(), mx::float32,
                      std::make_shared<Rope>(stream(), dims_, traditional_, scale_, !back_),
                      {cotangents[0], primals[1], primals[2]})};
  }

 private:
  // Cosines and sines of every position. All layers of a pass ask for the same ones, so the last
  // table is kept and reused.
  static void fill_table(RopeArgs& args, const int32_t* offsets, const float* frequency,
                         float scale) {
    static thread_local std::vector<float> table, key;
    const long rows = args.one_table ? 1 : args.batch, half = args.dims / 2;
    const long count = rows * args.length * half;
    std::vector<float> wanted = {scale, static_cast<float>(args.length), static_cast<float>(rows)};
    for (long b = 0; b < rows; b++) wanted.push_back(static_cast<float>(offsets[b]));
    wanted.insert(wanted.end(), frequency, frequency + half);
    if (wanted != key) {
      table.resize(2 * count);
      for (long b = 0; b < rows; b++)
        for (long l = 0; l < args.length; l++)
          for (long i = 0; i < half; i++) {
            const float angle = static_cast<float>(offsets[b] + l) * scale * frequency[i];
            const long at = (b * args.length + l) * half + i;
            table[at] = std::cos(angle);
            table[count + at] = std::sin(angle);
          }
      key = std::move(wanted);
    }
    args.cosines = table.data();
    args.sines = table.data() + count;
  }

  int dims_;
  bool traditional_;
  float scale_;
  bool back_;
};

void require_float(const mx::array& x, const char* what) {
  if (x.dtype() != mx::float32) throw std::invalid_argument(what);
}

}  // namespace

mx::array made_again(const mx::array& x, const mx::array& when) {
  if (!x.has_primitive()) return x;
  const auto* norm = dynamic_cast<const RmsNorm*>(&x.primitive());
  const bool cheap = dynamic_cast<const SwiGlu*>(&x.primitive()) || (norm && norm->forward());
  if (!cheap) return x;
  return mx::array(x.shape(), x.dtype(), x.primitive_ptr(), mx::depends(x.inputs(), {when}));
}

mx::array swiglu(const mx::array& gate, const mx::array& up) {
  require_float(gate, "swiglu: gate must be float32");
  require_float(up, "swiglu: up must be float32");
  if (gate.shape() != up.shape()) throw std::invalid_argument("swiglu: the shapes differ");
  return mx::array(gate.shape(), mx::float32, std::make_shared<SwiGlu>(cpu_stream()), {gate, up});
}

mx::array rms_norm(const mx::array& x, const mx::array& weight, float eps) {
  require_float(x, "rms_norm: x must be float32");
  require_float(weight, "rms_norm: weight must be float32");
  if (x.ndim() < 1 || weight.ndim() != 1 || weight.shape(0) != x.shape(-1))
    throw std::invalid_argument("rms_norm: weight must be as wide as x");
  return mx::array(x.shape(), mx::float32, std::make_shared<RmsNorm>(cpu_stream(), eps, false),
                   {x, weight});
}

mx::array rope(const mx::array& x, int dims, bool traditional, std::optional<float> base,
               float scale, const std::variant<int, mx::array>& offset,
               const std::optional<mx::array>& freqs) {
  require_float(x, "rope: x must be float32");
  if (x.ndim() != 4 || dims < 2 || dims % 2 || dims > x.shape(-1))
    throw std::invalid_argument("rope: x must be (B, H, L, D) and dims even and at most D");
  if (base.has_value() == freqs.has_value())
    throw std::invalid_argument("rope: give base or freqs");
  const auto stream = cpu_stream();
  const int half = dims / 2;
  std::vector<float> inverse(half);
  if (base)
    for (int i = 0; i < half; i++) inverse[i] = std::exp(-i * (std::log(*base) / half));
  const auto frequencies =
      base ? mx::array(inverse.data(), {half}, mx::float32)
           : mx::reciprocal(mx::astype(*freqs, mx::float32, stream), stream);
  auto offsets = std::holds_alternative<int>(offset)
                     ? mx::array(std::get<int>(offset), mx::int32)
                     : mx::astype(std::get<mx::array>(offset), mx::int32, stream);
  if (offsets.size() != 1 && (offsets.ndim() != 1 || offsets.shape(0) != x.shape(0)))
    throw std::invalid_argument("rope: offset must be a number or one number a batch row");
  return mx::array(x.shape(), mx::float32,
                   std::make_shared<Rope>(stream, dims, traditional, scale, false),
                   {x, offsets, frequencies});
}

}  // namespace minialign
