#include "matmul/linear_op.h"

#include <stdexcept>

namespace minialign {
namespace {

// The gradient by a float32 weight (N, K). Inputs: x (..., K), dy (..., N).
class WeightGrad : public CpuPrimitive {
 public:
  using CpuPrimitive::CpuPrimitive;
  const char* name() const override { return "MinialignWeightGrad"; }
  bool is_equivalent(const mx::Primitive&) const override { return true; }
  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override {
    return {{inputs[1].shape(-1), inputs[0].shape(-1)}};
  }
  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    const auto x = dense(inputs[0], stream()), dy = dense(inputs[1], stream());
    allocate(outputs[0]);
    dispatch(stream(), [xp = x.data<float>(), d = dy.data<float>(), m = rows_of(x),
                        n = static_cast<long>(dy.shape(-1)), k = static_cast<long>(x.shape(-1)),
                        dw = outputs[0].data<float>()] {
      kernels().weight_grad(xp, d, m, n, k, dw);
    });
  }
};

// y = x @ w^T, or with `transposed_` the gradient dx = dy @ w. Inputs: x, words[, scales, biases].
class Linear : public CpuPrimitive {
 public:
  Linear(mx::Stream stream, int group, int bits, bool transposed)
      : CpuPrimitive(stream), group_(group), bits_(bits), transposed_(transposed) {}

  const char* name() const override {
    return transposed_ ? "MinialignLinearGrad" : "MinialignLinear";
  }

  bool is_equivalent(const mx::Primitive& other) const override {
    const auto& o = static_cast<const Linear&>(other);
    return group_ == o.group_ && bits_ == o.bits_ && transposed_ == o.transposed_;
  }

  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override {
    return {shape(inputs[0], inputs[1], bits_, transposed_)};
  }

  static mx::Shape shape(const mx::array& x, const mx::array& w, int bits, bool transposed) {
    mx::Shape out = x.shape();
    out.back() = transposed ? weight_cols(w, bits) : w.shape(0);
    return out;
  }

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    std::vector<mx::array> in;
    for (const auto& a : inputs) in.push_back(dense(a, stream()));
    auto& out = outputs[0];
    allocate(out);
    if (out.size() == 0) return;
    const Weight w = weight_view(&in[1], group_, bits_);
    dispatch(stream(), [x = in[0].data<float>(), y = out.data<float>(), w, rows = rows_of(out),
                        transposed = transposed_] {
      const auto kernel = transposed ? kernels().linear_grad : kernels().linear;
      kernel(x, rows, w, y);
    });
  }

  std::vector<mx::array> vjp(const std::vector<mx::array>& primals,
                             const std::vector<mx::array>& cotangents,
                             const std::vector<int>& argnums,
                             const std::vector<mx::array>&) override {
    std::vector<mx::array> grads;
    for (int arg : argnums) {
      if (arg == 1 && bits_ == 32 && !transposed_) {
        grads.push_back(mx::array(primals[1].shape(), mx::float32,
                                  std::make_shared<WeightGrad>(stream()),
                                  {primals[0], cotangents[0]}));
        continue;
      }
      if (arg != 0)
        throw std::invalid_argument("native linear: a quantized weight has no gradient");
      std::vector<mx::array> inputs = primals;
      inputs[0] = cotangents[0];
      grads.push_back(mx::array(
          primals[0].shape(), mx::float32,
          std::make_shared<Linear>(stream(), group_, bits_, !transposed_), std::move(inputs)));
    }
    return grads;
  }

 private:
  int group_, bits_;
  bool transposed_;
};

class GatherRows : public CpuPrimitive {
 public:
  GatherRows(mx::Stream stream, int group, int bits)
      : CpuPrimitive(stream), group_(group), bits_(bits) {}

  const char* name() const override { return "MinialignGatherRows"; }

  bool is_equivalent(const mx::Primitive& other) const override {
    const auto& o = static_cast<const GatherRows&>(other);
    return group_ == o.group_ && bits_ == o.bits_;
  }

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    std::vector<mx::array> in;
    for (const auto& a : inputs) in.push_back(dense(a, stream()));
    auto& out = outputs[0];
    allocate(out);
    const Weight w = weight_view(&in[1], group_, bits_);
    dispatch(stream(), [ids = in[0].data<int32_t>(), n = static_cast<long>(in[0].size()), w,
                        to = out.data<float>()] { kernels().gather_rows(w, ids, n, to); });
  }

 private:
  int group_, bits_;
};

std::vector<mx::array> weight_inputs(const mx::array& first, const mx::array& w,
                                     const std::optional<mx::array>& scales,
                                     const std::optional<mx::array>& biases) {
  std::vector<mx::array> inputs = {first, w};
  if (scales) inputs.insert(inputs.end(), {*scales, *biases});
  return inputs;
}

}  // namespace

mx::array linear(const mx::array& x, const mx::array& w, const std::optional<mx::array>& scales,
                 const std::optional<mx::array>& biases, int group, int bits) {
  check_weight(w, scales, biases, group, bits);
  if (x.dtype() != mx::float32 || x.ndim() < 1 || x.shape(-1) != weight_cols(w, bits))
    throw std::invalid_argument("linear: x must be float32 and as wide as the weight");
  const auto stream = cpu_stream();
  return mx::array(Linear::shape(x, w, bits, false), mx::float32,
                   std::make_shared<Linear>(stream, group, bits, false),
                   weight_inputs(x, w, scales, biases));
}

mx::array gather_rows(const mx::array& ids, const mx::array& w,
                      const std::optional<mx::array>& scales,
                      const std::optional<mx::array>& biases, int group, int bits) {
  check_weight(w, scales, biases, group, bits);
  const auto stream = cpu_stream();
  mx::Shape shape = ids.shape();
  shape.push_back(weight_cols(w, bits));
  const auto rows = mx::astype(ids, mx::int32, stream);
  return mx::array(shape, mx::float32, std::make_shared<GatherRows>(stream, group, bits),
                   weight_inputs(rows, w, scales, biases));
}

}  // namespace minialign
