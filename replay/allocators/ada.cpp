// SPDX-License-Identifier: Apache-2.0
// Ada-KV shares a layer's budget between its KV heads: heads whose entries rank high in the layer as a whole get more.
//
// Paper    Feng et al., Ada-KV: Optimizing KV Cache Eviction by Adaptive Budget Allocation, 2024.
//          https://arxiv.org/abs/2407.11550
// Rule     of the entries that nothing protects, the layer's best are counted per head; a head's share is
//          (1 - alpha) * its count + alpha * the uniform share, rounded by largest remainder.
// Departs  the official code rounds each head alone and misses the total by a few entries; every head keeps at least
//          one entry. compat=kvpress forces alpha of the uniform budget per head and fills up by rank, as AdaKVPress.
// Test     tests/replay/policies/ada_test.cpp
#include <limits>

#include "core/error.h"
#include "kernels/top_k.h"
#include "replay/allocator_math.h"
#include "replay/registry.h"

namespace kvscope {
namespace {

class Ada final : public Allocator {
 public:
  Ada(double alpha, bool as_kvpress) : alpha_(alpha), as_kvpress_(as_kvpress) {}
  bool per_head() const override { return true; }

  Budgets Allocate(const AllocationView& view) const override {
    Budgets budgets;
    for (const PerSlot& layer : view.priority) {
      budgets.push_back(as_kvpress_ ? ShareAsKvpress(layer, view) : Share(layer, view));
    }
    return budgets;
  }

 private:
  // How many of the layer's `total` best entries each head holds.
  static std::vector<double> CountBest(const PerSlot& layer, int total) {
    std::vector<float> flat;
    for (const std::vector<float>& head : layer) flat.insert(flat.end(), head.begin(), head.end());
    std::vector<double> counts(layer.size(), 0.0);
    for (int index : cpu::TopK(flat, total)) counts[index / layer[0].size()] += 1;
    return counts;
  }

  std::vector<int> Share(const PerSlot& layer, const AllocationView& view) const {
    const size_t num_heads = layer.size();
    PerSlot rest = layer;
    std::vector<int> window(num_heads), low(num_heads), high(num_heads);
    int total = 0;
    for (size_t head = 0; head < num_heads; ++head) {
      window[head] = CountProtected(layer[head]);
      if (window[head] >= view.uniform_entries) return std::vector<int>(num_heads, view.uniform_entries);
      for (float& value : rest[head]) {
        if (value >= kProtectedPriority) value = -std::numeric_limits<float>::infinity();
      }
      total += view.uniform_entries - window[head];
      low[head] = window[head] == 0 ? 1 : 0;
      high[head] = view.num_tokens - window[head];
    }
    std::vector<double> shares = CountBest(rest, total);
    for (size_t head = 0; head < num_heads; ++head) {
      shares[head] = (1 - alpha_) * shares[head] + alpha_ * (view.uniform_entries - window[head]);
    }
    std::vector<int> budgets = Apportion(shares, total, low, high);
    for (size_t head = 0; head < num_heads; ++head) budgets[head] += window[head];
    return budgets;
  }

  std::vector<int> ShareAsKvpress(const PerSlot& layer, const AllocationView& view) const {
    PerSlot forced = layer;
    const int safe = alpha_ > 0 ? std::max(1, static_cast<int>(view.uniform_entries * alpha_)) : 0;
    for (size_t head = 0; head < layer.size(); ++head) {
      for (int slot : cpu::TopK(layer[head], safe)) forced[head][slot] = std::numeric_limits<float>::max();
    }
    const int total = view.uniform_entries * static_cast<int>(layer.size());
    return Apportion(CountBest(forced, total), total, std::vector<int>(layer.size(), 1),
                     std::vector<int>(layer.size(), view.num_tokens));
  }

  double alpha_;
  bool as_kvpress_;
};

const AllocatorRegistration registration({
    {.name = "ada",
     .paper_url = "https://arxiv.org/abs/2407.11550",
     .summary = "shares a layer's budget between its KV heads by rank, with a floor",
     .departs = "exact totals by largest remainder; at least one entry per KV head"},
    [](Params& params) {
      const double alpha = params.Real("alpha", 0.2, 0, 1, "share of the budget that is the same for every KV head");
      const bool as_kvpress =
          params.Choice("compat", "none", {"none", "kvpress"}, "reproduce kvpress 0.5.5") == "kvpress";
      return std::make_unique<Ada>(alpha, as_kvpress);
    },
});
const CombinationRegistration combination({{.name = "ada_kv",
                                            .paper_url = "https://arxiv.org/abs/2407.11550",
                                            .summary = "SnapKV's ranking with Ada-KV's budgets",
                                            .departs = "see snapkv and +ada"},
                                           "snapkv+ada"});

}  // namespace
}  // namespace kvscope
