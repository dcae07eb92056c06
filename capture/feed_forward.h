// SPDX-License-Identifier: Apache-2.0
// The feed-forward block of a layer: one gated block for all tokens, or a mixture of experts, of which a router chooses
// a few for each token (Shazeer et al. 2017, https://arxiv.org/abs/1701.06538; softmax over all experts, the chosen
// ones' weights normalised to 1, as in Mixtral and Qwen 3).
#pragma once

#include <vector>

#include "capture/model.h"

namespace kvscope {

class FeedForwardRunner {
 public:
  // The router multiplies as floats always.
  explicit FeedForwardRunner(Activations activations = Activations::kFloat) : activations_(activations) {}
  // out [rows, hidden] of x [rows, hidden]; they must not overlap. A row's bits depend on that row alone. Throws Error
  // when a router's scores are not finite.
  void Run(const ModelConfig& config, const LayerWeights& weights, const float* x, int rows, float* out);

 private:
  struct Choice {
    int row;
    float weight;
  };
  void RunExperts(const ModelConfig& config, const LayerWeights& weights, const float* x, int rows, float* out);
  void ChooseExperts(const ModelConfig& config, int rows);
  void ApplyGate(Gate kind, int64_t rows, int ffn);

  Activations activations_;
  std::vector<float> gate_, up_;              // [rows, ffn]; with experts a row for each choice, in order of experts
  std::vector<float> router_;                 // [rows, experts]
  std::vector<std::vector<Choice>> choices_;  // [expert], rows ascending
  std::vector<float> chosen_x_, chosen_out_;  // [choice, hidden]
};

}  // namespace kvscope
