// SPDX-License-Identifier: Apache-2.0
// ADKVC, the project's own proposal, in its first form: one relevance per token and layer, updated by every later
// query, and eviction of the least relevant every `every` queries. (The second form spends bits, not only entries.)
//
// Keeps    tracker=ema: the entries with the largest moving average of the weight that later queries gave them,
//          half-life in queries, corrected for the number of queries that could see the token; tracker=max: the
//          largest weight any later query gave. A half-life of nearly 0 is TOVA, a long one H2O normalised by age.
// State    relevance, float32 per entry of a layer (scope=kv_head: of a KV head). The age follows from the position.
// Departs  from the proposal's text: the average is corrected for age (else young tokens look irrelevant), and a token
//          that no query has judged yet (age up to `gate`) is kept. No sinks or window by default: --guard
//          sinks=4,recent=64 is the proposal's arm.
// Test     tests/replay/policies/adkvc_test.cpp
#include <cmath>
#include <numbers>

#include "replay/head_reduction.h"
#include "replay/registry.h"

namespace kvscope {
namespace {

struct AdkvcParameters {
  bool tracks_max = false;
  double half_life = 64;
  int gate = 0;
  Scope scope = Scope::kLayer;
};

// 1 - 2^(-queries / half_life): the total weight of an average over `queries` rows.
double DecayComplement(double queries, double half_life) {
  return -std::expm1(-queries / half_life * std::numbers::ln2);
}

class Adkvc final : public Scorer {
 public:
  explicit Adkvc(const AdkvcParameters& parameters)
      : parameters_(parameters), alpha_(static_cast<float>(DecayComplement(1, parameters.half_life))) {}

  PolicyNeeds Needs(const ModelShape& shape) const override {
    PolicyNeeds needs;
    needs.statistics = {Tracked()};
    needs.query_aware = true;
    needs.scope = parameters_.scope;
    needs.every = 16;
    needs.state_bytes_per_entry = sizeof(float) / (is_layer() ? static_cast<double>(shape.num_kv_heads) : 1.0);
    return needs;
  }
  void Seed(const LayerView& view, PerSlot& relevance) override {
    Reduce(
        view.shape(), [&](int head) { return view.Statistic(Tracked(), head); }, relevance);
  }
  void Update(const StepView& step, PerSlot& relevance) override {
    PerSlot weight;
    for (const std::vector<float>& row : relevance) weight.emplace_back(row.size());
    Reduce(
        step.shape(), [&](int head) { return step.Weight(head); }, weight);
    for (size_t kv_head = 0; kv_head < relevance.size(); ++kv_head) {
      const std::span<const int> token_from_slot = step.TokenFromSlot(static_cast<int>(kv_head));
      for (size_t slot = 0; slot < relevance[kv_head].size(); ++slot) {
        if (step.query_token() - token_from_slot[slot] <= parameters_.gate) continue;
        float& tracked = relevance[kv_head][slot];
        tracked = parameters_.tracks_max ? std::max(tracked, weight[kv_head][slot])
                                         : (1 - alpha_) * tracked + alpha_ * weight[kv_head][slot];
      }
    }
  }
  void Prioritize(const PriorityView& view, std::span<float> priority) const override {
    for (size_t slot = 0; slot < priority.size(); ++slot) {
      const int token = view.token_from_slot[slot];
      const int judged = view.next_token - 1 - token - parameters_.gate;  // queries that counted
      if (judged <= 0) {
        priority[slot] = ProtectedPriority(token);
      } else if (parameters_.tracks_max) {
        priority[slot] = view.relevance[slot];
      } else {
        priority[slot] = view.relevance[slot] / static_cast<float>(DecayComplement(judged, parameters_.half_life));
      }
    }
  }
  std::unique_ptr<Scorer> Clone() const override { return std::make_unique<Adkvc>(*this); }

 private:
  bool is_layer() const { return parameters_.scope == Scope::kLayer; }
  StatisticSpec Tracked() const {
    if (parameters_.tracks_max) return {.kind = StatisticSpec::Kind::kMax, .min_distance = parameters_.gate + 1};
    return {.kind = StatisticSpec::Kind::kGeometric,
            .min_distance = parameters_.gate + 1,
            .half_life = parameters_.half_life};
  }
  template <typename RowFromHead>
  void Reduce(const ModelShape& shape, const RowFromHead& row_from_head, PerSlot& result) const {
    const Reduction reduction = parameters_.tracks_max ? Reduction::kMax : Reduction::kMean;
    const int group = shape.HeadsPerKvHead();
    for (int kv_head = 0; kv_head < shape.num_kv_heads; ++kv_head) {
      if (!is_layer()) {
        ReduceHeads(reduction, kv_head * group, (kv_head + 1) * group, row_from_head, result[kv_head]);
      } else if (kv_head == 0) {
        ReduceHeads(reduction, 0, shape.num_heads, row_from_head, result[0]);
      } else {
        result[kv_head] = result[0];
      }
    }
  }

  AdkvcParameters parameters_;
  float alpha_;
};

std::unique_ptr<Scorer> Make(Params& params) {
  AdkvcParameters parameters;
  parameters.tracks_max = params.Choice("tracker", "ema", {"ema", "max"}, "what is remembered of the weights") == "max";
  parameters.half_life = params.Real("half_life", 64, 1e-3, 1e6, "of the moving average, in queries");
  parameters.gate = params.Int("gate", 0, 0, 1 << 20, "queries this near to a token do not judge it");
  const std::string scope =
      params.Choice("scope", "layer", {"layer", "kv_head"}, "one relevance for a layer, or for each KV head");
  parameters.scope = scope == "layer" ? Scope::kLayer : Scope::kKvHead;
  return std::make_unique<Adkvc>(parameters);
}

const ScorerRegistration registration({
    {.name = "adkvc",
     .paper_url = "",
     .summary = "keeps the tokens of the largest relevance, a moving average or maximum over all later queries",
     .departs = "first form: eviction only; the average is corrected for age; unjudged tokens stay"},
    "eviction",
    Growth::kFixed,
    Make,
    nullptr,
});

}  // namespace
}  // namespace kvscope
