// The Python face of the native kernels: `minialign.cpu._native`.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <numeric>

#include "attention/attention_op.h"
#include "base/pool.h"
#include "decode/decoder.h"
#include "logps/logps_op.h"
#include "lora/lora_op.h"
#include "matmul/linear_op.h"
#include "pointwise/pointwise_ops.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace minialign;

// extension.py looks for this text in the file before it dares to load it.
static const char built_for[] = "minialign-built-for-mlx=" MINIALIGN_MLX_VERSION ";";

using Rows = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Uniforms = nb::ndarray<const double, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

static std::vector<int> draw(Rows logits, float temperature, Uniforms uniforms) {
  const long rows = logits.shape(0);
  if (static_cast<long>(uniforms.shape(0)) != rows || logits.shape(1) == 0)
    throw std::invalid_argument("draw: one number a row, and at least one token");
  std::vector<int> out(rows);
  nb::gil_scoped_release released;
  kernels().draw(logits.data(), rows, logits.shape(1), temperature, uniforms.data(), out.data());
  return out;
}

using LayerTuple = std::tuple<mx::array, mx::array, float, mx::array, std::optional<mx::array>,
                              std::optional<mx::array>, int, int>;

static std::vector<mx::array> lora_linears_of(const mx::array& x,
                                              const std::vector<LayerTuple>& layers) {
  std::vector<LoraLayer> given;
  for (const auto& layer : layers)
    given.push_back(std::apply([](const auto&... part) { return LoraLayer{part...}; }, layer));
  return lora_linears(x, given);
}

NB_MODULE(_native, m) {
  nb::module_::import_("mlx.core");  // the array type comes from there
  m.attr("built_for") = nb::str(built_for);

  m.def("isa", [] {
    const std::string name = kernels().name;  // which also finds out about byte products
    return has_vnni ? name + "-vnni" : name;
  }, "The instruction set in use.");
  m.def("threads", &thread_count, "Threads a kernel may use.");
  m.def("set_threads", &set_thread_count, "count"_a, "Sets the threads; 0: the default.");

  m.def("selftest_pool", [](long count) {
    std::vector<long> seen(count, 0);
    run_chunks(count, [](void* out, long i) { (*static_cast<std::vector<long>*>(out))[i] += i; },
               &seen);
    return std::accumulate(seen.begin(), seen.end(), 0L);
  }, "count"_a, "Runs `count` chunks through the pool; the sum of their numbers.");

  m.def("linear", &linear, "x"_a, "w"_a, "scales"_a = nb::none(), "biases"_a = nb::none(),
        "group_size"_a = 0, "bits"_a = 32,
        "x (..., K) @ w^T -> (..., N); w float32 (N, K) or quantized. "
        "Gradient in x, and in a float32 w.");
  m.def("lora_linears", &lora_linears_of, "x"_a, "layers"_a,
        "For each layer (a, b, scale, w, scales, biases, group_size, bits): "
        "x @ w^T + scale * (x @ a) @ b. Gradients in x, a and b.");
  m.def("copies", [](const std::vector<mx::array>& arrays) { return arrays; }, "arrays"_a,
        "Other Python objects of these arrays, which in-place changes of those leave as they are.");
  m.def("same", [](const std::vector<mx::array>& a, const std::vector<mx::array>& b) {
    return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                      [](const mx::array& x, const mx::array& y) { return x.id() == y.id(); });
  }, "a"_a, "b"_a, "Whether these are the very same arrays, whatever objects stand for them.");
  m.def("gather_rows", &gather_rows, "ids"_a, "w"_a, "scales"_a = nb::none(),
        "biases"_a = nb::none(), "group_size"_a = 0, "bits"_a = 32,
        "Rows `ids` of w, decoded: ids.shape + (K,) float32.");
  m.def("selected_logps", &selected_logps, "hidden"_a, "targets"_a, "w"_a, "scales"_a = nb::none(),
        "biases"_a = nb::none(), "group_size"_a = 0, "bits"_a = 32, "gradient"_a = true,
        "log softmax(hidden @ w^T)[target]: (N, D), (N,) -> (N,). Gradient in hidden only.");

  m.def("swiglu", &swiglu, "gate"_a, "up"_a, "silu(gate) * up.");
  m.def("softmax", &softmax, "x"_a, "Over the last dimension.");
  m.def("logsumexp", &logsumexp, "x"_a, "Over the last dimension, which goes.");
  m.def("draw", &draw, "logits"_a, "temperature"_a, "uniforms"_a,
        "A token for each row of logits (B, V) and number of uniforms (B,); -1 for a damaged row.");
  m.def("rms_norm", &rms_norm, "x"_a, "weight"_a, "eps"_a, "x / rms(x) * weight, last dimension.");
  m.def("rope", &rope, "x"_a, "dims"_a, nb::kw_only(), "traditional"_a = false,
        "base"_a = nb::none(), "scale"_a = 1.f, "offset"_a = 0, "freqs"_a = nb::none(),
        "mx.fast.rope for float32 x (B, H, L, D); offset an int or an array, one a row.");
  m.def("attention", &attention, "q"_a, "k"_a, "v"_a, nb::kw_only(), "scale"_a,
        "causal"_a = false, "mask"_a = nb::none(),
        "Attention of (B, H, L, D) over (B, G, S, D), causal or under a boolean or added mask.");

  nb::class_<Decoder>(m, "Decoder", "One decoding step in one call; see minialign/cpu/decode.py.")
      .def(nb::init<int, int, int, float, float, std::vector<float>, float, bool>(), "heads"_a,
           "kv_heads"_a, "width"_a, "eps"_a, "attention_scale"_a, "inverse_frequencies"_a,
           "rope_scale"_a, "traditional"_a)
      .def("add_layer", &Decoder::add_layer, "input_norm"_a, "post_norm"_a)
      .def("set_linear", &Decoder::set_linear, "layer"_a, "part"_a, "w"_a, "scales"_a.none(),
           "biases"_a.none(), "group_size"_a, "bits"_a, "bias"_a.none(), "lora_a"_a.none(),
           "lora_b"_a.none(), "lora_scale"_a)
      .def("set_embedding", &Decoder::set_embedding, "w"_a, "scales"_a.none(), "biases"_a.none(),
           "group_size"_a, "bits"_a)
      .def("set_head", &Decoder::set_head, "norm"_a, "w"_a, "scales"_a.none(), "biases"_a.none(),
           "group_size"_a, "bits"_a)
      .def("add_rows", &Decoder::add_rows, "count"_a, "keys"_a, "values"_a)
      .def("keep", &Decoder::keep, "rows"_a)
      .def("step", &Decoder::step, "tokens"_a, nb::call_guard<nb::gil_scoped_release>())
      .def_prop_ro("lengths", &Decoder::lengths);
}
