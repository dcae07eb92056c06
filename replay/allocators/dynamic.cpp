// SPDX-License-Identifier: Apache-2.0
// DynamicKV gives a layer the share of the entries that it holds among the best of all layers seen so far.
//
// Paper    Zhou et al., DynamicKV: Task-Aware Adaptive KV Cache Compression for Long Context LLMs, 2024.
//          https://arxiv.org/abs/2412.14838
// Rule     b = budget without the protected window; every layer starts with the r_max * b best. After each fourth layer
//          and the last one: of the b * kv_heads * (layers seen) best entries of the layers seen, a layer's share is
//          its part of b * layers. What a revision took from a layer does not come back.
// Departs  no revision gives a layer more than it still stores (the official code then appends the window twice); the
//          last layer always ends with a revision; exact totals by largest remainder; ties at the threshold are shared.
//          One budget for the KV heads of a layer, not for query heads. Here all revisions happen after the prefill, so
//          the r_max * b entries that fresh layers hold in between are not in any figure.
// Test     tests/replay/policies/dynamic_test.cpp
#include <functional>

#include "replay/allocator_math.h"
#include "replay/registry.h"

namespace kvscope {
namespace {

constexpr int kLayersPerRevision = 4;

class Dynamic final : public Allocator {
 public:
  explicit Dynamic(double r_max) : r_max_(r_max) {}

  Budgets Allocate(const AllocationView& view) const override {
    int window = 0;
    for (const PerSlot& layer : view.priority) {
      for (const std::vector<float>& head : layer) window = std::max(window, CountProtected(head));
    }
    const int num_layers = view.shape.num_layers, rest = view.uniform_entries - window;
    if (rest <= 0 || view.uniform_entries >= view.num_tokens) {
      return Budgets(num_layers, std::vector<int>(view.shape.num_kv_heads, view.uniform_entries));
    }
    const std::vector<int> low(num_layers, window == 0 ? 1 : 0);
    std::vector<int> stored(num_layers, static_cast<int>(std::min<double>(r_max_ * rest, view.num_tokens - window)));
    for (int seen = 1; seen <= num_layers; ++seen) {
      if (seen % kLayersPerRevision != 0 && seen != num_layers) continue;
      const std::vector<int> revised =
          Apportion(Shares(view, rest, seen), int64_t{rest} * num_layers, low, std::span(stored).first(seen));
      std::copy(revised.begin(), revised.end(), stored.begin());
    }
    Budgets budgets;
    for (const int entries : stored) budgets.emplace_back(view.shape.num_kv_heads, entries + window);
    return budgets;
  }

 private:
  // [seen] entries of each KV head that the layers seen so far would hold, were they all; in sum rest * layers.
  static std::vector<double> Shares(const AllocationView& view, int rest, int seen) {
    std::vector<float> values;
    for (const PerSlot& layer : view.priority.first(seen)) {
      for (const std::vector<float>& head : layer) {
        std::copy_if(head.begin(), head.end(), std::back_inserter(values),
                     [](float value) { return value < kProtectedPriority; });
      }
    }
    const size_t best = static_cast<size_t>(rest) * view.shape.num_kv_heads * seen;
    std::nth_element(values.begin(), values.begin() + (best - 1), values.end(), std::greater<>());
    const float threshold = values[best - 1];
    std::vector<double> above(seen), equal(seen);
    for (int layer = 0; layer < seen; ++layer) {
      for (const std::vector<float>& head : view.priority[layer]) {
        for (const float value : head) {
          if (value >= kProtectedPriority) continue;
          above[layer] += value > threshold;
          equal[layer] += value == threshold;
        }
      }
    }
    const double all_above = std::accumulate(above.begin(), above.end(), 0.0),
                 all_equal = std::accumulate(equal.begin(), equal.end(), 0.0);
    std::vector<double> shares(seen);
    for (int layer = 0; layer < seen; ++layer) {
      const double hits = above[layer] + equal[layer] * (static_cast<double>(best) - all_above) / all_equal;
      shares[layer] = hits / static_cast<double>(best) * rest * view.shape.num_layers;
    }
    return shares;
  }

  double r_max_;
};

const AllocatorRegistration registration({
    {.name = "dynamic",
     .paper_url = "https://arxiv.org/abs/2412.14838",
     .summary = "a layer's budget follows its part of the best entries of all layers, revised every four layers",
     .departs = "no entry twice, a revision after the last layer, exact totals; the official code misses all three"},
    [](Params& params) {
      return std::make_unique<Dynamic>(
          params.Real("r_max", 10, 1, 1e6, "what a layer holds at first, over the uniform budget without the window"));
    },
});
const CombinationRegistration combination({{.name = "dynamic_kv",
                                            .paper_url = "https://arxiv.org/abs/2412.14838",
                                            .summary = "SnapKV's ranking with DynamicKV's budgets",
                                            .departs = "see snapkv and +dynamic"},
                                           "snapkv+dynamic:window=8:pool=7"});

}  // namespace
}  // namespace kvscope
