// SPDX-License-Identifier: Apache-2.0
#include "capture/full_cache.h"

#include <tbb/parallel_for.h>

#include <algorithm>
#include <cstring>

#include "core/error.h"
#include "kernels/attention_tile.h"

namespace kvscope {

FullCache::FullCache(const ModelConfig& config, DType dtype)
    : num_heads_(config.num_heads),
      num_kv_heads_(config.num_kv_heads),
      head_dim_(config.head_dim),
      dtype_(dtype),
      layers_(config.num_layers) {
  for (const LayerConfig& layer : config.layers) rules_.push_back(layer.attention);
  for (Layer& layer : layers_) {
    layer.k.assign(num_kv_heads_, Buffer(dtype, 0));
    layer.v.assign(num_kv_heads_, Buffer(dtype, 0));
  }
}

void FullCache::Append(int layer_index, const LayerChunk& chunk) {
  Layer& layer = layers_[layer_index];
  KVSCOPE_CHECK(chunk.k.dtype() == dtype_);
  const size_t added = static_cast<size_t>(chunk.num_tokens) * head_dim_;
  for (int kv_head = 0; kv_head < num_kv_heads_; ++kv_head) {
    const auto append = [&](Buffer& to, const Buffer& from) {
      const size_t old = to.size();
      to.resize(old + added);
      std::memcpy(to.At(old), from.At(kv_head * added), added * ElementBytes(dtype_));
    };
    append(layer.k[kv_head], chunk.k);
    append(layer.v[kv_head], chunk.v);
  }
  layer.num_tokens += chunk.num_tokens;
  if (layer_index + 1 == static_cast<int>(layers_.size())) num_tokens_ = layer.num_tokens;
}

void FullCache::Attend(const AttendProblem& problem) {
  constexpr int kQueryBlock = 64;
  const Layer& layer = layers_[problem.layer];
  const int group = num_heads_ / num_kv_heads_;
  const int blocks = (problem.num_queries + kQueryBlock - 1) / kQueryBlock;
  const int first_query = layer.num_tokens - problem.num_queries;
  const bool keeps_scores = keeps_scores_ && problem.num_queries == 1;
  scores_.resize(keeps_scores ? static_cast<size_t>(num_heads_) * layer.num_tokens : 0);
  // The last blocks see the most tokens: they go first, so that threads finish together.
  tbb::parallel_for(
      0, blocks * num_kv_heads_,
      [&](int task) {
        const int block = blocks - 1 - task / num_kv_heads_, kv_head = task % num_kv_heads_;
        const int begin = block * kQueryBlock;
        CausalAttention p;
        p.group = group;
        p.num_queries = std::min(kQueryBlock, problem.num_queries - begin);
        p.first_query = first_query + begin;
        p.head_dim_k = p.head_dim_v = head_dim_;
        p.q_row_stride = head_dim_;
        p.q_head_stride = static_cast<int64_t>(problem.num_queries) * head_dim_;
        p.q = problem.q + kv_head * group * p.q_head_stride + begin * p.q_row_stride;
        p.k = layer.k[kv_head].data();
        p.v = layer.v[kv_head].data();
        p.dtype = dtype_;
        p.rule = rules_[problem.layer];
        p.out_head_stride = head_dim_;
        p.out_row_stride = problem.out_stride;
        p.out = problem.out + kv_head * group * head_dim_ + begin * p.out_row_stride;
        p.lse_head_stride = problem.num_queries;
        p.lse = problem.lse + static_cast<int64_t>(kv_head) * group * problem.num_queries + begin;
        if (keeps_scores) {
          p.scores = &scores_[static_cast<size_t>(kv_head) * group * layer.num_tokens];
          p.scores_head_stride = layer.num_tokens;
        }
        cpu_fast::Attend(p);
      },
      tbb::simple_partitioner{});
}

double FullCache::Bytes() const {
  double entries = 0;
  for (size_t i = 0; i < layers_.size(); ++i) {
    const int tokens = layers_[i].num_tokens, window = rules_[i].window;
    entries += window > 0 ? std::min(window, tokens) : tokens;
  }
  return entries * num_kv_heads_ * 2 * head_dim_ * static_cast<double>(ElementBytes(dtype_));
}

void FullCache::WeightRows(int layer_index, const float* lse, std::span<Half> weights) {
  const int tokens = layers_[layer_index].num_tokens;
  KVSCOPE_CHECK_EQ(weights.size(), static_cast<size_t>(num_heads_) * tokens);
  KVSCOPE_CHECK_EQ(scores_.size(), weights.size());
  tbb::parallel_for(0, num_heads_, [&](int head) {
    const std::span<float> row(&scores_[static_cast<size_t>(head) * tokens], tokens);
    WeightsFromScores(row, 0, tokens - 1, rules_[layer_index], lse[head]);
    HalvesFromFloats(row, weights.subspan(static_cast<size_t>(head) * tokens, tokens));
  });
  scores_.clear();
}

}  // namespace kvscope
