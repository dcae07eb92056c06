// SPDX-License-Identifier: Apache-2.0
// links: kvscope_replay_lib
// A policy spec is refused with one line that names it, by itself or for a small model's shape and budget, or its
// policy decides on a small layer within its budget; its canonical parameters parse to themselves.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <numeric>
#include <string>

#include "core/error.h"
#include "replay/policy_spec.h"

namespace kvscope {
namespace {

constexpr int kTokens = 40, kEntries = 11;
constexpr ModelShape kShape{.num_layers = 2, .num_heads = 4, .num_kv_heads = 2, .head_dim_k = 8, .head_dim_v = 8};

void Require(bool condition) {
  if (!condition) std::abort();
}

void RequireOneLine(const Error& error) {
  const std::string message = error.what();
  Require(message.starts_with("policy ") && message.find('\n') == std::string::npos && message.size() < 4000);
}

class SmallLayer final : public LayerView {
 public:
  explicit SmallLayer(int layer_index) : layer_index_(layer_index), values_(kTokens) {
    for (int token = 0; token < kTokens; ++token) values_[token] = static_cast<float>((token * 7 + layer_index) % 5);
  }
  int layer_index() const override { return layer_index_; }
  const ModelShape& shape() const override { return kShape; }
  int num_tokens() const override { return kTokens; }
  std::span<const float> Statistic(const StatisticSpec&, int) const override { return values_; }
  std::vector<float> Keys(int) const override { return Rows(); }
  std::vector<float> Values(int) const override { return Rows(); }
  QueryChannels Queries(int) const override {
    const std::vector<float> some(kShape.head_dim_k, 2.0f);
    return {some, some};
  }
  uint64_t seed() const override { return 1; }

 private:
  static std::vector<float> Rows() {
    std::vector<float> rows(static_cast<size_t>(kTokens) * kShape.head_dim_k);
    for (size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<float>(i * 37 % 101) - 50.0f;
    return rows;
  }

  int layer_index_;
  std::vector<float> values_;
};

PolicyBudget BudgetOf(const PolicyNeeds& needs, const Store& store, std::vector<int> layers, int first_token) {
  PolicyBudget budget;
  budget.first_token = first_token, budget.num_tokens = kTokens - first_token;
  budget.uniform_entries = std::min(kEntries, budget.num_tokens);
  budget.num_rows = static_cast<int>(layers.size()) * kShape.num_kv_heads;
  budget.layers = std::move(layers);
  for (const uint8_t bits : store.ladder()) {
    budget.entry_bytes[bits] =
        store.BytesPerEntry(kShape.head_dim_k, kShape.head_dim_v, bits) + needs.state_bytes_per_entry;
  }
  budget.bytes = budget.entry_bytes[16] * budget.uniform_entries * budget.num_rows;
  return budget;
}

// has_window: the last layer sees a quarter of the tokens only.
void CheckDecision(const PolicySpec& spec, const Guards& guards, bool has_window) {
  const std::unique_ptr<Policy> policy = spec.MakePolicy(guards);
  const PolicyNeeds needs = policy->Needs(kShape);
  for (int layer = 0; layer < kShape.num_layers; ++layer) policy->AfterLayer(SmallLayer(layer));
  std::vector<int> layers(kShape.num_layers);
  std::iota(layers.begin(), layers.end(), 0);
  std::vector<PolicyBudget> asked;
  if (has_window && needs.propagates_after < 0) {
    asked.push_back(BudgetOf(needs, *spec.MakeStore(), {layers.back()}, kTokens - kTokens / 4));
    layers.pop_back();
  }
  asked.push_back(BudgetOf(needs, *spec.MakeStore(), layers, 0));
  const Budgets budgets = policy->Allocate(kShape, asked);
  for (const PolicyBudget& budget : asked) {
    int64_t kept = 0;
    double bytes = 0;
    for (const int layer : budget.layers) {
      for (const HeadPlan& plan : policy->Select(layer, budgets[layer])) {
        kept += std::ssize(plan.keep);
        for (const uint8_t bits : plan.bits) bytes += budget.entry_bytes[bits];
        for (size_t i = 0; i < plan.keep.size(); ++i) {
          Require(plan.keep[i] >= budget.first_token && plan.keep[i] < kTokens);
          Require(i == 0 || plan.keep[i - 1] < plan.keep[i]);
        }
      }
    }
    if (needs.spends_bits) {
      Require(bytes <= budget.bytes * (1 + 1e-9));
    } else if (!needs.fixed_rate && !needs.oracle) {
      Require(kept <= int64_t{budget.uniform_entries} * budget.num_rows);
    }
  }
}

}  // namespace
}  // namespace kvscope

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace kvscope;
  const std::string text(reinterpret_cast<const char*>(data), size);
  PolicySpec spec;
  try {
    spec = PolicySpec::Parse(text);
  } catch (const Error& error) {
    RequireOneLine(error);
    return 0;
  }
  std::string again = spec.scorer + "+" + spec.allocator + "@" + spec.store;
  again += (spec.parameters.empty() ? "" : ":" + spec.parameters);
  Require(PolicySpec::Parse(again).parameters == spec.parameters);
  Require(spec.MakeStore()->Make(8, 8)->bytes() == 0);
  for (const Guards& guards : {Guards{}, Guards{.sinks = 4, .recent = 7}}) {
    for (const bool has_window : {false, true}) {
      try {
        CheckDecision(spec, guards, has_window);
      } catch (const Error& error) {  // as by a layer that the small model lacks
        RequireOneLine(error);
      }
    }
  }
  return 0;
}
