// SPDX-License-Identifier: Apache-2.0
#include "replay/composed_policy.h"

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "kernels/top_k.h"

namespace kvscope {
namespace {

void Compact(std::vector<float>& values, std::span<const int> kept_slots) {
  for (size_t kept = 0; kept < kept_slots.size(); ++kept) values[kept] = values[kept_slots[kept]];
  values.resize(kept_slots.size());
}

std::vector<int> AllSlots(size_t count) {
  std::vector<int> slots(count);
  std::iota(slots.begin(), slots.end(), 0);
  return slots;
}

// Slots [begin, end) of one chunk and its rank among chunks.
struct Chunk {
  size_t begin = 0, end = 0;
  float priority = 0;
};

std::vector<Chunk> ChunksOf(std::span<const int> token_from_slot, std::span<const float> priority, int chunk_tokens) {
  std::vector<Chunk> chunks;
  for (size_t begin = 0, end = 0; begin < priority.size(); begin = end) {
    double sum = 0;
    float highest_protected = 0;
    const int chunk = token_from_slot[begin] / chunk_tokens;
    for (end = begin; end < priority.size() && token_from_slot[end] / chunk_tokens == chunk; ++end) {
      sum += priority[end];
      if (priority[end] >= kProtectedPriority) highest_protected = std::max(highest_protected, priority[end]);
    }
    const float mean = static_cast<float>(sum / static_cast<double>(end - begin));
    chunks.push_back({begin, end, highest_protected > 0 ? highest_protected : mean});
  }
  std::stable_sort(chunks.begin(), chunks.end(),
                   [](const Chunk& a, const Chunk& b) { return a.priority > b.priority; });
  return chunks;
}

}  // namespace

std::vector<int> SelectSlots(std::span<const int> token_from_slot, std::span<const float> priority, int chunk_tokens,
                             int budget) {
  KVSCOPE_CHECK_EQ(token_from_slot.size(), priority.size());
  const auto num_protected =
      std::count_if(priority.begin(), priority.end(), [](float value) { return value >= kProtectedPriority; });
  if (chunk_tokens == 1 || num_protected >= budget) return cpu::TopK(priority, budget);

  std::vector<int> kept;
  for (size_t slot = 0; slot < priority.size(); ++slot) {
    if (priority[slot] >= kProtectedPriority) kept.push_back(static_cast<int>(slot));
  }
  for (const Chunk& chunk : ChunksOf(token_from_slot, priority, chunk_tokens)) {
    std::vector<int> candidates;
    std::vector<float> candidate_priority;
    for (size_t slot = chunk.begin; slot < chunk.end; ++slot) {
      if (priority[slot] >= kProtectedPriority) continue;
      candidates.push_back(static_cast<int>(slot));
      candidate_priority.push_back(priority[slot]);
    }
    for (int best : cpu::TopK(candidate_priority, budget - static_cast<int>(kept.size()))) {
      kept.push_back(candidates[best]);
    }
  }
  std::sort(kept.begin(), kept.end());
  return kept;
}

ComposedPolicy::ComposedPolicy(std::string name, std::unique_ptr<Scorer> scorer,
                               std::shared_ptr<const Allocator> allocator, const PolicySettings& settings)
    : name_(std::move(name)), scorer_(std::move(scorer)), allocator_(std::move(allocator)), settings_(settings) {
  KVSCOPE_CHECK(settings_.chunk_tokens >= 1);
}

ComposedPolicy::ComposedPolicy(const ComposedPolicy& other)
    : name_(other.name_),
      scorer_(other.scorer_->Clone()),
      allocator_(other.allocator_),
      settings_(other.settings_),
      needs_(other.needs_),
      layers_(other.layers_) {}

PolicyNeeds ComposedPolicy::Needs(const ModelShape& shape) const {
  PolicyNeeds needs = scorer_->Needs(shape);
  if (needs.scope == Scope::kLayer && allocator_->per_head()) {
    throw Error(StrCat(name_,
                       ": it keeps the same tokens in all KV heads of a layer, but its allocator gives them "
                       "different budgets; use another allocator or a scorer that decides per KV head"));
  }
  needs.every = settings_.every;
  if (!WatchesSteps()) needs.state_bytes_per_entry = 0;
  return needs;
}

void ComposedPolicy::AfterLayer(const LayerView& view) {
  const ModelShape& shape = view.shape();
  if (layers_.empty()) {
    needs_ = Needs(shape);
    layers_.resize(shape.num_layers);
  }
  Layer& layer = layers_.at(view.layer_index());
  layer.relevance.assign(shape.num_kv_heads, std::vector<float>(view.num_tokens(), 0.0f));
  layer.queries_since_decision = 0;
  scorer_->Seed(view, layer.relevance);
}

std::vector<float> ComposedPolicy::Prioritize(const PriorityView& view) const {
  std::vector<float> priority(view.relevance.size());
  scorer_->Prioritize(view, priority);
  for (size_t slot = 0; slot < priority.size(); ++slot) {
    const int token = view.token_from_slot[slot];
    if (settings_.guards.Holds(token, view.next_token)) priority[slot] = GuardPriority(token);
  }
  return priority;
}

Budgets ComposedPolicy::Allocate(const ModelShape& shape, int num_tokens, int uniform_entries) {
  KVSCOPE_CHECK_EQ(static_cast<int>(layers_.size()), shape.num_layers);
  const std::vector<int> tokens = AllSlots(num_tokens);
  std::vector<PerSlot> priority(shape.num_layers);
  for (int layer = 0; layer < shape.num_layers; ++layer) {
    for (int kv_head = 0; kv_head < shape.num_kv_heads; ++kv_head) {
      const bool is_copy = needs_.scope == Scope::kLayer && kv_head > 0;
      priority[layer].push_back(is_copy ? priority[layer][0]
                                        : Prioritize({layer, kv_head, num_tokens, uniform_entries, tokens,
                                                      layers_[layer].relevance.at(kv_head)}));
    }
  }
  Budgets budgets(shape.num_layers, std::vector<int>(shape.num_kv_heads, num_tokens));
  if (!needs_.fixed_rate) {
    budgets = allocator_->Allocate({shape, num_tokens, uniform_entries, priority});
    int64_t total = 0;
    for (const std::vector<int>& layer : budgets) {
      for (int budget : layer) {
        KVSCOPE_CHECK(budget >= 1 && budget <= num_tokens);
        total += budget;
      }
    }
    KVSCOPE_CHECK_LE(total, int64_t{uniform_entries} * shape.num_layers * shape.num_kv_heads);
  }
  CheckGuards(budgets, num_tokens);
  for (int layer = 0; layer < shape.num_layers; ++layer) layers_[layer].priority = std::move(priority[layer]);
  return budgets;
}

void ComposedPolicy::CheckGuards(const Budgets& budgets, int num_tokens) const {
  const Guards& guards = settings_.guards;
  const int64_t guarded = std::min<int64_t>(num_tokens, int64_t{guards.sinks} + guards.recent);
  for (const std::vector<int>& layer : budgets) {
    for (int budget : layer) {
      if (guarded <= budget) continue;
      throw Error(StrCat(name_, ": guards sinks=", guards.sinks, ",recent=", guards.recent, " hold ", guarded,
                         " entries, above a budget of ", budget,
                         " entries per KV head; lower the guards or keep a larger fraction"));
    }
  }
}

LayerPlan ComposedPolicy::Select(int layer_index, const std::vector<int>& budget_entries) {
  Layer& layer = layers_.at(layer_index);
  KVSCOPE_CHECK_EQ(layer.priority.size(), budget_entries.size());  // Allocate comes first
  const std::vector<int> tokens = AllSlots(layer.priority[0].size());
  LayerPlan plan(budget_entries.size());
  for (size_t kv_head = 0; kv_head < plan.size(); ++kv_head) {
    const bool is_copy = needs_.scope == Scope::kLayer && kv_head > 0;
    plan[kv_head].keep =
        is_copy ? plan[0].keep
                : SelectSlots(tokens, layer.priority[kv_head], settings_.chunk_tokens, budget_entries[kv_head]);
    Compact(layer.relevance[kv_head], plan[kv_head].keep);
  }
  layer.priority.clear();
  return plan;
}

std::optional<LayerPlan> ComposedPolicy::AfterStep(const StepView& step, const std::vector<int>& budget_entries) {
  if (!WatchesSteps()) return std::nullopt;
  Layer& layer = layers_.at(step.layer_index());
  const int num_kv_heads = static_cast<int>(layer.relevance.size());
  bool is_above_budget = false;
  for (int kv_head = 0; kv_head < num_kv_heads; ++kv_head) {
    const size_t num_slots = step.TokenFromSlot(kv_head).size();
    KVSCOPE_CHECK_LE(layer.relevance[kv_head].size(), num_slots);
    layer.relevance[kv_head].resize(num_slots, 0.0f);
    is_above_budget |= static_cast<int>(num_slots) > budget_entries.at(kv_head);
  }
  scorer_->Update(step, layer.relevance);
  if (++layer.queries_since_decision % settings_.every != 0 || !is_above_budget) return std::nullopt;

  LayerPlan plan(num_kv_heads);
  for (int kv_head = 0; kv_head < num_kv_heads; ++kv_head) {
    const std::span<const int> tokens = step.TokenFromSlot(kv_head);
    std::vector<float>& relevance = layer.relevance[kv_head];
    if (static_cast<int>(tokens.size()) <= budget_entries[kv_head]) {
      plan[kv_head].keep = AllSlots(tokens.size());
    } else if (needs_.scope == Scope::kLayer && kv_head > 0) {
      plan[kv_head].keep = plan[0].keep;
    } else {
      const std::vector<float> priority =
          Prioritize({step.layer_index(), kv_head, step.query_token() + 1, budget_entries[kv_head], tokens, relevance});
      plan[kv_head].keep = SelectSlots(tokens, priority, settings_.chunk_tokens, budget_entries[kv_head]);
    }
    Compact(relevance, plan[kv_head].keep);
  }
  return plan;
}

}  // namespace kvscope
