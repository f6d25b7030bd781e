#include "lora/lora_op.h"

#include <array>
#include <stdexcept>

#include "pointwise/pointwise_ops.h"

namespace minialign {
namespace {

std::vector<mx::array> all_dense(const std::vector<mx::array>& inputs, mx::Stream stream) {
  std::vector<mx::array> in;
  for (const auto& a : inputs) in.push_back(dense(a, stream));
  return in;
}

// Of a layer, what is no array.
struct Kind {
  float scale;
  int group, bits;
  bool operator==(const Kind&) const = default;
  int weights() const { return bits == 32 ? 1 : 3; }  // words[, scales, biases]
};

// The jobs of one call and the weights they point to.
struct Jobs {
  std::array<LoraArgs, kMostSiblings> args{};
  std::array<Weight, kMostSiblings> weights;
  long count;
  const LoraArgs* ready() {
    for (long j = 0; j < count; j++) args[j].w = &weights[j];
    return args.data();
  }
};

// Inputs from `x` on: x, then a and b of each layer, then the weights of each.
class LoraPrimitive : public CpuPrimitive {
 public:
  LoraPrimitive(mx::Stream stream, std::vector<Kind> kinds)
      : CpuPrimitive(stream), kinds_(std::move(kinds)) {}
  bool is_equivalent(const mx::Primitive& other) const override {
    return kinds_ == static_cast<const LoraPrimitive&>(other).kinds_;
  }

 protected:
  Jobs jobs_of(const mx::array* x) const {
    Jobs jobs;
    jobs.count = static_cast<long>(kinds_.size());
    const mx::array* factors = x + 1;
    const mx::array* w = factors + 2 * jobs.count;
    for (long j = 0; j < jobs.count; j++) {
      const Kind& kind = kinds_[j];
      jobs.weights[j] = weight_view(w, kind.group, kind.bits);
      LoraArgs& args = jobs.args[j];
      args.x = x->data<float>();
      args.a = factors[0].data<float>();
      args.b = factors[1].data<float>();
      args.m = rows_of(*x);
      args.rank = factors[0].shape(1);
      args.scale = kind.scale;
      factors += 2;
      w += kind.weights();
    }
    return jobs;
  }

  std::vector<Kind> kinds_;
};

// Inputs: dy and z of each layer, then as above. Outputs: da and db of each layer[, dx].
class LoraGrad : public LoraPrimitive {
 public:
  using LoraPrimitive::LoraPrimitive;
  const char* name() const override { return "MinialignLoraGrad"; }

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    const auto in = all_dense(inputs, stream());
    for (auto& out : outputs) allocate(out);
    Jobs jobs = jobs_of(in.data() + 2 * kinds_.size());
    for (long j = 0; j < jobs.count; j++) {
      LoraArgs& args = jobs.args[j];
      args.dy = in[2 * j].data<float>();
      args.z = const_cast<float*>(in[2 * j + 1].data<float>());
      args.da = outputs[2 * j].data<float>();
      args.db = outputs[2 * j + 1].data<float>();
      if (outputs.size() > 2 * kinds_.size()) args.dx = outputs.back().data<float>();
      args.add = j > 0;
    }
    dispatch(stream(), [jobs]() mutable { kernels().lora_grad(jobs.ready(), jobs.count); });
  }
};

// Outputs: for each layer y, and z (R, rows) = scale * (x @ a)^T.
class LoraLinears : public LoraPrimitive {
 public:
  using LoraPrimitive::LoraPrimitive;
  const char* name() const override { return "MinialignLoraLinears"; }

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    const auto in = all_dense(inputs, stream());
    for (auto& out : outputs) allocate(out);
    if (outputs[0].size() == 0) return;
    Jobs jobs = jobs_of(in.data());
    for (long j = 0; j < jobs.count; j++) {
      jobs.args[j].y = outputs[2 * j].data<float>();
      jobs.args[j].z = outputs[2 * j + 1].data<float>();
    }
    dispatch(stream(), [jobs]() mutable { kernels().lora(jobs.ready(), jobs.count); });
  }

  std::vector<mx::array> vjp(const std::vector<mx::array>& primals,
                             const std::vector<mx::array>& cotangents,
                             const std::vector<int>& argnums,
                             const std::vector<mx::array>& outputs) override {
    const int factors = 2 * static_cast<int>(kinds_.size());
    bool by_x = false;
    for (int arg : argnums) {
      if (arg > factors)
        throw std::invalid_argument("lora_linears: the weight has no gradient, it is frozen");
      by_x |= arg == 0;
    }
    std::vector<mx::array> inputs;
    std::vector<mx::Shape> shapes;
    for (int i = 0; i < factors; i += 2) {
      inputs.insert(inputs.end(), {cotangents[i], outputs[i + 1]});
      shapes.insert(shapes.end(), {primals[i + 1].shape(), primals[i + 2].shape()});
    }
    inputs.push_back(made_again(primals[0], cotangents[0]));
    inputs.insert(inputs.end(), primals.begin() + 1, primals.end());
    if (by_x) shapes.push_back(primals[0].shape());
    const auto grads =
        mx::array::make_arrays(shapes, std::vector<mx::Dtype>(shapes.size(), mx::float32),
                               std::make_shared<LoraGrad>(stream(), kinds_), inputs);
    std::vector<mx::array> result;
    for (int arg : argnums) result.push_back(arg == 0 ? grads.back() : grads[arg - 1]);
    return result;
  }
};

}  // namespace

std::vector<mx::array> lora_linears(const mx::array& x, const std::vector<LoraLayer>& layers) {
  if (layers.empty() || layers.size() > kMostSiblings)
    throw std::invalid_argument("lora_linears: one to three layers");
  std::vector<Kind> kinds;
  std::vector<mx::Shape> shapes;
  std::vector<mx::array> inputs = {x}, weights;
  for (const auto& layer : layers) {
    const auto &a = layer.a, &b = layer.b, &w = layer.w;
    check_weight(w, layer.scales, layer.biases, layer.group, layer.bits);
    const int cols = weight_cols(w, layer.bits);
    for (const auto* p : {&x, &a, &b})
      if (p->dtype() != mx::float32)
        throw std::invalid_argument("lora_linears: x, a and b must be float32");
    if (x.ndim() < 1 || x.shape(-1) != cols || a.ndim() != 2 || b.ndim() != 2 ||
        a.shape(0) != cols || a.shape(1) != b.shape(0) || b.shape(1) != w.shape(0))
      throw std::invalid_argument("lora_linears: the shapes of x, a, b and the weight do not fit");
    kinds.push_back({layer.scale, layer.group, layer.bits});
    shapes.push_back(x.shape());
    shapes.back().back() = w.shape(0);
    shapes.push_back({a.shape(1), static_cast<int>(rows_of(x))});
    inputs.insert(inputs.end(), {a, b});
    weights.push_back(w);
    if (layer.scales) weights.insert(weights.end(), {*layer.scales, *layer.biases});
  }
  inputs.insert(inputs.end(), weights.begin(), weights.end());
  const auto outputs =
      mx::array::make_arrays(shapes, std::vector<mx::Dtype>(shapes.size(), mx::float32),
                             std::make_shared<LoraLinears>(cpu_stream(), kinds), inputs);
  std::vector<mx::array> results;
  for (size_t i = 0; i < outputs.size(); i += 2) results.push_back(outputs[i]);
  return results;
}

}  // namespace minialign
