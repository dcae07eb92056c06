// SPDX-License-Identifier: Apache-2.0
// Random entries: what a policy must beat. With the guards sinks=4,recent=N it is a surprisingly strong one.
//
// Keeps    entries by a number drawn from (seed, layer, KV head, token): the same at any number of threads, in replay
//          and live, and smaller budgets keep subsets of what larger ones keep.
// State    none (the number can be drawn again at any time).
// Test     tests/replay/policies/baselines_test.cpp
#include "replay/registry.h"

namespace kvscope {
namespace {

// The finaliser of SplitMix64 (Steele, Lea, Flood, 2014).
uint64_t Mix(uint64_t value) {
  value += 0x9e3779b97f4a7c15u;
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
  value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
  return value ^ (value >> 31);
}

class Random final : public Scorer {
 public:
  PolicyNeeds Needs(const ModelShape&) const override { return {}; }
  void Seed(const LayerView& view, PerSlot&) override { seed_ = view.seed(); }
  void Prioritize(const PriorityView& view, std::span<float> priority) const override {
    const uint64_t place = Mix(Mix(Mix(seed_) + view.layer_index) + view.kv_head);
    for (size_t slot = 0; slot < priority.size(); ++slot) {
      const uint64_t drawn = Mix(place + view.token_from_slot[slot]);
      priority[slot] = static_cast<float>(drawn >> 40) * 0x1p-24f;  // [0, 1)
    }
  }
  std::unique_ptr<Scorer> Clone() const override { return std::make_unique<Random>(*this); }

 private:
  uint64_t seed_ = 0;
};

const ScorerRegistration registration({
    {.name = "random", .paper_url = "", .summary = "keeps random entries", .departs = ""},
    "baseline",
    Growth::kAppend,
    [](Params&) { return std::make_unique<Random>(); },
    nullptr,
});

}  // namespace
}  // namespace kvscope
