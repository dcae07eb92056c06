// SPDX-License-Identifier: Apache-2.0
// A cell of the grid scorer x allocator x granularity x trigger as a whole policy.
//
// At the decision: the scorer seeds relevance layer by layer, turns it into priority, guards are laid over it, the
// allocator gives each KV head a budget, and each head keeps its best entries (tokens, or chunks of tokens).
// Afterwards, with growth=fixed: relevance is updated by every query and each `every`-th one brings the cache back to
// its budget. With growth=append nothing is evicted any more, so nothing is watched and no state is billed.
// AfterLayer runs layer after layer; Select and AfterStep of different layers may run at the same time.
#pragma once

#include <memory>

#include "replay/policy.h"

namespace kvscope {

class ComposedPolicy final : public Policy {
 public:
  // name: for error messages. An allocator that is per_head() needs a scorer of Scope::kKvHead.
  ComposedPolicy(std::string name, std::unique_ptr<Scorer> scorer, std::shared_ptr<const Allocator> allocator,
                 const PolicySettings& settings);
  ComposedPolicy(const ComposedPolicy& other);

  PolicyNeeds Needs(const ModelShape& shape) const override;
  void AfterLayer(const LayerView& view) override;
  Budgets Allocate(const ModelShape& shape, int num_tokens, int uniform_entries) override;
  LayerPlan Select(int layer_index, const std::vector<int>& budget_entries) override;
  bool WatchesSteps() const override { return settings_.every > 0 && settings_.growth == Growth::kFixed; }
  std::optional<LayerPlan> AfterStep(const StepView& step, const std::vector<int>& budget_entries) override;
  std::unique_ptr<Policy> Snapshot() const override { return std::make_unique<ComposedPolicy>(*this); }

  // [kv_head][token], valid between Allocate and Select; for tests and the viewer.
  const PerSlot& priority(int layer_index) const { return layers_.at(layer_index).priority; }

 private:
  struct Layer {
    PerSlot relevance, priority;
    int queries_since_decision = 0;
  };
  std::vector<float> Prioritize(const PriorityView& view) const;
  void CheckGuards(const Budgets& budgets, int num_tokens) const;

  std::string name_;
  std::unique_ptr<Scorer> scorer_;
  std::shared_ptr<const Allocator> allocator_;
  PolicySettings settings_;
  PolicyNeeds needs_;  // of the shape seen last
  std::vector<Layer> layers_;
};

// The `budget` best slots, ascending. With chunks (tokens that share token / chunk_tokens) protected entries come
// first, then whole chunks by the mean priority of their entries, those that hold a protected entry before others; the
// last chunk is cut to the exact count by priority. Ties: the lower token.
std::vector<int> SelectSlots(std::span<const int> token_from_slot, std::span<const float> priority, int chunk_tokens,
                             int budget);

}  // namespace kvscope
