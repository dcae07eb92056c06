// SPDX-License-Identifier: Apache-2.0
#include "replay/live/policy_cache.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace kvscope {
namespace {

void CopyAsFloats(const Buffer& from, std::vector<float>& to) {
  to.resize(from.size());
  if (from.dtype() == DType::kF16) {
    FloatsFromHalves(from.halves(), to);
  } else {
    std::copy(from.floats().begin(), from.floats().end(), to.begin());
  }
}

}  // namespace

PolicyCache::PolicyCache(std::vector<std::unique_ptr<LayerCache>> layers, std::unique_ptr<Policy> policy, DType dtype,
                         int num_tokens)
    : layers_(std::move(layers)), policy_(std::move(policy)), dtype_(dtype), num_tokens_(num_tokens) {}

void PolicyCache::Append(int layer, const LayerChunk& chunk) {
  (void)layer;
  KVSCOPE_CHECK(chunk.k.dtype() == dtype_);
  CopyAsFloats(chunk.k, k_);
  CopyAsFloats(chunk.v, v_);
}

void PolicyCache::Attend(const AttendProblem& problem) {
  LayerCache& layer = *layers_[problem.layer];
  const ModelShape& shape = layer.shape();
  LayerStep step;
  step.first_token = num_tokens_;
  step.num_tokens = problem.num_queries;
  step.q = problem.q;
  step.q_token_stride = step.k_token_stride = shape.head_dim_k;
  step.v_token_stride = shape.head_dim_v;
  step.q_head_stride = step.k_head_stride = static_cast<int64_t>(problem.num_queries) * shape.head_dim_k;
  step.v_head_stride = static_cast<int64_t>(problem.num_queries) * shape.head_dim_v;
  step.k = k_.data();
  step.v = v_.data();
  step.out = problem.out;
  step.out_head_stride = shape.head_dim_v;
  step.out_token_stride = problem.out_stride;
  step.lse = problem.lse;
  step.lse_head_stride = problem.num_queries;
  layer.Step(step, *policy_);
  if (problem.layer + 1 == static_cast<int>(layers_.size())) num_tokens_ += problem.num_queries;
}

double PolicyCache::Bytes() const {
  double bytes = 0;
  for (const auto& layer : layers_) bytes += layer->Bytes();
  return bytes;
}

int64_t PolicyCache::num_entries() const {
  int64_t entries = 0;
  for (const auto& layer : layers_) entries += layer->num_entries();
  return entries;
}

std::unique_ptr<KvCache> PolicyCache::Fork() const {
  std::vector<std::unique_ptr<LayerCache>> layers;
  for (const auto& layer : layers_) layers.push_back(layer->Clone());
  return std::make_unique<PolicyCache>(std::move(layers), policy_->Snapshot(), dtype_, num_tokens_);
}

}  // namespace kvscope
