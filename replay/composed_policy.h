// SPDX-License-Identifier: Apache-2.0
// A cell of the grid scorer x allocator x granularity x trigger x store as a whole policy.
//
// At the decision: the scorer seeds relevance layer by layer, turns it into priority, guards are laid over it. Then
// - an allocator of entries gives each KV head a budget, and each head keeps its best (tokens, or chunks of tokens);
// - an allocator of bits spends the bytes of all layers together: every entry gets bits from the store's ladder or
// goes. Afterwards, with growth=fixed: relevance is updated by every query and each `every`-th one brings the cache
// back to its budget; a layer then keeps the bytes that the decision gave it. With growth=append nothing changes any
// more, so nothing is watched and no relevance is billed. AfterLayer runs layer after layer; Select and AfterStep of
// different layers may run at the same time.
#pragma once

#include <memory>

#include "replay/policy.h"
#include "replay/store.h"

namespace kvscope {

class ComposedPolicy final : public Policy {
 public:
  struct Parts {
    std::unique_ptr<Scorer> scorer;
    std::shared_ptr<const Allocator> allocator;
    std::shared_ptr<const Store> store;
  };
  // name: for error messages. An allocator that is per_head() needs a scorer of Scope::kKvHead, one of bits a store
  // with a ladder.
  ComposedPolicy(std::string name, Parts parts, const PolicySettings& settings);
  ComposedPolicy(const ComposedPolicy& other);

  PolicyNeeds Needs(const ModelShape& shape) const override;
  void AfterLayer(const LayerView& view) override;
  Budgets Allocate(const ModelShape& shape, std::span<const PolicyBudget> budgets) override;
  // The scorer's tokens and those that guards hold.
  std::optional<Propagation> Propagates() const override;
  LayerPlan Select(int layer_index, const std::vector<int>& budget_entries) override;
  bool WatchesSteps() const override { return settings_.every > 0 && settings_.growth == Growth::kFixed; }
  void AfterWindow(int layer_index, int kv_head, int count) override;
  std::optional<LayerPlan> AfterStep(const StepView& step, const std::vector<int>& budget_entries) override;
  std::unique_ptr<Policy> Snapshot() const override { return std::make_unique<ComposedPolicy>(*this); }

  std::span<const float> Priority(int layer_index, int kv_head) const override {
    const PerSlot& priority = layers_.at(layer_index).priority;
    return priority.empty() ? std::span<const float>{} : priority.at(kv_head);
  }

 private:
  struct Layer {
    int budget_index = 0;
    PerSlot relevance, priority;
    int queries_since_decision = 0;
    // Allocators of bits only.
    Bits bits;                                    // [kv_head][slot]
    double budget_bytes = 0;                      // after the decision
    std::vector<std::vector<double>> distortion;  // [row][ladder], or empty
    std::vector<std::vector<float>> key_factors;  // [kv_head], or empty
  };
  std::vector<float> Prioritize(const PriorityView& view) const;
  const PolicyBudget& BudgetOf(int layer_index) const { return budgets_.at(layers_.at(layer_index).budget_index); }
  // [layer of the budget][kv_head][token that it has]
  std::vector<PerSlot> PriorityAtDecision(const PolicyBudget& budget) const;
  int64_t NumGuarded(const PolicyBudget& budget) const;  // of a KV head
  void CheckGuards(const Budgets& budgets, const PolicyBudget& asked) const;
  void CheckGuardBytes(const PolicyBudget& budget) const;
  void MeasureHarm(const LayerView& view, Layer& layer) const;
  Budgets AllocateEntries(const PolicyBudget& budget, const std::vector<PerSlot>& priority) const;
  Budgets SpendAtDecision(const PolicyBudget& budget, const std::vector<PerSlot>& priority);
  int ContestedEntries(const PolicyBudget& budget) const;  // at the decision
  SpendingView ViewOf(std::vector<SpendingView::Row> rows, const PolicyBudget& budget,
                      std::span<const double> row_bytes, double bytes) const;
  // Bytes of one slot of a row, [ladder].
  std::vector<double> RowBytes(const PolicyBudget& budget) const;
  double BytesOf(const Layer& layer) const;
  static std::span<const double> DistortionOf(const Layer& layer, size_t row) {
    return layer.distortion.empty() ? std::span<const double>{} : layer.distortion[row];
  }
  int NumRows() const { return needs_.scope == Scope::kLayer ? 1 : shape_.num_kv_heads; }  // of a layer
  LayerPlan Evict(const StepView& step, Layer& layer, const std::vector<int>& budget_entries);
  LayerPlan Spend(const StepView& step, Layer& layer);

  std::string name_;
  Parts parts_;
  PolicySettings settings_;
  ModelShape shape_;  // seen last
  PolicyNeeds needs_;
  std::vector<PolicyBudget> budgets_;
  std::vector<Layer> layers_;
};

// The `budget` best slots, ascending. With chunks (tokens that share token / chunk_tokens) protected entries come
// first, then whole chunks by the mean or maximum of their entries' priorities, those that hold a protected entry
// before others; the last chunk is cut to the exact count by priority. Ties: the lower token. budget: at most the slots
// that are not absent.
std::vector<int> SelectSlots(std::span<const int> token_from_slot, std::span<const float> priority,
                             const Granularity& granularity, int budget);

}  // namespace kvscope
