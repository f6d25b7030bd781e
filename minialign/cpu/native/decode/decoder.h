// A Llama-type transformer that makes one token a row in one call: its own cache of keys and
// values in pages, which rows share where they have the same past.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <vector>

#include "base/arrays.h"

namespace minialign {

class Decoder {
 public:
  enum Part { kQuery, kKey, kValue, kOutput, kGate, kUp, kDown, kParts };

  // inverse_frequencies: (width / 2,) of the rotary embedding; position p turns by p * scale * f.
  Decoder(int heads, int kv_heads, int width, float eps, float attention_scale,
          std::vector<float> inverse_frequencies, float rope_scale, bool traditional);

  Decoder(const Decoder&) = delete;  // jobs point into the layers

  using Optional = std::optional<mx::array>;

  // Arrays must be evaluated and dense; they are kept, not copied.
  void add_layer(const mx::array& input_norm, const mx::array& post_norm);
  void set_linear(int layer, int part, const mx::array& w, const Optional& scales,
                  const Optional& biases, int group, int bits, const Optional& bias,
                  const Optional& lora_a, const Optional& lora_b, float lora_scale);
  void set_embedding(const mx::array& w, const Optional& scales, const Optional& biases, int group,
                     int bits);
  void set_head(const mx::array& norm, const mx::array& w, const Optional& scales,
                const Optional& biases, int group, int bits);

  // Adds rows whose past is keys and values, one (1 or count, kv_heads, length, width) a layer,
  // rotary positions applied; a past of one row is shared by all the new ones.
  void add_rows(int count, const std::vector<mx::array>& keys,
                const std::vector<mx::array>& values);

  // The rows at these places remain, in this order; a place may be named twice.
  void keep(const std::vector<int>& rows);

  // Appends one token to every row; logits (rows, vocabulary) for the next ones.
  mx::array step(const std::vector<int>& tokens);

  std::vector<int> lengths() const;

 private:
  struct Linear {
    LinearJob job{};
    std::vector<float> a_transposed;
  };
  struct Layer {
    const float *input_norm, *post_norm;
    std::array<Linear, kParts> parts;
  };
  using Page = std::shared_ptr<float[]>;
  struct Row {
    int length = 0;
    std::vector<std::vector<Page>> pages;  // one list a layer
  };

  Page new_page() const;
  long page_floats() const { return 2l * kv_heads_ * kPageTokens * width_; }
  void prepare_page(Row& row, int layer);  // that takes the row's next token
  void run_layer(int layer, std::vector<float>& x);
  const float* hold(const mx::array& a);
  Weight hold_weight(const mx::array& w, const Optional& scales, const Optional& biases, int group,
                     int bits);
  static LinearJob job(const Layer& layer, Part part, std::vector<float>& y, bool add = false);

  int heads_, kv_heads_, width_;
  float eps_, attention_scale_, rope_scale_;
  std::vector<float> inverse_frequencies_;
  bool traditional_;
  std::vector<mx::array> held_;
  std::vector<std::unique_ptr<Layer>> layers_;
  Weight embedding_{}, head_{};
  const float* final_norm_ = nullptr;
  std::vector<Row> rows_;
  std::vector<float> normed_, q_, k_, v_, attended_, gate_, up_, cosines_, sines_;
};

}  // namespace minialign
