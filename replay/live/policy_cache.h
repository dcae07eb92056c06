// SPDX-License-Identifier: Apache-2.0
// A policy's cache under the decoder: really compacted per KV head, really packed, changed by the policy as it goes.
// One LayerCache per layer, the same that replay evaluates.
#pragma once

#include <memory>
#include <vector>

#include "capture/kv_cache.h"
#include "replay/layer_cache.h"

namespace kvscope {

class PolicyCache final : public KvCache {
 public:
  // layers: loaded with what the policy kept of tokens 0 .. num_tokens-1. policy: after its decision.
  PolicyCache(std::vector<std::unique_ptr<LayerCache>> layers, std::unique_ptr<Policy> policy, DType dtype,
              int num_tokens);

  int num_tokens() const override { return num_tokens_; }
  DType dtype() const override { return dtype_; }
  void Append(int layer, const LayerChunk& chunk) override;
  void Attend(const AttendProblem& problem) override;
  double Bytes() const override;
  std::unique_ptr<KvCache> Fork() const override;

  int64_t num_entries() const;  // of all layers and KV heads
  const LayerCache& layer(int index) const { return *layers_[index]; }

 private:
  std::vector<std::unique_ptr<LayerCache>> layers_;
  std::unique_ptr<Policy> policy_;
  DType dtype_;
  int num_tokens_;
  std::vector<float> k_, v_;  // [kv_head, token, head_dim] of the chunk on its way
};

}  // namespace kvscope
