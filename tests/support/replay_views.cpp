// SPDX-License-Identifier: Apache-2.0
#include "tests/support/replay_views.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "core/error.h"

namespace kvscope {
namespace {

// The evidence pass in double, one column value after the other.
std::vector<float> PlainStatistic(const TinyAttention& attention, const StatisticSpec& spec, int head, int row_end) {
  using Kind = StatisticSpec::Kind;
  const int first_row = spec.last_rows == 0 ? 0 : std::max(0, row_end - spec.last_rows);
  std::vector<double> result(row_end, 0.0);
  for (int query = first_row; query < row_end; ++query) {
    const std::vector<double> row = attention.Row(head, query);
    for (int token = 0; token <= query - spec.min_distance; ++token) {
      const double weight = row[token];
      if (spec.kind == Kind::kSum) result[token] += weight;
      if (spec.kind == Kind::kSumSquares) result[token] += weight * weight;
      if (spec.kind == Kind::kMax) result[token] = std::max(result[token], weight);
      if (spec.kind == Kind::kGeometric) {
        const double alpha = 1 - std::exp2(-1 / spec.half_life);
        result[token] += alpha * std::pow(1 - alpha, row_end - 1 - query) * weight;
      }
    }
  }
  return {result.begin(), result.end()};
}

}  // namespace

std::vector<double> TinyAttention::Row(int head, int query) const {
  const auto& keys = k.at(head / shape.HeadsPerKvHead());
  std::vector<double> row(query + 1);
  double largest = -1e300, sum = 0;
  for (int token = 0; token <= query; ++token) {
    double score = 0;
    for (int dim = 0; dim < shape.head_dim_k; ++dim) score += q.at(head)[query][dim] * keys[token][dim];
    row[token] = score / std::sqrt(shape.head_dim_k);
    largest = std::max(largest, row[token]);
  }
  for (double& value : row) sum += value = std::exp(value - largest);
  for (double& value : row) value /= sum;
  return row;
}

TinyAttention RandomAttention(const ModelShape& shape, int num_tokens, int seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal(0, 1.4);
  TinyAttention attention{shape, num_tokens, {}, {}};
  const auto fill = [&](auto& rows, int heads) {
    rows.assign(heads, std::vector<std::vector<double>>(num_tokens, std::vector<double>(shape.head_dim_k)));
    for (auto& head : rows) {
      for (auto& row : head) {
        for (double& value : row) value = normal(random);
      }
    }
  };
  fill(attention.q, shape.num_heads);
  fill(attention.k, shape.num_kv_heads);
  return attention;
}

TinyLayerView::TinyLayerView(const TinyAttention& attention, int layer_index, int row_end)
    : attention_(&attention), shape_(attention.shape), layer_index_(layer_index), num_tokens_(row_end) {}
TinyLayerView::TinyLayerView(const ModelShape& shape, int layer_index, int num_tokens)
    : shape_(shape), layer_index_(layer_index), num_tokens_(num_tokens) {}

std::span<const float> TinyLayerView::Statistic(const StatisticSpec& spec, int head) const {
  auto& rows = given_[spec];
  if (!rows.contains(head)) {
    KVSCOPE_CHECK(attention_ != nullptr);
    rows[head] = PlainStatistic(*attention_, spec, head, num_tokens_);
  }
  return rows[head];
}

std::vector<float> TinyLayerView::Keys(int kv_head) const {
  std::vector<float> rows;
  for (int token = 0; attention_ && token < num_tokens_; ++token) {
    for (const double value : attention_->k.at(kv_head).at(token)) rows.push_back(static_cast<float>(value));
  }
  return rows;
}

TinyStepView::TinyStepView(const TinyAttention& attention, int layer_index, int query,
                           std::vector<std::vector<int>> tokens)
    : shape_(attention.shape), layer_index_(layer_index), query_(query), tokens_(std::move(tokens)) {
  for (int head = 0; head < shape_.num_heads; ++head) {
    const std::vector<double> row = attention.Row(head, query);
    const std::vector<int>& kept = tokens_.at(head / shape_.HeadsPerKvHead());
    double sum = 0;
    for (int token : kept) sum += row.at(token);
    weight_.emplace_back(), trace_weight_.emplace_back();
    for (int token : kept) {
      weight_.back().push_back(static_cast<float>(row[token] / sum));
      trace_weight_.back().push_back(static_cast<float>(row[token]));
    }
  }
}
TinyStepView::TinyStepView(const ModelShape& shape, int layer_index, int query, std::vector<std::vector<int>> tokens,
                           std::vector<std::vector<float>> weight_from_head)
    : shape_(shape),
      layer_index_(layer_index),
      query_(query),
      tokens_(std::move(tokens)),
      weight_(std::move(weight_from_head)) {}

PolicyBudget BudgetOfLayers(const ModelShape& shape, int num_tokens, int entries) {
  PolicyBudget budget;
  budget.num_tokens = num_tokens, budget.uniform_entries = entries;
  budget.num_rows = shape.num_layers * shape.num_kv_heads;
  budget.layers.resize(shape.num_layers);
  std::iota(budget.layers.begin(), budget.layers.end(), 0);
  return budget;
}

Budgets AllocateAll(Policy& policy, const ModelShape& shape, int num_tokens, int entries) {
  const PolicyBudget budget = BudgetOfLayers(shape, num_tokens, entries);
  return policy.Allocate(shape, {&budget, 1});
}

PolicyBudget BudgetFor(const PolicySpec& spec, const ModelShape& shape, int num_tokens, int entries) {
  PolicyBudget budget = BudgetOfLayers(shape, num_tokens, entries);
  const std::shared_ptr<const Store> store = spec.MakeStore();
  const double state_bytes = spec.Needs(shape).state_bytes_per_entry;
  for (const uint8_t bits : store->ladder()) {
    budget.entry_bytes[bits] = store->BytesPerEntry(shape.head_dim_k, shape.head_dim_v, bits) + state_bytes;
  }
  budget.bytes = budget.entry_bytes[16] * entries * budget.num_rows;
  return budget;
}

std::vector<std::vector<std::vector<int>>> Play(const std::string& spec, const TinyAttention& attention,
                                                int prompt_tokens, int budget_entries, const Guards& guards) {
  const PolicySpec parsed = PolicySpec::Parse(spec);
  const std::unique_ptr<Policy> policy = parsed.MakePolicy(guards);
  const TinyLayerView view(attention, 0, prompt_tokens);
  policy->AfterLayer(view);
  const PolicyBudget budget = BudgetFor(parsed, attention.shape, prompt_tokens, budget_entries);
  const Budgets budgets = policy->Allocate(attention.shape, {&budget, 1});
  std::vector<std::vector<int>> tokens;
  for (const HeadPlan& plan : policy->Select(0, budgets[0])) tokens.push_back(plan.keep);
  std::vector<std::vector<std::vector<int>>> moments{tokens};
  for (int query = prompt_tokens; query < attention.num_tokens; ++query) {
    for (std::vector<int>& head : tokens) head.push_back(query);
    if (policy->WatchesSteps()) {
      const std::optional<LayerPlan> plan = policy->AfterStep(TinyStepView(attention, 0, query, tokens), budgets[0]);
      for (size_t kv_head = 0; plan && kv_head < tokens.size(); ++kv_head) {
        std::vector<int> kept;
        for (int slot : (*plan)[kv_head].keep) kept.push_back(tokens[kv_head].at(slot));
        tokens[kv_head] = kept;
      }
    }
    moments.push_back(tokens);
  }
  return moments;
}

PerSlot PrioritiesAtDecision(const std::string& spec, const LayerView& view, int uniform_entries) {
  const std::unique_ptr<Policy> policy = PolicySpec::Parse(spec).MakePolicy({});
  policy->AfterLayer(view);
  AllocateAll(*policy, view.shape(), view.num_tokens(), uniform_entries);
  PerSlot priority;
  for (int kv_head = 0; kv_head < view.shape().num_kv_heads; ++kv_head) {
    const std::span<const float> row = policy->Priority(view.layer_index(), kv_head);
    priority.emplace_back(row.begin(), row.end());
  }
  return priority;
}

}  // namespace kvscope
