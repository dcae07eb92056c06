// SPDX-License-Identifier: Apache-2.0
// FastKV: after the layer in the middle only the tokens that this layer attends to go on, so that the upper half of the
// prefill is short; what a layer then keeps is chosen as SnapKV does.
//
// Paper    Jo et al., FastKV: Decoupling of Context Reduction and KV Cache Compression for Prefill-Decoding
//          Acceleration, 2025. https://arxiv.org/abs/2502.01068
// Keeps    the last `window` tokens; of the others those that the window's queries attend to most, summed over the
//          query heads of a group, smoothed along the tokens that the layer has. After layer tsp_layer those
//          ceil(tsp * tokens) go on that are best there, summed over KV heads, the window included. Decides once, later
//          tokens are added.
// State    none.
// Departs  at least as many tokens go on as an upper layer's budget holds, and always the window. Heads are summed
//          before they are smoothed, which differs from the official code with pooling=max only. Replay has the upper
//          layers' rows of the whole prefill only, an approximation that class_note names; live runs them again.
// Test     tests/replay/policies/fastkv_test.cpp
#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "kernels/top_k.h"
#include "replay/head_reduction.h"
#include "replay/pooling.h"
#include "replay/registry.h"

namespace kvscope {
namespace {

struct FastKvParameters {
  int window = 8, pool = 7;
  bool pools_by_max = false;
  double tsp = 0.2;
  int tsp_layer = -1;
};

class FastKv final : public Scorer {
 public:
  explicit FastKv(const FastKvParameters& parameters) : parameters_(parameters) {}

  PolicyNeeds Needs(const ModelShape& shape) const override {
    PolicyNeeds needs;
    needs.statistics = {WindowSum()};
    needs.query_aware = true;
    needs.propagates_after = TspLayer(shape);
    return needs;
  }

  void Seed(const LayerView& view, PerSlot& relevance) override {
    const ModelShape& shape = view.shape();
    if (parameters_.tsp_layer >= 0 && parameters_.tsp_layer + 1 >= shape.num_layers) {
      throw Error(StrCat("policy 'fastkv': tsp_layer: expected a layer below the last, which is ", shape.num_layers - 1,
                         ", found ", parameters_.tsp_layer));
    }
    const int group = shape.HeadsPerKvHead();
    const size_t num_columns = std::max(0, view.num_tokens() - parameters_.window);  // those left of the window
    for (int kv_head = 0; kv_head < shape.num_kv_heads; ++kv_head) {
      const std::span<float> result = std::span(relevance[kv_head]).first(num_columns);
      ReduceHeads(
          Reduction::kSum, kv_head * group, (kv_head + 1) * group,
          [&](int head) { return view.Statistic(WindowSum(), head).first(num_columns); }, result);
      for (float& value : result) value /= static_cast<float>(parameters_.window);  // a mean of rows reads better
    }
    if (view.layer_index() != TspLayer(shape)) return;
    num_layers_ = shape.num_layers;
    after_layer_ = view.layer_index();
    num_tokens_ = view.num_tokens();
    tsp_scores_.assign(num_columns, 0.0f);
    for (const std::vector<float>& row : relevance) {
      const std::vector<float> pooled = Pooled(std::span(row).first(num_columns));
      for (size_t token = 0; token < num_columns; ++token) tsp_scores_[token] += pooled[token];
    }
  }

  // Smooths over the tokens that the layer has: neighbours are those that went on.
  void Prioritize(const PriorityView& view, std::span<float> priority) const override {
    std::vector<bool> is_absent(view.next_token);
    const bool is_decision = view.next_token == num_tokens_;
    if (is_decision && view.layer_index > after_layer_) {
      const Propagation propagation = *Propagates(num_tokens_, view.budget_entries);
      is_absent.flip();
      for (const int token : propagation.tokens) is_absent[token] = false;
    }
    std::vector<size_t> candidates;
    std::vector<float> values;
    for (size_t slot = 0; slot < priority.size(); ++slot) {
      const int token = view.token_from_slot[slot];
      if (is_absent[token]) {
        priority[slot] = kAbsentPriority;
      } else if (token >= view.next_token - parameters_.window) {
        priority[slot] = ProtectedPriority(token);
      } else {
        candidates.push_back(slot);
        values.push_back(view.relevance[slot]);
      }
    }
    const std::vector<float> pooled = Pooled(values);
    for (size_t i = 0; i < candidates.size(); ++i) priority[candidates[i]] = pooled[i];
  }

  std::optional<Propagation> Propagates(int num_tokens, int budget_entries) const override {
    KVSCOPE_CHECK_EQ(num_tokens, num_tokens_);
    if (after_layer_ + 1 >= num_layers_) return std::nullopt;
    const int window = std::min(parameters_.window, num_tokens);
    const auto share = static_cast<int>(std::ceil(parameters_.tsp * num_tokens * (1 - 1e-12)));  // 0.1 of 30 are 3
    const int count = std::clamp(std::max(share, budget_entries), window, num_tokens);
    Propagation propagation{after_layer_, cpu::TopK(tsp_scores_, count - window)};
    for (int token = num_tokens - window; token < num_tokens; ++token) propagation.tokens.push_back(token);
    return propagation;
  }

  std::unique_ptr<Scorer> Clone() const override { return std::make_unique<FastKv>(*this); }

 private:
  // 14 of 30 layers, 15 of 32.
  int TspLayer(const ModelShape& shape) const {
    return parameters_.tsp_layer >= 0 ? parameters_.tsp_layer : std::max(0, shape.num_layers / 2 - 1);
  }
  StatisticSpec WindowSum() const { return {.kind = StatisticSpec::Kind::kSum, .last_rows = parameters_.window}; }
  std::vector<float> Pooled(std::span<const float> values) const {
    return Pool(values, parameters_.pool, parameters_.pools_by_max);
  }

  FastKvParameters parameters_;
  int num_layers_ = 0, after_layer_ = 0, num_tokens_ = 0;  // of the decision
  std::vector<float> tsp_scores_;                          // [token] left of the window
};

std::unique_ptr<Scorer> Make(Params& params) {
  FastKvParameters parameters;
  parameters.window = params.Int("window", 8, 1, 1 << 20, "queries that vote, and tokens that always stay");
  parameters.pool = params.Int("pool", 7, 1, 1023, "width of the smoothing, an odd number");
  CheckPool(parameters.pool, params.where());
  parameters.pools_by_max = params.Choice("pooling", "avg", {"avg", "max"}, "how to smooth") == "max";
  parameters.tsp = params.Real("tsp", 0.2, 0, 1, "share of the tokens that go on past tsp_layer");
  parameters.tsp_layer =
      params.Int("tsp_layer", -1, -1, 1 << 10, "the last layer that has all tokens; -1: half of the layers have");
  return std::make_unique<FastKv>(parameters);
}

const ScorerRegistration registration({
    {.name = "fastkv",
     .paper_url = "https://arxiv.org/abs/2502.01068",
     .summary = "after the middle layer only what it attends to goes on; each layer keeps what the last queries "
                "attend to",
     .departs = "at least as many tokens go on as a layer's budget holds; replay has the whole prefill's upper layers"},
    "eviction",
    Growth::kAppend,
    Make,
    nullptr,
});

}  // namespace
}  // namespace kvscope
