// SPDX-License-Identifier: Apache-2.0
// H2O keeps the tokens that have gathered the most attention so far, and the newest ones.
//
// Paper    Zhang et al., H2O: Heavy-Hitter Oracle for Efficient Generative Inference of Large Language Models, 2023.
//          https://arxiv.org/abs/2306.14048
// Keeps    the newest `recent_fraction` of the budget; the rest of it by accumulated weight, after each query (the
//          official code's really evicting variant, not its masks).
// State    accumulated weight, float32 per entry of a KV head.
// Departs  weights are averaged over a KV head's query heads; the paper has no grouped queries.
//          compat=kvpress is ObservedAttentionPress: the sum over the number of queries that saw the token, no window
//          (with every=0:growth=append, as the combination observed_attention).
// Test     tests/replay/policies/h2o_test.cpp
#include "replay/head_reduction.h"
#include "replay/registry.h"

namespace kvscope {
namespace {

class H2o final : public Scorer {
 public:
  H2o(double recent_fraction, bool as_kvpress) : recent_fraction_(recent_fraction), as_kvpress_(as_kvpress) {}

  PolicyNeeds Needs(const ModelShape&) const override {
    PolicyNeeds needs;
    needs.statistics = {kSum};
    needs.query_aware = true;
    needs.every = 1;
    needs.state_bytes_per_entry = sizeof(float);
    return needs;
  }
  void Seed(const LayerView& view, PerSlot& relevance) override {
    const int group = view.shape().HeadsPerKvHead();
    for (int kv_head = 0; kv_head < view.shape().num_kv_heads; ++kv_head) {
      ReduceHeads(
          Reduction::kMean, kv_head * group, (kv_head + 1) * group,
          [&](int head) { return view.Statistic(kSum, head); }, relevance[kv_head]);
    }
  }
  void Update(const StepView& step, PerSlot& relevance) override {
    const int group = step.shape().HeadsPerKvHead();
    for (int kv_head = 0; kv_head < step.shape().num_kv_heads; ++kv_head) {
      std::vector<float> weight(relevance[kv_head].size());
      ReduceHeads(
          Reduction::kMean, kv_head * group, (kv_head + 1) * group, [&](int head) { return step.Weight(head); },
          weight);
      for (size_t slot = 0; slot < weight.size(); ++slot) relevance[kv_head][slot] += weight[slot];
    }
  }
  void Prioritize(const PriorityView& view, std::span<float> priority) const override {
    const int num_slots = static_cast<int>(priority.size());
    const int recent = as_kvpress_ ? 0 : static_cast<int>(recent_fraction_ * view.budget_entries);
    for (int slot = 0; slot < num_slots; ++slot) {
      const int token = view.token_from_slot[slot];
      priority[slot] = view.relevance[slot];
      if (as_kvpress_) priority[slot] /= static_cast<float>(view.next_token - token);
      if (slot >= num_slots - recent) priority[slot] = ProtectedPriority(token);
    }
  }
  std::unique_ptr<Scorer> Clone() const override { return std::make_unique<H2o>(*this); }

 private:
  static constexpr StatisticSpec kSum{.kind = StatisticSpec::Kind::kSum};
  double recent_fraction_;
  bool as_kvpress_;
};

const ScorerRegistration registration({
    {.name = "h2o",
     .paper_url = "https://arxiv.org/abs/2306.14048",
     .summary = "keeps the tokens with the largest accumulated attention, and a recent window",
     .departs = "weights are averaged over a KV head's query heads"},
    "eviction",
    Growth::kFixed,
    [](Params& params) {
      const double recent = params.Real("recent_fraction", 0.5, 0, 1, "share of the budget for the newest tokens");
      const bool as_kvpress =
          params.Choice("compat", "none", {"none", "kvpress"}, "reproduce kvpress 0.5.5") == "kvpress";
      return std::make_unique<H2o>(recent, as_kvpress);
    },
    nullptr,
});
const CombinationRegistration combination(
    {{.name = "observed_attention",
      .paper_url = "https://arxiv.org/abs/2306.14048",
      .summary = "mean attention over the queries that saw a token, decided once (kvpress's stand-in for H2O)",
      .departs = "see h2o"},
     "h2o:compat=kvpress:every=0:growth=append"});

}  // namespace
}  // namespace kvscope
