// SPDX-License-Identifier: Apache-2.0
// Views over hand-made numbers, so that a policy's test needs no trace and no engine.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "replay/composed_policy.h"
#include "replay/policy.h"
#include "replay/policy_spec.h"

namespace kvscope {

// Q and K of one layer, in double: [head][token][dim] and [kv_head][token][dim].
struct TinyAttention {
  ModelShape shape;
  int num_tokens = 0;
  std::vector<std::vector<std::vector<double>>> q, k;
  // Weights of one query head's row over tokens 0 .. query.
  std::vector<double> Row(int head, int query) const;
};
// Peaky random attention; the fixed seed makes it the same everywhere.
TinyAttention RandomAttention(const ModelShape& shape, int num_tokens, int seed);

// A layer at the decision; statistics are computed from rows in double, or set by hand with Set.
class TinyLayerView final : public LayerView {
 public:
  // row_end: tokens before the decision.
  TinyLayerView(const TinyAttention& attention, int layer_index, int row_end);
  TinyLayerView(const ModelShape& shape, int layer_index, int num_tokens);
  void Set(const StatisticSpec& spec, int head, std::vector<float> values) { given_[spec][head] = std::move(values); }

  int layer_index() const override { return layer_index_; }
  const ModelShape& shape() const override { return shape_; }
  int num_tokens() const override { return num_tokens_; }
  std::span<const float> Statistic(const StatisticSpec& spec, int head) const override;
  std::vector<float> Keys(int kv_head) const override;
  std::vector<float> Values(int kv_head) const override { return Keys(kv_head); }
  QueryChannels Queries(int) const override {
    return {std::vector<float>(shape_.head_dim_k, 3.0f), std::vector<float>(shape_.head_dim_k, 2.0f)};
  }
  uint64_t seed() const override { return seed_; }
  void set_seed(uint64_t seed) { seed_ = seed; }

 private:
  const TinyAttention* attention_ = nullptr;
  ModelShape shape_;
  int layer_index_, num_tokens_;
  uint64_t seed_ = 0;
  mutable std::map<StatisticSpec, std::map<int, std::vector<float>>> given_;
};

// One query over the policy's own cache: weights are the full row, renormalised over the kept tokens.
class TinyStepView final : public StepView, public QueryView {
 public:
  // tokens: [kv_head][slot], the query's own token included.
  TinyStepView(const TinyAttention& attention, int layer_index, int query, std::vector<std::vector<int>> tokens);
  TinyStepView(const ModelShape& shape, int layer_index, int query, std::vector<std::vector<int>> tokens,
               std::vector<std::vector<float>> weight_from_head);

  int layer_index() const override { return layer_index_; }
  const ModelShape& shape() const override { return shape_; }
  int query_token() const override { return query_; }
  std::span<const int> TokenFromSlot(int kv_head) const override { return tokens_.at(kv_head); }
  std::span<const float> Weight(int head) const override { return weight_.at(head); }
  std::span<const float> FullWeight(int head) const override { return weight_.at(head); }
  std::vector<float> TraceWeight(int head) const override { return trace_weight_.at(head); }

 private:
  ModelShape shape_;
  int layer_index_, query_;
  std::vector<std::vector<int>> tokens_;
  std::vector<std::vector<float>> weight_, trace_weight_;
};

// A budget of all layers, without bytes.
PolicyBudget BudgetOfLayers(const ModelShape& shape, int num_tokens, int entries);
Budgets AllocateAll(Policy& policy, const ModelShape& shape, int num_tokens, int entries);
// A budget of as many 16-bit entries per KV head, in entries and in bytes.
PolicyBudget BudgetFor(const PolicySpec& spec, const ModelShape& shape, int num_tokens, int entries);

// What a policy keeps after the prompt and after each later query, by token: [moment][kv_head][kept]. One layer.
std::vector<std::vector<std::vector<int>>> Play(const std::string& spec, const TinyAttention& attention,
                                                int prompt_tokens, int budget_entries, const Guards& guards = {});

// The policy's priorities at the decision: [kv_head][token]. One layer.
PerSlot PrioritiesAtDecision(const std::string& spec, const LayerView& view, int uniform_entries);

}  // namespace kvscope
