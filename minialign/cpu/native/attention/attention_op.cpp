#include "attention/attention_op.h"

#include <cstring>
#include <stdexcept>

namespace minialign {
namespace {

// Inputs: q, k, v[, mask]. Outputs: o, lse (B, H, L).
class Attention : public CpuPrimitive {
 public:
  Attention(mx::Stream stream, float scale, bool causal)
      : CpuPrimitive(stream), scale_(scale), causal_(causal) {}
  const char* name() const override { return "MinialignAttention"; }
  bool is_equivalent(const mx::Primitive& other) const override {
    const auto& o = static_cast<const Attention&>(other);
    return scale_ == o.scale_ && causal_ == o.causal_;
  }
  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override {
    const auto& q = inputs[0].shape();
    return {q, {q[0], q[1], q[2]}};
  }

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override;
  std::vector<mx::array> vjp(const std::vector<mx::array>& primals,
                             const std::vector<mx::array>& cotangents,
                             const std::vector<int>& argnums,
                             const std::vector<mx::array>& outputs) override;

 protected:
  float scale_;
  bool causal_;
};

// Inputs: o, lse, dout, q, k, v[, mask]. Outputs: dq, dk, dv.
class AttentionGrad : public CpuPrimitive {
 public:
  AttentionGrad(mx::Stream stream, float scale, bool causal)
      : CpuPrimitive(stream), scale_(scale), causal_(causal) {}
  const char* name() const override { return "MinialignAttentionGrad"; }
  bool is_equivalent(const mx::Primitive& other) const override {
    const auto& o = static_cast<const AttentionGrad&>(other);
    return scale_ == o.scale_ && causal_ == o.causal_;
  }
  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override {
    return {inputs[3].shape(), inputs[4].shape(), inputs[5].shape()};
  }
  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override;

 private:
  float scale_;
  bool causal_;
};

// What forward and backward have in common; `in` is q, k, v[, mask], already with dense rows.
AttentionArgs common_args(const mx::array* in, bool masked, float scale, bool causal) {
  AttentionArgs a{};
  const auto &q = in[0], &k = in[1], &v = in[2];
  a.batch = q.shape(0);
  a.heads = q.shape(1);
  a.queries = q.shape(2);
  a.width = q.shape(3);
  a.kv_heads = k.shape(1);
  a.keys = k.shape(2);
  a.scale = scale;
  a.causal = causal;
  a.q = q.data<float>();
  a.k = k.data<float>();
  a.v = v.data<float>();
  take_strides(q, a.q_stride);
  take_strides(k, a.k_stride);
  take_strides(v, a.v_stride);
  if (masked) {
    if (in[3].dtype() == mx::bool_)
      a.mask = in[3].data<uint8_t>();
    else
      a.mask_added = in[3].data<float>();
    take_strides(in[3], a.mask_stride);
  }
  return a;
}

std::vector<mx::array> with_dense_rows(const std::vector<mx::array>& inputs, mx::Stream stream) {
  std::vector<mx::array> in;
  for (const auto& a : inputs) in.push_back(dense_rows(a, stream));
  return in;
}

void Attention::eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) {
  const auto in = with_dense_rows(inputs, stream());
  allocate_heads_inside(outputs[0]);
  allocate(outputs[1]);
  if (outputs[0].size() == 0) return;
  AttentionArgs args = common_args(in.data(), in.size() > 3, scale_, causal_);
  args.o = outputs[0].data<float>();
  args.lse = outputs[1].data<float>();
  take_strides(outputs[0], args.o_stride);
  dispatch(stream(), [args] { kernels().attention(args); });
}

void AttentionGrad::eval_cpu(const std::vector<mx::array>& inputs,
                             std::vector<mx::array>& outputs) {
  const auto in = with_dense_rows(inputs, stream());
  for (auto& out : outputs) allocate_heads_inside(out);
  if (outputs[0].size() == 0 || outputs[1].size() == 0) {  // nothing sees anything
    for (auto& out : outputs)
      if (out.size()) std::memset(out.data<float>(), 0, out.nbytes());
    return;
  }
  AttentionArgs args = common_args(in.data() + 3, in.size() > 6, scale_, causal_);
  args.o = const_cast<float*>(in[0].data<float>());
  args.lse = const_cast<float*>(dense(in[1], stream()).data<float>());
  args.dout = in[2].data<float>();
  args.dq = outputs[0].data<float>();
  args.dk = outputs[1].data<float>();
  args.dv = outputs[2].data<float>();
  take_strides(in[0], args.o_stride);
  take_strides(in[2], args.dout_stride);
  take_strides(outputs[0], args.dq_stride);
  take_strides(outputs[1], args.dk_stride);
  dispatch(stream(), [args] { kernels().attention_grad(args); });
}

std::vector<mx::array> Attention::vjp(const std::vector<mx::array>& primals,
                                      const std::vector<mx::array>& cotangents,
                                      const std::vector<int>& argnums,
                                      const std::vector<mx::array>& outputs) {
  std::vector<mx::array> inputs = {outputs[0], outputs[1], cotangents[0]};
  inputs.insert(inputs.end(), primals.begin(), primals.end());
  const auto grads = mx::array::make_arrays(
      {primals[0].shape(), primals[1].shape(), primals[2].shape()},
      {mx::float32, mx::float32, mx::float32},
      std::make_shared<AttentionGrad>(stream(), scale_, causal_), inputs);
  std::vector<mx::array> result;
  for (int arg : argnums)
    result.push_back(arg < 3 ? grads[arg] : mx::zeros_like(primals[arg], stream()));
  return result;
}

}  // namespace

mx::array attention(const mx::array& q, const mx::array& k, const mx::array& v, float scale,
                    bool causal, const std::optional<mx::array>& mask) {
  auto require = [](bool ok, const char* what) {
    if (!ok) throw std::invalid_argument(what);
  };
  for (const auto* x : {&q, &k, &v})
    require(x->ndim() == 4 && x->dtype() == mx::float32,
            "attention: q, k and v must be float32 with four dimensions");
  require(k.shape() == v.shape() && k.shape(0) == q.shape(0) && k.shape(3) == q.shape(3),
          "attention: the shapes of q, k and v do not fit");
  require(k.shape(1) > 0 && q.shape(1) % k.shape(1) == 0,
          "attention: query heads must be a multiple of key heads");
  require(!(causal && mask), "attention: causal or a mask, not both");
  const auto stream = cpu_stream();
  std::vector<mx::array> inputs = {q, k, v};
  if (mask) {
    require(mask->dtype() == mx::bool_ || mask->dtype() == mx::float32,
            "attention: the mask must be boolean or float32");
    inputs.push_back(mx::broadcast_to(
        *mask, {q.shape(0), q.shape(1), q.shape(2), k.shape(2)}, stream));
  }
  return mx::array::make_arrays({q.shape(), {q.shape(0), q.shape(1), q.shape(2)}},
                                {mx::float32, mx::float32},
                                std::make_shared<Attention>(stream, scale, causal), inputs)[0];
}

}  // namespace minialign
