#include "decode/decoder.h"

#include <cmath>
#include <cstring>
#include <stdexcept>

namespace minialign {

Decoder::Decoder(int heads, int kv_heads, int width, float eps, float attention_scale,
                 std::vector<float> inverse_frequencies, float rope_scale, bool traditional)
    : heads_(heads),
      kv_heads_(kv_heads),
      width_(width),
      eps_(eps),
      attention_scale_(attention_scale),
      rope_scale_(rope_scale),
      inverse_frequencies_(std::move(inverse_frequencies)),
      traditional_(traditional) {
  if (kv_heads < 1 || heads % kv_heads || width % 16)
    throw std::invalid_argument("decoder: heads must divide, the head width be a multiple of 16");
}

const float* Decoder::hold(const mx::array& a) {
  if (!a.is_available() || !a.flags().row_contiguous)
    throw std::invalid_argument("decoder: arrays must be evaluated and contiguous");
  held_.push_back(a);
  return a.data<float>();
}

Weight Decoder::hold_weight(const mx::array& w, const Optional& scales, const Optional& biases,
                            int group, int bits) {
  check_weight(w, scales, biases, group, bits);
  hold(w);
  if (scales) {
    hold(*scales);
    hold(*biases);
  }
  return weight_view(w, scales ? &*scales : nullptr, biases ? &*biases : nullptr, group, bits);
}

void Decoder::add_layer(const mx::array& input_norm, const mx::array& post_norm) {
  layers_.push_back(std::make_unique<Layer>());
  layers_.back()->input_norm = hold(input_norm);
  layers_.back()->post_norm = hold(post_norm);
}

void Decoder::set_linear(int layer, int part, const mx::array& w, const Optional& scales,
                         const Optional& biases, int group, int bits, const Optional& bias,
                         const Optional& lora_a, const Optional& lora_b, float lora_scale) {
  Linear& linear = layers_.at(layer)->parts.at(part);
  linear.job.w = hold_weight(w, scales, biases, group, bits);
  if (bias) linear.job.bias = hold(*bias);
  if (!lora_a) return;
  const long k = lora_a->shape(0), rank = lora_a->shape(1);
  linear.job.a = hold(*lora_a);
  linear.job.b = hold(*lora_b);
  linear.job.rank = rank;
  linear.job.scale = lora_scale;
  linear.a_transposed.resize(k * rank);
  for (long i = 0; i < k; i++)
    for (long r = 0; r < rank; r++) linear.a_transposed[r * k + i] = linear.job.a[i * rank + r];
  linear.job.a_transposed = linear.a_transposed.data();
}

void Decoder::set_embedding(const mx::array& w, const Optional& scales, const Optional& biases,
                            int group, int bits) {
  embedding_ = hold_weight(w, scales, biases, group, bits);
}

void Decoder::set_head(const mx::array& norm, const mx::array& w, const Optional& scales,
                       const Optional& biases, int group, int bits) {
  final_norm_ = hold(norm);
  head_ = hold_weight(w, scales, biases, group, bits);
}

Decoder::Page Decoder::new_page() const { return Page(new float[page_floats()]); }

void Decoder::add_rows(int count, const std::vector<mx::array>& keys,
                       const std::vector<mx::array>& values) {
  if (!keys.empty() && (keys.size() != layers_.size() || values.size() != layers_.size()))
    throw std::invalid_argument("decoder: one array of keys and of values a layer");
  const int length = keys.empty() ? 0 : keys[0].shape(2);
  const int pasts = keys.empty() || keys[0].shape(0) == 1 ? 1 : count;
  for (const auto* list : {&keys, &values})
    for (const auto& a : *list)
      if (a.dtype() != mx::float32 || a.ndim() != 4 || a.shape(0) != pasts ||
          a.shape(1) != kv_heads_ || a.shape(2) != length || a.shape(3) != width_ ||
          !a.is_available() || a.strides()[3] != 1)
        throw std::invalid_argument("decoder: keys and values must be float32 and evaluated, "
                                    "(rows, key heads, length, width)");
  for (int past = 0; past < pasts; past++) {
    Row row;
    row.length = length;
    row.pages.resize(layers_.size());
    for (size_t l = 0; l < layers_.size(); l++)
      for (int t = 0; t < length; t += kPageTokens) {
        const auto &k = keys[l], &v = values[l];
        const long k_stride[2] = {k.strides()[2], k.strides()[1]};
        const long v_stride[2] = {v.strides()[2], v.strides()[1]};
        row.pages[l].push_back(new_page());
        kernels().fill_page(row.pages[l].back().get(), kv_heads_, width_,
                            length - t < kPageTokens ? length - t : kPageTokens,
                            k.data<float>() + past * k.strides()[0] + t * k_stride[0],
                            v.data<float>() + past * v.strides()[0] + t * v_stride[0], k_stride,
                            v_stride);
      }
    for (int i = 0; i < (pasts == 1 ? count : 1); i++) rows_.push_back(row);
  }
}

void Decoder::keep(const std::vector<int>& rows) {
  std::vector<Row> kept;
  for (int r : rows) kept.push_back(rows_.at(r));
  rows_ = std::move(kept);
}

std::vector<int> Decoder::lengths() const {
  std::vector<int> out;
  for (const Row& row : rows_) out.push_back(row.length);
  return out;
}

void Decoder::prepare_page(Row& row, int layer) {
  auto& pages = row.pages[layer];
  if (row.length % kPageTokens == 0) {
    pages.push_back(new_page());
  } else if (pages.back().use_count() > 1) {  // another row has it too
    Page own = new_page();
    std::memcpy(own.get(), pages.back().get(), page_floats() * sizeof(float));
    pages.back() = std::move(own);
  }
}

LinearJob Decoder::job(const Layer& layer, Part part, std::vector<float>& y, bool add) {
  LinearJob job = layer.parts[part].job;
  job.y = y.data();
  job.add = add;
  return job;
}

void Decoder::run_layer(int index, std::vector<float>& x) {
  const Kernels& kernel = kernels();
  Layer& layer = *layers_[index];
  const long rows = rows_.size(), size = embedding_.cols;
  kernel.rms_norm(x.data(), layer.input_norm, rows, size, eps_, normed_.data());
  const LinearJob inputs[] = {job(layer, kQuery, q_), job(layer, kKey, k_), job(layer, kValue, v_)};
  kernel.linears(normed_.data(), rows, inputs, 3);
  std::vector<float*> pages;
  std::vector<long> first, lengths;
  for (Row& row : rows_) {
    prepare_page(row, index);
    first.push_back(pages.size());
    lengths.push_back(row.length + 1);
    for (const Page& p : row.pages[index]) pages.push_back(p.get());
  }
  DecodeArgs args{};
  args.rows = rows;
  args.heads = heads_;
  args.kv_heads = kv_heads_;
  args.width = width_;
  args.scale = attention_scale_;
  args.q = q_.data();
  args.k = k_.data();
  args.v = v_.data();
  args.dims = 2 * static_cast<long>(inverse_frequencies_.size());
  args.interleaved = traditional_;
  args.cosines = cosines_.data();
  args.sines = sines_.data();
  args.out = attended_.data();
  args.pages = pages.data();
  args.first_page = first.data();
  args.lengths = lengths.data();
  kernel.decode_attention(args);
  const LinearJob output = job(layer, kOutput, x, true);
  kernel.linears(attended_.data(), rows, &output, 1);
  kernel.rms_norm(x.data(), layer.post_norm, rows, size, eps_, normed_.data());
  const LinearJob inner[] = {job(layer, kGate, gate_), job(layer, kUp, up_),
                             job(layer, kDown, x, true)};
  kernel.feed_forward(normed_.data(), rows, inner);
}

mx::array Decoder::step(const std::vector<int>& tokens) {
  const NoSubnormals here;
  if (tokens.size() != rows_.size())
    throw std::invalid_argument("decoder: one token a row");
  if (!final_norm_ || embedding_.rows == 0 || layers_.empty())
    throw std::invalid_argument("decoder: layers, embedding or head are missing");
  for (int token : tokens)
    if (token < 0 || token >= embedding_.rows)
      throw std::invalid_argument("decoder: a token is outside the vocabulary");
  const long rows = rows_.size(), size = embedding_.cols, half = inverse_frequencies_.size();
  const long inner = layers_[0]->parts[kGate].job.w.rows;
  mx::array logits({static_cast<int>(rows), static_cast<int>(head_.rows)}, mx::float32, nullptr,
                   {});
  logits.set_data(mx::allocator::malloc(logits.nbytes()));  // not for a task: made here and now
  logits.set_status(mx::array::Status::available);
  if (rows == 0) return logits;
  std::vector<float> x(rows * size);
  normed_.resize(rows * size);
  q_.resize(rows * heads_ * width_);
  attended_.resize(rows * heads_ * width_);
  k_.resize(rows * kv_heads_ * width_);
  v_.resize(rows * kv_heads_ * width_);
  gate_.resize(rows * inner);
  up_.resize(rows * inner);
  cosines_.resize(rows * half);
  sines_.resize(rows * half);
  for (long r = 0; r < rows; r++)
    for (long i = 0; i < half; i++) {
      const float angle = rows_[r].length * rope_scale_ * inverse_frequencies_[i];
      cosines_[r * half + i] = std::cos(angle);
      sines_[r * half + i] = std::sin(angle);
    }
  kernels().gather_rows(embedding_, tokens.data(), rows, x.data());
  for (size_t l = 0; l < layers_.size(); l++) run_layer(static_cast<int>(l), x);
  for (Row& row : rows_) row.length++;
  kernels().rms_norm(x.data(), final_norm_, rows, size, eps_, normed_.data());
  LinearJob head{};
  head.w = head_;
  head.y = logits.data<float>();
  kernels().linears(normed_.data(), rows, &head, 1);
  return logits;
}

}  // namespace minialign
