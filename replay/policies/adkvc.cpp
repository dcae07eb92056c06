// SPDX-License-Identifier: Apache-2.0
// ADKVC, the project's own proposal (attention-guided dynamic KV cache compression): every later query updates one
// relevance per token and layer; relevance decides, through +lambda (or +thresholds, +quantile), at how many bits an
// entry is kept in @mixed, and which go. Decided at the end of the prefill and after every `every` queries. This file
// is the relevance; +uniform@fp16 evicts by it and packs nothing. Blocks of 8 tokens rank by their most relevant one
// (/block=8): what stands beside a relevant token explains it.
//
// Keeps    R of a token, from the weights x (over the policy's own cache) that later queries gave it, averaged over
//          the heads of the layer or KV head:
//          tracker=ema   moving average, half-life in queries, over the total weight of an average of that age
//          tracker=mean  sum over the number of queries that saw the token;  tracker=sum  without the division
//          tracker=max   the largest x any query and head gave
//          A half-life of nearly 0 is TOVA, a long one H2O normalised by age, about 1 / window SnapKV without pooling.
// State    relevance, float32 per entry of a layer (scope=kv_head: of a KV head). The age follows from the position.
// Departs  from the proposal's text, which adkvc_literal follows more closely (tokens one by one, bits by relative
//          error alone): the average is corrected for age (else young tokens look irrelevant), and a token
//          that no query has judged yet (age up to `gate`) is the last to lose bits or go. No sinks or window by
//          default: --guard sinks=4,recent=64 is the proposal's arm. oracle=relevance takes the full cache's weights,
//          which no real policy has: it shows what the feedback through its own cache costs.
// Test     tests/replay/policies/adkvc_test.cpp
#include <cmath>
#include <numbers>

#include "replay/head_reduction.h"
#include "replay/registry.h"

namespace kvscope {
namespace {

enum class Tracker { kEma, kMean, kSum, kMax };

struct AdkvcParameters {
  Tracker tracker = Tracker::kEma;
  double half_life = 64;
  int min_distance = 1;  // queries nearer to a token than this do not judge it
  Scope scope = Scope::kLayer;
  bool sees_trace = false;
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
    needs.oracle = needs.trace_weights = parameters_.sees_trace;
    return needs;
  }
  void Seed(const LayerView& view, PerSlot& relevance) override {
    Reduce(
        view.shape(), [&](int head) { return view.Statistic(Tracked(), head); }, relevance);
  }
  void Update(const StepView& step, PerSlot& relevance) override {
    PerSlot weight;
    for (const std::vector<float>& row : relevance) weight.emplace_back(row.size());
    std::vector<std::vector<float>> trace_weight;
    for (int head = 0; parameters_.sees_trace && head < step.shape().num_heads; ++head) {
      trace_weight.push_back(step.TraceWeight(head));
    }
    Reduce(
        step.shape(),
        [&](int head) {
          return parameters_.sees_trace ? std::span<const float>(trace_weight[head]) : step.Weight(head);
        },
        weight);
    for (size_t kv_head = 0; kv_head < relevance.size(); ++kv_head) {
      const std::span<const int> token_from_slot = step.TokenFromSlot(static_cast<int>(kv_head));
      // The newest tokens, which this query does not judge, are the last slots.
      const auto judged = std::upper_bound(token_from_slot.begin(), token_from_slot.end(),
                                           step.query_token() - parameters_.min_distance);
      const auto count = static_cast<size_t>(judged - token_from_slot.begin());
      Track(std::span(weight[kv_head]).first(count), std::span(relevance[kv_head]).first(count));
    }
  }
  void Prioritize(const PriorityView& view, std::span<float> priority) const override {
    for (size_t slot = 0; slot < priority.size(); ++slot) {
      const int token = view.token_from_slot[slot];
      const int judged = view.next_token - token - parameters_.min_distance;  // queries that counted
      priority[slot] = judged <= 0 ? ProtectedPriority(token) : view.relevance[slot];
      if (judged <= 0) continue;
      if (parameters_.tracker == Tracker::kMean) priority[slot] /= static_cast<float>(judged);
      if (parameters_.tracker == Tracker::kEma) {
        priority[slot] /= static_cast<float>(DecayComplement(judged, parameters_.half_life));
      }
    }
  }
  std::unique_ptr<Scorer> Clone() const override { return std::make_unique<Adkvc>(*this); }

 private:
  bool is_layer() const { return parameters_.scope == Scope::kLayer; }
  StatisticSpec Tracked() const {
    using Kind = StatisticSpec::Kind;
    StatisticSpec spec{.kind = Kind::kSum, .min_distance = parameters_.min_distance};
    if (parameters_.tracker == Tracker::kMax) spec.kind = Kind::kMax;
    if (parameters_.tracker == Tracker::kEma) spec.kind = Kind::kGeometric, spec.half_life = parameters_.half_life;
    return spec;
  }
  void Track(std::span<const float> weight, std::span<float> relevance) const {
    for (size_t slot = 0; slot < weight.size(); ++slot) {
      float& tracked = relevance[slot];
      switch (parameters_.tracker) {
        case Tracker::kEma:
          tracked = (1 - alpha_) * tracked + alpha_ * weight[slot];
          break;
        case Tracker::kMean:
        case Tracker::kSum:
          tracked += weight[slot];
          break;
        case Tracker::kMax:
          tracked = std::max(tracked, weight[slot]);
          break;
      }
    }
  }
  template <typename RowFromHead>
  void Reduce(const ModelShape& shape, const RowFromHead& row_from_head, PerSlot& result) const {
    const Reduction reduction = parameters_.tracker == Tracker::kMax ? Reduction::kMax : Reduction::kMean;
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
  const std::string tracker =
      params.Choice("tracker", "ema", {"ema", "mean", "sum", "max"}, "what is remembered of the weights");
  parameters.tracker = tracker == "ema"    ? Tracker::kEma
                       : tracker == "mean" ? Tracker::kMean
                       : tracker == "sum"  ? Tracker::kSum
                                           : Tracker::kMax;
  parameters.half_life = params.Real("half_life", 64, 1e-3, 1e6, "of the moving average, in queries");
  const int gate = params.Int("gate", 0, 0, 1 << 20, "queries this near to a token do not judge it");
  const std::string diagonal = params.Choice("diagonal", "off", {"off", "on"}, "whether a token judges itself");
  parameters.min_distance = gate + (diagonal == "on" ? 0 : 1);
  const std::string scope =
      params.Choice("scope", "layer", {"layer", "kv_head"}, "one relevance for a layer, or for each KV head");
  parameters.scope = scope == "layer" ? Scope::kLayer : Scope::kKvHead;
  parameters.sees_trace = params.Choice("oracle", "none", {"none", "relevance"},
                                        "relevance: from the full cache's weights; replay only") == "relevance";
  return std::make_unique<Adkvc>(parameters);
}

const ScorerRegistration registration({
    {.name = "adkvc",
     .paper_url = "",
     .summary = "spends bits by relevance, an average or maximum over all later queries, and evicts the rest; "
                "blocks of 8 tokens go together",
     .departs = "the average is corrected for age; unjudged tokens go last; no guards by default"},
    "eviction",
    Growth::kFixed,
    Make,
    nullptr,
    "lambda",
    "mixed",
    {8, true},
});
const CombinationRegistration combination(
    {{.name = "adkvc_literal",
      .paper_url = "",
      .summary = "adkvc nearer to its proposal: tokens one by one, bits by relative error alone",
      .departs = "see adkvc"},
     "adkvc/block=1:harm=relative"});

}  // namespace
}  // namespace kvscope
