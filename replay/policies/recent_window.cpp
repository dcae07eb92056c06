// SPDX-License-Identifier: Apache-2.0
// A sliding window: the newest tokens and nothing else. StreamingLLM without its sinks.
//
// Keeps    the newest tokens, after each query.
// State    none.
// Test     tests/replay/policies/baselines_test.cpp
#include "replay/registry.h"

namespace kvscope {
namespace {

class RecentWindow final : public Scorer {
 public:
  PolicyNeeds Needs(const ModelShape&) const override {
    PolicyNeeds needs;
    needs.scope = Scope::kLayer;
    needs.every = 1;
    return needs;
  }
  void Seed(const LayerView&, PerSlot&) override {}
  void Prioritize(const PriorityView& view, std::span<float> priority) const override {
    for (size_t slot = 0; slot < priority.size(); ++slot)
      priority[slot] = static_cast<float>(view.token_from_slot[slot]);
  }
  std::unique_ptr<Scorer> Clone() const override { return std::make_unique<RecentWindow>(*this); }
};

const ScorerRegistration registration({
    {.name = "recent_window", .paper_url = "", .summary = "keeps the newest tokens", .departs = ""},
    "baseline",
    Growth::kFixed,
    [](Params&) { return std::make_unique<RecentWindow>(); },
    nullptr,
});

}  // namespace
}  // namespace kvscope
