// SPDX-License-Identifier: Apache-2.0
// What the device's kernels do not compute; no CUDA in here.
#include <algorithm>

#include "capture/device_engine.h"

namespace kvscope {

std::string WhyNotOnDevice(const Model& model) {
  const ModelConfig& c = model.config;
  const auto any_layer = [&](auto&& has) { return std::any_of(c.layers.begin(), c.layers.end(), has); };
  const auto any_weights = [&](auto&& has) { return std::any_of(model.layers.begin(), model.layers.end(), has); };
  if (any_layer([](const LayerConfig& layer) { return layer.attention.window > 0; })) return "attention windows";
  if (any_layer([](const LayerConfig& layer) { return layer.attention.softcap > 0; }) || c.logit_softcap > 0)
    return "soft-caps";
  if (c.num_experts > 0) return "experts";
  if (any_weights([](const LayerWeights& w) { return !w.q_bias.empty() || !w.k_bias.empty() || !w.v_bias.empty(); }))
    return "biases of q, k and v";
  if (any_weights([](const LayerWeights& w) { return !w.q_norm.empty() || !w.k_norm.empty(); }))
    return "norms of q and k";
  if (any_weights([](const LayerWeights& w) { return !w.post_attn_norm.empty(); })) return "norms after a block";
  if (c.embedding_scale != 1) return "scaled embeddings";
  if (c.architecture.gate != Gate::kSilu) return "GELU";
  if (c.rope_sets.size() > 1 || c.rope_sets[0].attention_scaling != 1) return "this RoPE scaling";
  return "";
}

}  // namespace kvscope
