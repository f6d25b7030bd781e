#include <stdexcept>

#include "pointwise/pointwise_ops.h"

namespace minialign {
namespace {

// Inputs: x; with the gradient: y, dy.
class Softmax : public CpuPrimitive {
 public:
  Softmax(mx::Stream stream, bool gradient) : CpuPrimitive(stream), gradient_(gradient) {}
  const char* name() const override {
    return gradient_ ? "MinialignSoftmaxGrad" : "MinialignSoftmax";
  }
  bool is_equivalent(const mx::Primitive& other) const override {
    return gradient_ == static_cast<const Softmax&>(other).gradient_;
  }
  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override {
    return {inputs[0].shape()};
  }

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    const auto x = dense(inputs[0], stream());
    const auto dy = gradient_ ? dense(inputs[1], stream()) : x;
    allocate(outputs[0]);
    if (x.size() == 0) return;
    dispatch(stream(), [xp = x.data<float>(), d = dy.data<float>(), rows = rows_of(x),
                        n = static_cast<long>(x.shape(-1)), gradient = gradient_,
                        out = outputs[0].data<float>()] {
      gradient ? kernels().softmax_grad(xp, d, rows, n, out) : kernels().softmax(xp, rows, n, out);
    });
  }

  std::vector<mx::array> vjp(const std::vector<mx::array>& primals,
                             const std::vector<mx::array>& cotangents, const std::vector<int>&,
                             const std::vector<mx::array>& outputs) override {
    if (gradient_) throw std::invalid_argument("softmax: no second derivative");
    return {mx::array(primals[0].shape(), mx::float32, std::make_shared<Softmax>(stream(), true),
                      {outputs[0], cotangents[0]})};
  }

 private:
  bool gradient_;
};

// Inputs: x, lse, factor.
class LogSumExpGrad : public CpuPrimitive {
 public:
  using CpuPrimitive::CpuPrimitive;
  const char* name() const override { return "MinialignLogSumExpGrad"; }
  bool is_equivalent(const mx::Primitive&) const override { return true; }
  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override {
    return {inputs[0].shape()};
  }
  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    const auto x = dense(inputs[0], stream()), lse = dense(inputs[1], stream());
    const auto factor = dense(inputs[2], stream());
    allocate(outputs[0]);
    if (x.size() == 0) return;
    dispatch(stream(), [xp = x.data<float>(), l = lse.data<float>(), f = factor.data<float>(),
                        rows = rows_of(x), n = static_cast<long>(x.shape(-1)),
                        out = outputs[0].data<float>()] {
      kernels().logsumexp_grad(xp, l, f, rows, n, out);
    });
  }
};

class LogSumExp : public CpuPrimitive {
 public:
  using CpuPrimitive::CpuPrimitive;
  const char* name() const override { return "MinialignLogSumExp"; }
  bool is_equivalent(const mx::Primitive&) const override { return true; }
  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override {
    auto shape = inputs[0].shape();
    shape.pop_back();
    return {shape};
  }
  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    const auto x = dense(inputs[0], stream());
    allocate(outputs[0]);
    if (x.size() == 0) return;
    dispatch(stream(), [xp = x.data<float>(), rows = rows_of(x),
                        n = static_cast<long>(x.shape(-1)), out = outputs[0].data<float>()] {
      kernels().logsumexp(xp, rows, n, out);
    });
  }
  std::vector<mx::array> vjp(const std::vector<mx::array>& primals,
                             const std::vector<mx::array>& cotangents, const std::vector<int>&,
                             const std::vector<mx::array>& outputs) override {
    return {mx::array(primals[0].shape(), mx::float32, std::make_shared<LogSumExpGrad>(stream()),
                      {primals[0], outputs[0], cotangents[0]})};
  }
};

void check(const mx::array& x) {
  if (x.dtype() != mx::float32 || x.ndim() < 1 || x.shape(-1) < 1)
    throw std::invalid_argument("softmax, logsumexp: x must be float32 with a last dimension");
}

}  // namespace

mx::array softmax(const mx::array& x) {
  check(x);
  return mx::array(x.shape(), mx::float32, std::make_shared<Softmax>(cpu_stream(), false), {x});
}

mx::array logsumexp(const mx::array& x) {
  check(x);
  auto shape = x.shape();
  shape.pop_back();
  return mx::array(shape, mx::float32, std::make_shared<LogSumExp>(cpu_stream()), {x});
}

}  // namespace minialign
