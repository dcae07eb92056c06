// SPDX-License-Identifier: Apache-2.0
// The oracle: keeps everything and reads, for each query, the entries that this very query weighs most. No policy that
// reads as many entries per KV head keeps more weight, so it bounds every table from above.
//
// Keeps    all; reads the budget (growth=append: and as many entries as were added since the decision).
// State    none.
// Departs  not a policy one can run: it needs the weights before it chooses what to read.
// Test     tests/replay/policies/top_k_oracle_test.cpp
#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "kernels/top_k.h"
#include "replay/head_reduction.h"
#include "replay/registry.h"

namespace kvscope {
namespace {

class TopKOracle final : public Policy {
 public:
  explicit TopKOracle(const PolicySettings& settings) : settings_(settings) {}

  PolicyNeeds Needs(const ModelShape&) const override {
    PolicyNeeds needs;
    needs.oracle = true;
    needs.query_aware = true;
    return needs;
  }
  void AfterLayer(const LayerView&) override {}
  Budgets Allocate(const ModelShape& shape, std::span<const PolicyBudget> budgets) override {
    const Guards& guards = settings_.guards;
    first_token_.resize(shape.num_layers);
    budgets_.assign(shape.num_layers, {});
    Budgets entries(shape.num_layers);
    for (const PolicyBudget& budget : budgets) {
      const int64_t guarded = guards.NumHeld(budget.first_token, budget.next_token());
      if (guarded > budget.uniform_entries) {
        throw Error(StrCat("policy 'top_k_oracle': guards sinks=", guards.sinks, ",recent=", guards.recent, " hold ",
                           guarded, " entries, above a budget of ", budget.uniform_entries, " entries per KV head"));
      }
      next_token_ = budget.next_token();
      for (const int layer : budget.layers) {
        first_token_[layer] = budget.first_token;
        entries[layer].assign(shape.num_kv_heads, budget.uniform_entries);
      }
    }
    return entries;
  }
  LayerPlan Select(int layer_index, const std::vector<int>& budget_entries) override {
    budgets_.at(layer_index) = budget_entries;
    HeadPlan all;
    all.keep.resize(next_token_ - first_token_.at(layer_index));
    std::iota(all.keep.begin(), all.keep.end(), first_token_[layer_index]);
    return LayerPlan(budget_entries.size(), all);
  }
  bool ChoosesReads() const override { return true; }
  std::optional<ReadPlan> BeforeStep(const QueryView& query) override {
    const int group = query.shape().HeadsPerKvHead();
    ReadPlan plan;
    for (int kv_head = 0; kv_head < query.shape().num_kv_heads; ++kv_head) {
      const std::span<const int> token_from_slot = query.TokenFromSlot(kv_head);
      std::vector<float> weight(token_from_slot.size());
      ReduceHeads(
          Reduction::kMean, kv_head * group, (kv_head + 1) * group, [&](int head) { return query.FullWeight(head); },
          weight);
      int entries = budgets_.at(query.layer_index()).at(kv_head);
      if (settings_.growth == Growth::kAppend) entries += query.query_token() + 1 - next_token_;
      for (size_t slot = 0; slot < weight.size(); ++slot) {
        const int token = token_from_slot[slot];
        if (settings_.guards.Holds(token, query.query_token() + 1)) weight[slot] = GuardPriority(token);
      }
      plan.slots.push_back(cpu::TopK(weight, std::max(1, entries)));
    }
    return plan;
  }
  bool WatchesSteps() const override { return false; }
  std::optional<LayerPlan> AfterStep(const StepView&, const std::vector<int>&) override { return std::nullopt; }
  std::unique_ptr<Policy> Snapshot() const override { return std::make_unique<TopKOracle>(*this); }

 private:
  PolicySettings settings_;
  int next_token_ = 0;            // of the decision
  std::vector<int> first_token_;  // [layer]
  Budgets budgets_;               // [layer][kv_head]; empty before that layer's Select
};

const ScorerRegistration registration({
    {.name = "top_k_oracle",
     .paper_url = "",
     .summary = "reads the entries that the present query weighs most: the upper bound",
     .departs = "sees the weights before it chooses what to read"},
    "oracle",
    Growth::kAppend,
    nullptr,
    [](Params&, const PolicySettings& settings) { return std::make_unique<TopKOracle>(settings); },
});

}  // namespace
}  // namespace kvscope
