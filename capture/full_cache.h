// SPDX-License-Identifier: Apache-2.0
// Every key and value, in f16 or f32. A layer with a window keeps those outside it too, for the recorder: they are
// neither attended to nor billed.
#pragma once

#include <vector>

#include "capture/kv_cache.h"
#include "capture/model.h"

namespace kvscope {

class FullCache final : public KvCache {
 public:
  FullCache(const ModelConfig& config, DType dtype);

  int num_tokens() const override { return num_tokens_; }
  DType dtype() const override { return dtype_; }
  void Append(int layer, const LayerChunk& chunk) override;
  void Attend(const AttendProblem& problem) override;
  double Bytes() const override;
  std::unique_ptr<KvCache> Fork() const override { return std::make_unique<FullCache>(*this); }

  // From here on Attend keeps the scores of a single query, for WeightRows.
  void KeepScores() { keeps_scores_ = true; }
  // Of the single query that Attend answered last, in this layer: weights[head, token] = exp(score - lse) over tokens
  // 0 .. num_tokens-1, 0 outside the window, as f16: what a trace records. lse [heads]; weights [heads, num_tokens].
  // Uses its scores up.
  void WeightRows(int layer, const float* lse, std::span<Half> weights);

  // [layer's tokens, head_dim]; until the next Append.
  const void* Keys(int layer, int kv_head) const { return layers_[layer].k[kv_head].data(); }

 private:
  struct Layer {
    int num_tokens = 0;
    std::vector<Buffer> k, v;  // [kv_head]: [token, head_dim]
  };
  int num_heads_, num_kv_heads_, head_dim_;
  std::vector<AttentionRule> rules_;  // [layer]
  DType dtype_;
  int num_tokens_ = 0;
  std::vector<Layer> layers_;
  bool keeps_scores_ = false;
  std::vector<float> scores_;  // [heads, the layer's tokens]
};

}  // namespace kvscope
