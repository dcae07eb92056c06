// SPDX-License-Identifier: Apache-2.0
// PyramidKV gives lower layers more and upper layers less: an arithmetic decline with depth.
//
// Paper    Cai et al., PyramidKV: Dynamic KV Cache Compression based on Pyramidal Information Funneling, 2024.
//          https://arxiv.org/abs/2406.02069
// Rule     b = budget without the protected window; the top layer gets b / beta, the bottom one 2b - b / beta, layers
//          between follow a line; with 2b above the prompt every layer gets b, as in the official code.
// Departs  the official code rounds the step down and overspends by up to 19 %; here totals are exact (largest
//          remainder). compat=kvpress has PyramidKVPress's line, which ends in uniform budgets when the top layer
//          would get less than the window.
// Test     tests/replay/policies/pyramid_test.cpp
#include "replay/allocator_math.h"
#include "replay/registry.h"

namespace kvscope {
namespace {

class Pyramid final : public Allocator {
 public:
  Pyramid(double beta, bool as_kvpress) : beta_(beta), as_kvpress_(as_kvpress) {}

  Budgets Allocate(const AllocationView& view) const override {
    int window = 0;
    for (const PerSlot& layer : view.priority) {
      for (const std::vector<float>& head : layer) window = std::max(window, CountProtected(head));
    }
    const std::vector<int> layers = as_kvpress_ ? LineAsKvpress(view, window) : Line(view, window);
    Budgets budgets;
    for (int budget : layers) budgets.emplace_back(view.shape.num_kv_heads, budget);
    return budgets;
  }

 private:
  std::vector<int> Line(const AllocationView& view, int window) const {
    const int num_layers = view.shape.num_layers, rest = view.uniform_entries - window;
    if (num_layers == 1 || rest <= 0 || view.num_tokens < 2 * rest) {
      return std::vector<int>(num_layers, view.uniform_entries);
    }
    double top = rest / beta_, bottom = 2.0 * rest - top;
    if (bottom > view.num_tokens - window) {
      bottom = view.num_tokens - window;
      top = 2.0 * rest - bottom;
    }
    std::vector<double> shares(num_layers);
    for (int layer = 0; layer < num_layers; ++layer) {
      shares[layer] = bottom - layer * (bottom - top) / (num_layers - 1);
    }
    std::vector<int> budgets =
        Apportion(shares, int64_t{rest} * num_layers, std::vector<int>(num_layers, window == 0 ? 1 : 0),
                  std::vector<int>(num_layers, view.num_tokens - window));
    for (int& budget : budgets) budget += window;
    return budgets;
  }

  std::vector<int> LineAsKvpress(const AllocationView& view, int window) const {
    const int num_layers = view.shape.num_layers, kept = view.uniform_entries;
    double top = kept / beta_, bottom = 2.0 * kept - top;
    if (bottom >= view.num_tokens - window) {
      bottom = view.num_tokens - window;
      top = 2.0 * kept - bottom;
    }
    if (!(view.num_tokens >= bottom && bottom >= top && top >= window && top >= 1)) {
      return std::vector<int>(num_layers, kept);
    }
    const double step = num_layers > 1 ? (bottom - top) / (num_layers - 1) : 0.0;
    std::vector<int> budgets;
    for (int layer = 0; layer < num_layers; ++layer) {
      budgets.push_back(static_cast<int>(std::nearbyint(bottom - layer * step)));
    }
    if (num_layers == 1) budgets[0] = std::min(budgets[0], kept);  // PyramidKVPress keeps twice as much there
    return budgets;
  }

  double beta_;
  bool as_kvpress_;
};

const AllocatorRegistration registration({
    {.name = "pyramid",
     .paper_url = "https://arxiv.org/abs/2406.02069",
     .summary = "budgets decline linearly from the lowest layer to the highest",
     .departs = "exact totals by largest remainder; the official code overspends"},
    [](Params& params) {
      const double beta = params.Real("beta", 20, 1, 1e6, "the uniform budget over the highest layer's");
      const bool as_kvpress =
          params.Choice("compat", "none", {"none", "kvpress"}, "reproduce kvpress 0.5.5") == "kvpress";
      return std::make_unique<Pyramid>(beta, as_kvpress);
    },
});
const CombinationRegistration combination({{.name = "pyramid_kv",
                                            .paper_url = "https://arxiv.org/abs/2406.02069",
                                            .summary = "SnapKV's ranking with PyramidKV's budgets",
                                            .departs = "see snapkv and +pyramid"},
                                           "snapkv+pyramid"});

}  // namespace
}  // namespace kvscope
