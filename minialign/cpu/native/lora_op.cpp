#include "lora_op.h"

#include <stdexcept>

#include "linear.h"
#include "pointwise_ops.h"

namespace minialign {
namespace {

std::vector<mx::array> all_dense(const std::vector<mx::array>& inputs, mx::Stream stream) {
  std::vector<mx::array> in;
  for (const auto& a : inputs) in.push_back(dense(a, stream));
  return in;
}

class LoraPrimitive : public CpuPrimitive {
 public:
  LoraPrimitive(mx::Stream stream, float scale, int group, int bits)
      : CpuPrimitive(stream), scale_(scale), group_(group), bits_(bits) {}
  bool is_equivalent(const mx::Primitive& other) const override {
    const auto& o = static_cast<const LoraPrimitive&>(other);
    return scale_ == o.scale_ && group_ == o.group_ && bits_ == o.bits_;
  }

 protected:
  // `in` is x, a, b, words[, scales, biases].
  LoraArgs args_of(const mx::array* in, Weight& w) const {
    const bool quantized = bits_ != 32;
    w = weight_view(in[3], quantized ? &in[4] : nullptr, quantized ? &in[5] : nullptr, group_,
                    bits_);
    LoraArgs args{};
    args.x = in[0].data<float>();
    args.a = in[1].data<float>();
    args.b = in[2].data<float>();
    args.m = rows_of(in[0]);
    args.rank = in[1].shape(1);
    args.scale = scale_;
    return args;
  }

  float scale_;
  int group_, bits_;
};

// Inputs: dy, z, x, a, b, words[, scales, biases]. Outputs: da, db[, dx].
class LoraGrad : public LoraPrimitive {
 public:
  using LoraPrimitive::LoraPrimitive;
  const char* name() const override { return "MinialignLoraGrad"; }

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    const auto in = all_dense(inputs, stream());
    for (auto& out : outputs) allocate(out);
    Weight w;
    LoraArgs args = args_of(in.data() + 2, w);
    args.dy = in[0].data<float>();
    args.z = const_cast<float*>(in[1].data<float>());
    args.da = outputs[0].data<float>();
    args.db = outputs[1].data<float>();
    args.dx = outputs.size() > 2 ? outputs[2].data<float>() : nullptr;
    dispatch(stream(), [args, w]() mutable {
      args.w = &w;
      kernels().lora_grad(args);
    });
  }
};

// Inputs: x, a, b, words[, scales, biases]. Outputs: y, z (R, rows) = scale * (x @ a)^T.
class LoraLinear : public LoraPrimitive {
 public:
  using LoraPrimitive::LoraPrimitive;
  const char* name() const override { return "MinialignLoraLinear"; }

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    const auto in = all_dense(inputs, stream());
    for (auto& out : outputs) allocate(out);
    if (outputs[0].size() == 0) return;
    Weight w;
    LoraArgs args = args_of(in.data(), w);
    args.y = outputs[0].data<float>();
    args.z = outputs[1].data<float>();
    dispatch(stream(), [args, w]() mutable {
      args.w = &w;
      kernels().lora(args);
    });
  }

  std::vector<mx::array> vjp(const std::vector<mx::array>& primals,
                             const std::vector<mx::array>& cotangents,
                             const std::vector<int>& argnums,
                             const std::vector<mx::array>& outputs) override {
    bool by_x = false;
    for (int arg : argnums) {
      if (arg > 2)
        throw std::invalid_argument("lora_linear: the weight has no gradient, it is frozen");
      by_x |= arg == 0;
    }
    std::vector<mx::array> inputs = {cotangents[0], outputs[1]};
    inputs.push_back(made_again(primals[0], cotangents[0]));
    inputs.insert(inputs.end(), primals.begin() + 1, primals.end());
    std::vector<mx::Shape> shapes = {primals[1].shape(), primals[2].shape()};
    if (by_x) shapes.push_back(primals[0].shape());
    const auto grads = mx::array::make_arrays(
        shapes, std::vector<mx::Dtype>(shapes.size(), mx::float32),
        std::make_shared<LoraGrad>(stream(), scale_, group_, bits_), inputs);
    std::vector<mx::array> result;
    for (int arg : argnums) result.push_back(arg == 0 ? grads[2] : grads[arg - 1]);
    return result;
  }
};

}  // namespace

mx::array lora_linear(const mx::array& x, const mx::array& a, const mx::array& b, float scale,
                      const mx::array& w, const std::optional<mx::array>& scales,
                      const std::optional<mx::array>& biases, int group, int bits) {
  check_weight(w, scales, biases, group, bits);
  const int cols = bits == 32 ? w.shape(1) : w.shape(1) * 32 / bits;
  for (const auto* p : {&x, &a, &b})
    if (p->dtype() != mx::float32)
      throw std::invalid_argument("lora_linear: x, a and b must be float32");
  if (x.ndim() < 1 || x.shape(-1) != cols || a.ndim() != 2 || b.ndim() != 2 ||
      a.shape(0) != cols || a.shape(1) != b.shape(0) || b.shape(1) != w.shape(0))
    throw std::invalid_argument("lora_linear: the shapes of x, a, b and the weight do not fit");
  mx::Shape shape = x.shape();
  shape.back() = w.shape(0);
  const int rows = static_cast<int>(rows_of(x));
  std::vector<mx::array> inputs = {x, a, b, w};
  if (scales) inputs.insert(inputs.end(), {*scales, *biases});
  return mx::array::make_arrays({shape, {a.shape(1), rows}}, {mx::float32, mx::float32},
                                std::make_shared<LoraLinear>(cpu_stream(), scale, group, bits),
                                inputs)[0];
}

}  // namespace minialign
