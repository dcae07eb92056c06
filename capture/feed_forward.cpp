// SPDX-License-Identifier: Apache-2.0
#include "capture/feed_forward.h"

#include <tbb/parallel_for.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "kernels/glu.h"
#include "kernels/top_k.h"

namespace kvscope {

void FeedForwardRunner::Run(const ModelConfig& config, const LayerWeights& weights, const float* x, int rows,
                            float* out) {
  if (config.num_experts > 0) return RunExperts(config, weights, x, rows, out);
  const FeedForward& w = weights.ffn;
  gate_.resize(static_cast<size_t>(rows) * config.ffn);
  up_.resize(gate_.size());
  cpu_fast::Matmul(std::initializer_list<MatmulProblem>{{x, config.hidden, rows, &w.gate, gate_.data(), config.ffn},
                                                        {x, config.hidden, rows, &w.up, up_.data(), config.ffn}},
                   activations_);
  ApplyGate(config.architecture.gate, rows, config.ffn);
  cpu_fast::Matmul({gate_.data(), config.ffn, rows, &w.down, out, config.hidden}, activations_);
}

// Row by row, so that a row's bits do not depend on where it lies.
void FeedForwardRunner::ApplyGate(Gate kind, int64_t rows, int ffn) {
  constexpr int64_t kGrain = 16;
  tbb::parallel_for(tbb::blocked_range<int64_t>(0, rows, kGrain), [&](const tbb::blocked_range<int64_t>& range) {
    for (int64_t row = range.begin(); row < range.end(); ++row) {
      const std::span<float> gate(&gate_[row * ffn], ffn), up(&up_[row * ffn], ffn);
      cpu_fast::Glu(kind, gate, up, gate);
    }
  });
}

void FeedForwardRunner::ChooseExperts(const ModelConfig& config, int rows) {
  choices_.assign(config.num_experts, {});
  for (int row = 0; row < rows; ++row) {
    const std::span<const float> scores(&router_[static_cast<size_t>(row) * config.num_experts], config.num_experts);
    if (!std::all_of(scores.begin(), scores.end(), [](float score) { return std::isfinite(score); }))
      throw Error("the router of a layer's experts gives scores that are not numbers; the model file is damaged");
    const std::vector<int> chosen = cpu::TopK(scores, config.experts_used);
    const float highest = *std::max_element(scores.begin(), scores.end());
    double sum = 0;  // the softmax over all experts cancels out
    for (const int expert : chosen) sum += std::exp(static_cast<double>(scores[expert]) - highest);
    for (const int expert : chosen) {
      const double weight = std::exp(static_cast<double>(scores[expert]) - highest) / sum;
      choices_[expert].push_back({row, static_cast<float>(weight)});
    }
  }
}

void FeedForwardRunner::RunExperts(const ModelConfig& config, const LayerWeights& weights, const float* x, int rows,
                                   float* out) {
  const int64_t hidden = config.hidden, ffn = config.ffn;
  router_.resize(static_cast<size_t>(rows) * config.num_experts);
  cpu_fast::Matmul({x, hidden, rows, &weights.router, router_.data(), config.num_experts});
  ChooseExperts(config, rows);

  const int64_t count = int64_t{rows} * config.experts_used;
  chosen_x_.resize(count * hidden);
  chosen_out_.resize(count * hidden);
  gate_.resize(count * ffn);
  up_.resize(count * ffn);
  std::vector<MatmulProblem> into, out_of;
  int64_t at = 0;  // choice
  for (int expert = 0; expert < config.num_experts; ++expert) {
    const auto num_rows = static_cast<int>(choices_[expert].size());
    if (num_rows == 0) continue;
    const FeedForward& w = weights.experts[expert];
    into.push_back({&chosen_x_[at * hidden], hidden, num_rows, &w.gate, &gate_[at * ffn], ffn});
    into.push_back({&chosen_x_[at * hidden], hidden, num_rows, &w.up, &up_[at * ffn], ffn});
    out_of.push_back({&gate_[at * ffn], ffn, num_rows, &w.down, &chosen_out_[at * hidden], hidden});
    for (const Choice& choice : choices_[expert])
      std::copy_n(x + choice.row * hidden, hidden, &chosen_x_[at++ * hidden]);
  }
  cpu_fast::Matmul(into, activations_);
  ApplyGate(config.architecture.gate, count, config.ffn);
  cpu_fast::Matmul(out_of, activations_);

  std::fill_n(out, int64_t{rows} * hidden, 0.0f);
  at = 0;
  for (const std::vector<Choice>& expert : choices_) {  // so that a row's sum runs in order of experts
    for (const Choice& choice : expert) {
      const float* from = &chosen_out_[at++ * hidden];
      for (int64_t i = 0; i < hidden; ++i) out[choice.row * hidden + i] += choice.weight * from[i];
    }
  }
}

}  // namespace kvscope
