// SPDX-License-Identifier: Apache-2.0
// SnapKV: the last queries of the prompt predict what generation will read.
//
// Paper    Li et al., SnapKV: LLM Knows What You are Looking for Before Generation, 2024.
//          https://arxiv.org/abs/2404.14469
// Keeps    the last `window` tokens; of the others those that the window's queries attend to most, smoothed along the
//          tokens. Decides once, later tokens are added.
// State    none.
// Departs  one set per KV head (heads of a group are reduced by `reduce`); the official code keeps one per query head,
//          which costs a grouped-query model as many times the bytes. compat=kvpress is SnapKVPress: a window of 64.
// Test     tests/replay/policies/snapkv_test.cpp
#include <algorithm>

#include "replay/head_reduction.h"
#include "replay/pooling.h"
#include "replay/registry.h"

namespace kvscope {
namespace {

struct SnapKvParameters {
  int window = 32, pool = 5;
  bool pools_by_max = false, reduces_first = false;
  Reduction reduction = Reduction::kMean;
};

class SnapKv final : public Scorer {
 public:
  explicit SnapKv(const SnapKvParameters& parameters) : parameters_(parameters) {}

  PolicyNeeds Needs(const ModelShape&) const override {
    PolicyNeeds needs;
    needs.statistics = {WindowSum()};
    needs.query_aware = true;
    return needs;
  }
  void Seed(const LayerView& view, PerSlot& relevance) override {
    const int group = view.shape().HeadsPerKvHead();
    const size_t num_columns = std::max(0, view.num_tokens() - parameters_.window);  // those left of the window
    for (int kv_head = 0; kv_head < view.shape().num_kv_heads; ++kv_head) {
      const int begin = kv_head * group, end = begin + group;
      const std::span<float> result = std::span(relevance[kv_head]).first(num_columns);
      if (parameters_.reduces_first) {
        ReduceHeads(
            parameters_.reduction, begin, end,
            [&](int head) { return view.Statistic(WindowSum(), head).first(num_columns); }, result);
        std::ranges::copy(Pooled(result), result.begin());
      } else {
        std::vector<std::vector<float>> pooled;
        for (int head = begin; head < end; ++head) {
          pooled.push_back(Pooled(view.Statistic(WindowSum(), head).first(num_columns)));
        }
        ReduceHeads(
            parameters_.reduction, 0, group, [&](int head) { return std::span<const float>(pooled[head]); }, result);
      }
      for (float& value : result) value /= static_cast<float>(parameters_.window);  // a mean of rows reads better
    }
  }
  void Prioritize(const PriorityView& view, std::span<float> priority) const override {
    for (size_t slot = 0; slot < priority.size(); ++slot) {
      const int token = view.token_from_slot[slot];
      const bool is_recent = token >= view.next_token - parameters_.window;
      priority[slot] = is_recent ? ProtectedPriority(token) : view.relevance[slot];
    }
  }
  std::unique_ptr<Scorer> Clone() const override { return std::make_unique<SnapKv>(*this); }

 private:
  StatisticSpec WindowSum() const { return {.kind = StatisticSpec::Kind::kSum, .last_rows = parameters_.window}; }
  std::vector<float> Pooled(std::span<const float> values) const {
    return Pool(values, parameters_.pool, parameters_.pools_by_max);
  }

  SnapKvParameters parameters_;
};

std::unique_ptr<Scorer> Make(Params& params) {
  const bool as_kvpress = params.Choice("compat", "none", {"none", "kvpress"}, "reproduce kvpress 0.5.5") == "kvpress";
  SnapKvParameters parameters;
  parameters.window =
      params.Int("window", as_kvpress ? 64 : 32, 1, 1 << 20, "queries that vote, and tokens that always stay");
  parameters.pool = params.Int("pool", 5, 1, 1023, "width of the smoothing, an odd number");
  CheckPool(parameters.pool, params.where());
  parameters.pools_by_max = params.Choice("pooling", "avg", {"avg", "max"}, "how to smooth") == "max";
  const std::string reduce =
      params.Choice("reduce", "mean", {"mean", "max", "sum"}, "how the query heads of a KV head become one");
  parameters.reduction = reduce == "max" ? Reduction::kMax : reduce == "sum" ? Reduction::kSum : Reduction::kMean;
  parameters.reduces_first = params.Choice("order", "pool_first", {"pool_first", "reduce_first"},
                                           "smooth each query head, or their reduction") == "reduce_first";
  return std::make_unique<SnapKv>(parameters);
}

const ScorerRegistration registration({
    {.name = "snapkv",
     .paper_url = "https://arxiv.org/abs/2404.14469",
     .summary = "keeps what the prompt's last queries attend to, smoothed, and those last tokens",
     .departs = "one set per KV head; the official code keeps one per query head"},
    "eviction",
    Growth::kAppend,
    Make,
    nullptr,
});

}  // namespace
}  // namespace kvscope
