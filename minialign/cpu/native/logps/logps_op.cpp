#include "logps/logps_op.h"

#include <stdexcept>

namespace minialign {
namespace {

// Inputs: hidden, targets, words[, scales, biases]. Outputs: logps[, jacobian].
class SelectedLogps : public CpuPrimitive {
 public:
  SelectedLogps(mx::Stream stream, int group, int bits)
      : CpuPrimitive(stream), group_(group), bits_(bits) {}
  const char* name() const override { return "MinialignSelectedLogps"; }
  bool is_equivalent(const mx::Primitive& other) const override {
    const auto& o = static_cast<const SelectedLogps&>(other);
    return group_ == o.group_ && bits_ == o.bits_;
  }

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    std::vector<mx::array> in;
    for (const auto& a : inputs) in.push_back(dense(a, stream()));
    for (auto& out : outputs) allocate(out);
    if (outputs[0].size() == 0) return;
    const Weight w = weight_view(&in[2], group_, bits_);
    LogpArgs args{};
    args.hidden = in[0].data<float>();
    args.targets = in[1].data<int32_t>();
    args.rows = in[0].shape(0);
    args.logps = outputs[0].data<float>();
    args.jacobian = outputs.size() > 1 ? outputs[1].data<float>() : nullptr;
    dispatch(stream(), [args, w]() mutable {
      args.w = &w;
      kernels().selected_logps(args);
    });
  }

  std::vector<mx::array> vjp(const std::vector<mx::array>&,
                             const std::vector<mx::array>& cotangents,
                             const std::vector<int>& argnums,
                             const std::vector<mx::array>& outputs) override {
    if (argnums != std::vector<int>{0} || outputs.size() < 2)
      throw std::invalid_argument("selected_logps: differentiable in hidden, with gradient=True");
    return {mx::multiply(mx::expand_dims(cotangents[0], -1, stream()), outputs[1], stream())};
  }

 private:
  int group_, bits_;
};

}  // namespace

mx::array selected_logps(const mx::array& hidden, const mx::array& targets, const mx::array& w,
                         const std::optional<mx::array>& scales,
                         const std::optional<mx::array>& biases, int group, int bits,
                         bool gradient) {
  check_weight(w, scales, biases, group, bits);
  const int cols = weight_cols(w, bits);
  if (hidden.dtype() != mx::float32 || hidden.ndim() != 2 || hidden.shape(1) != cols)
    throw std::invalid_argument("selected_logps: hidden must be float32 (N, D), D as the weight's");
  if (targets.ndim() != 1 || targets.shape(0) != hidden.shape(0))
    throw std::invalid_argument("selected_logps: one target a row of hidden");
  const auto stream = cpu_stream();
  std::vector<mx::array> inputs = {hidden, mx::astype(targets, mx::int32, stream), w};
  if (scales) inputs.insert(inputs.end(), {*scales, *biases});
  std::vector<mx::Shape> shapes = {{hidden.shape(0)}};
  std::vector<mx::Dtype> types = {mx::float32};
  if (gradient) {
    shapes.push_back(hidden.shape());
    types.push_back(mx::float32);
  }
  return mx::array::make_arrays(shapes, types, std::make_shared<SelectedLogps>(stream, group, bits),
                                inputs)[0];
}

}  // namespace minialign
