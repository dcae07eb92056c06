// SPDX-License-Identifier: Apache-2.0
// TOVA drops what the current query likes least: the cache as the state of a recurrent network.
//
// Paper    Oren et al., Transformers are Multi-State RNNs, 2024. https://arxiv.org/abs/2401.06104
// Keeps    the entries with the largest weight in the newest row, averaged over all query heads of the layer, after
//          each query. Nothing is protected.
// State    none.
// Departs  nowhere. compat=kvpress lets the last token survive, as TOVAPress does.
// Test     tests/replay/policies/tova_test.cpp
#include "replay/head_reduction.h"
#include "replay/registry.h"

namespace kvscope {
namespace {

class Tova final : public Scorer {
 public:
  explicit Tova(bool keeps_last) : keeps_last_(keeps_last) {}

  PolicyNeeds Needs(const ModelShape&) const override {
    PolicyNeeds needs;
    needs.statistics = {kLastRow};
    needs.query_aware = true;
    needs.scope = Scope::kLayer;
    needs.every = 1;
    return needs;
  }
  void Seed(const LayerView& view, PerSlot& relevance) override {
    Average(
        view.shape().num_heads, [&](int head) { return view.Statistic(kLastRow, head); }, relevance);
  }
  void Update(const StepView& step, PerSlot& relevance) override {
    Average(
        step.shape().num_heads, [&](int head) { return step.Weight(head); }, relevance);
  }
  void Prioritize(const PriorityView& view, std::span<float> priority) const override {
    Scorer::Prioritize(view, priority);
    if (keeps_last_) priority.back() = ProtectedPriority(view.token_from_slot.back());
  }
  std::unique_ptr<Scorer> Clone() const override { return std::make_unique<Tova>(*this); }

 private:
  template <typename RowFromHead>
  static void Average(int num_heads, const RowFromHead& row_from_head, PerSlot& relevance) {
    ReduceHeads(Reduction::kMean, 0, num_heads, row_from_head, relevance[0]);
    for (size_t kv_head = 1; kv_head < relevance.size(); ++kv_head) relevance[kv_head] = relevance[0];
  }

  static constexpr StatisticSpec kLastRow{.kind = StatisticSpec::Kind::kSum, .last_rows = 1};
  bool keeps_last_;
};

const ScorerRegistration registration({
    {.name = "tova",
     .paper_url = "https://arxiv.org/abs/2401.06104",
     .summary = "keeps what the newest query attends to, over all heads of a layer",
     .departs = ""},
    "eviction",
    Growth::kFixed,
    [](Params& params) {
      return std::make_unique<Tova>(params.Choice("compat", "none", {"none", "kvpress"}, "reproduce kvpress 0.5.5") ==
                                    "kvpress");
    },
    nullptr,
});

}  // namespace
}  // namespace kvscope
