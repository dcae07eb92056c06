// SPDX-License-Identifier: Apache-2.0
#include "replay/composed_policy.h"

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "kernels/top_k.h"
#include "replay/distortion.h"

namespace kvscope {
namespace {

template <typename T>
void Compact(std::vector<T>& values, std::span<const int> kept_slots) {
  for (size_t kept = 0; kept < kept_slots.size(); ++kept) values[kept] = values[kept_slots[kept]];
  values.resize(kept_slots.size());
}

std::vector<int> AllSlots(size_t count) {
  std::vector<int> slots(count);
  std::iota(slots.begin(), slots.end(), 0);
  return slots;
}

// Keeps every slot that has bits.
HeadPlan PlanFromBits(std::span<const uint8_t> bits_from_slot) {
  HeadPlan plan;
  for (size_t slot = 0; slot < bits_from_slot.size(); ++slot) {
    if (bits_from_slot[slot] == 0) continue;
    plan.keep.push_back(static_cast<int>(slot));
    plan.bits.push_back(bits_from_slot[slot]);
  }
  return plan;
}

// Slots [begin, end) that share a chunk.
struct Chunk {
  size_t begin = 0, end = 0;
  float highest_protected = 0;  // 0: none
  float together = 0;           // priority of the entries that are not protected
};

std::vector<Chunk> ChunksOf(std::span<const int> token_from_slot, std::span<const float> priority,
                            const Granularity& granularity) {
  std::vector<Chunk> chunks;
  for (size_t begin = 0, end = 0; begin < priority.size(); begin = end) {
    Chunk chunk{begin, begin};
    double sum = 0, count = 0;
    float highest = kAbsentPriority;
    const int index = token_from_slot[begin] / granularity.chunk_tokens;
    for (; end < priority.size() && token_from_slot[end] / granularity.chunk_tokens == index; ++end) {
      if (priority[end] >= kProtectedPriority) {
        chunk.highest_protected = std::max(chunk.highest_protected, priority[end]);
      } else if (priority[end] != kAbsentPriority) {
        sum += priority[end], ++count;
        highest = std::max(highest, priority[end]);
      }
    }
    chunk.end = end;
    if (count > 0) chunk.together = granularity.ranks_by_max ? highest : static_cast<float>(sum / count);
    chunks.push_back(chunk);
  }
  return chunks;
}

// Gives all entries of a chunk that are not protected the priority of the chunk. None may be absent.
void RankTogether(std::span<const int> token_from_slot, const Granularity& granularity, std::span<float> priority) {
  if (granularity.chunk_tokens == 1) return;
  for (const Chunk& chunk : ChunksOf(token_from_slot, priority, granularity)) {
    for (size_t slot = chunk.begin; slot < chunk.end; ++slot) {
      if (priority[slot] < kProtectedPriority) priority[slot] = chunk.together;
    }
  }
}

}  // namespace

std::vector<int> SelectSlots(std::span<const int> token_from_slot, std::span<const float> priority,
                             const Granularity& granularity, int budget) {
  KVSCOPE_CHECK_EQ(token_from_slot.size(), priority.size());
  const auto num_protected =
      std::count_if(priority.begin(), priority.end(), [](float value) { return value >= kProtectedPriority; });
  if (granularity.chunk_tokens == 1 || num_protected >= budget) return cpu::TopK(priority, budget);

  std::vector<int> kept;
  for (size_t slot = 0; slot < priority.size(); ++slot) {
    if (priority[slot] >= kProtectedPriority) kept.push_back(static_cast<int>(slot));
  }
  std::vector<Chunk> chunks = ChunksOf(token_from_slot, priority, granularity);
  std::stable_sort(chunks.begin(), chunks.end(), [](const Chunk& a, const Chunk& b) {
    return std::pair(a.highest_protected, a.together) > std::pair(b.highest_protected, b.together);
  });
  for (const Chunk& chunk : chunks) {
    std::vector<int> candidates;
    std::vector<float> candidate_priority;
    for (size_t slot = chunk.begin; slot < chunk.end; ++slot) {
      if (priority[slot] >= kProtectedPriority || priority[slot] == kAbsentPriority) continue;
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

ComposedPolicy::ComposedPolicy(std::string name, Parts parts, const PolicySettings& settings)
    : name_(std::move(name)), parts_(std::move(parts)), settings_(settings) {
  KVSCOPE_CHECK(settings_.granularity.chunk_tokens >= 1);
}

ComposedPolicy::ComposedPolicy(const ComposedPolicy& other)
    : name_(other.name_),
      parts_{other.parts_.scorer->Clone(), other.parts_.allocator, other.parts_.store},
      settings_(other.settings_),
      shape_(other.shape_),
      needs_(other.needs_),
      budgets_(other.budgets_),
      layers_(other.layers_) {}

PolicyNeeds ComposedPolicy::Needs(const ModelShape& shape) const {
  PolicyNeeds needs = parts_.scorer->Needs(shape);
  if (needs.scope == Scope::kLayer && parts_.allocator->per_head()) {
    throw Error(StrCat(name_,
                       ": it keeps the same tokens in all KV heads of a layer, but its allocator gives them "
                       "different budgets; use another allocator or a scorer that decides per KV head"));
  }
  needs.every = settings_.every;
  if (!WatchesSteps()) needs.state_bytes_per_entry = 0, needs.trace_weights = false;
  needs.oracle |= parts_.store->is_oracle();
  needs.spends_bits = parts_.allocator->spends_bits() && !needs.fixed_rate;
  if (needs.spends_bits) {
    const Harm harm = parts_.allocator->harm();
    const KeyBalance balance = parts_.store->key_balance();
    needs.keys = needs.values = harm != Harm::kNone || balance != KeyBalance::kNone;
    needs.queries = ReadsQueries(harm) || balance == KeyBalance::kQueryKey;
    // Two bits say which of the pools an entry is in.
    needs.state_bytes_per_entry += 0.25 / (needs.scope == Scope::kLayer ? shape.num_kv_heads : 1);
  }
  return needs;
}

void ComposedPolicy::AfterLayer(const LayerView& view) {
  if (layers_.empty()) {
    shape_ = view.shape();
    needs_ = Needs(shape_);
    layers_.resize(shape_.num_layers);
  }
  Layer& layer = layers_.at(view.layer_index());
  layer = {};
  layer.relevance.assign(shape_.num_kv_heads, std::vector<float>(view.num_tokens(), 0.0f));
  parts_.scorer->Seed(view, layer.relevance);
  if (!needs_.spends_bits) return;
  for (int kv_head = 0; kv_head < shape_.num_kv_heads && parts_.store->key_balance() != KeyBalance::kNone; ++kv_head) {
    layer.key_factors.push_back(KeyFactors(view, kv_head, parts_.store->key_balance()));
  }
  MeasureHarm(view, layer);
}

void ComposedPolicy::MeasureHarm(const LayerView& view, Layer& layer) const {
  const Harm harm = parts_.allocator->harm();
  if (harm == Harm::kNone) return;
  for (int kv_head = 0; kv_head < shape_.num_kv_heads; ++kv_head) {
    std::span<const float> factors;
    if (!layer.key_factors.empty()) factors = layer.key_factors[kv_head];
    layer.distortion.push_back(MeasureDistortion(view, kv_head, *parts_.store, factors, harm));
  }
  if (NumRows() > 1) return;
  // One row stands for all: their mean, but bits that are as bad as none in one KV head are so for all.
  std::vector<double> shared(parts_.store->ladder().size());
  for (size_t step = 0; step < shared.size(); ++step) {
    double worst = 0;
    for (const std::vector<double>& of_head : layer.distortion) {
      shared[step] += of_head[step] / shape_.num_kv_heads;
      worst = std::max(worst, of_head[step]);
    }
    if (worst >= 1) shared[step] = std::max(shared[step], 1.0);
  }
  layer.distortion = {shared};
}

std::vector<float> ComposedPolicy::Prioritize(const PriorityView& view) const {
  std::vector<float> priority(view.relevance.size());
  parts_.scorer->Prioritize(view, priority);
  for (size_t slot = 0; slot < priority.size(); ++slot) {
    const int token = view.token_from_slot[slot];
    if (settings_.guards.Holds(token, view.next_token)) priority[slot] = GuardPriority(token);
  }
  return priority;
}

std::vector<PerSlot> ComposedPolicy::PriorityAtDecision(const PolicyBudget& budget) const {
  std::vector<int> tokens(budget.num_tokens);
  std::iota(tokens.begin(), tokens.end(), budget.first_token);
  const int contested = ContestedEntries(budget);
  std::vector<PerSlot> priority;
  for (const int layer : budget.layers) {
    PerSlot& of_layer = priority.emplace_back();
    for (int kv_head = 0; kv_head < shape_.num_kv_heads; ++kv_head) {
      const bool is_copy = needs_.scope == Scope::kLayer && kv_head > 0;
      const std::span<const float> relevance = layers_.at(layer).relevance.at(kv_head);
      of_layer.push_back(is_copy ? of_layer[0]
                                 : Prioritize({layer, kv_head, budget.next_token(), contested, tokens,
                                               relevance.subspan(budget.first_token)}));
    }
  }
  return priority;
}

Budgets ComposedPolicy::Allocate(const ModelShape& shape, std::span<const PolicyBudget> budgets) {
  KVSCOPE_CHECK_EQ(static_cast<int>(layers_.size()), shape.num_layers);
  budgets_.assign(budgets.begin(), budgets.end());
  for (size_t index = 0; index < budgets_.size(); ++index) {
    for (const int layer : budgets_[index].layers) layers_.at(layer).budget_index = static_cast<int>(index);
  }
  Budgets entries(shape.num_layers);
  for (const PolicyBudget& budget : budgets_) {
    std::vector<PerSlot> priority = PriorityAtDecision(budget);
    if (needs_.spends_bits) CheckGuardBytes(budget);
    Budgets of_layers = needs_.spends_bits ? SpendAtDecision(budget, priority) : AllocateEntries(budget, priority);
    if (!needs_.spends_bits) CheckGuards(of_layers, budget);
    for (size_t i = 0; i < budget.layers.size(); ++i) {
      entries[budget.layers[i]] = std::move(of_layers[i]);
      Layer& layer = layers_[budget.layers[i]];
      layer.priority = std::move(priority[i]);
      for (std::vector<float>& row : layer.priority) row.insert(row.begin(), budget.first_token, kAbsentPriority);
    }
  }
  return entries;
}

Budgets ComposedPolicy::AllocateEntries(const PolicyBudget& budget, const std::vector<PerSlot>& priority) const {
  const int num_tokens = budget.num_tokens;
  ModelShape shape = shape_;
  shape.num_layers = static_cast<int>(budget.layers.size());
  if (needs_.fixed_rate) return Budgets(shape.num_layers, std::vector<int>(shape.num_kv_heads, num_tokens));
  Budgets budgets = parts_.allocator->Allocate({shape, num_tokens, budget.uniform_entries, priority});
  int64_t total = 0;
  for (size_t layer = 0; layer < budgets.size(); ++layer) {
    for (size_t kv_head = 0; kv_head < budgets[layer].size(); ++kv_head) {
      int& entries = budgets[layer][kv_head];
      KVSCOPE_CHECK(entries >= 1);
      total += entries;
      if (needs_.propagates_after < 0) continue;
      const std::vector<float>& row = priority[layer][kv_head];
      const auto absent = std::count(row.begin(), row.end(), kAbsentPriority);
      entries = std::min(entries, num_tokens - static_cast<int>(absent));
    }
  }
  KVSCOPE_CHECK_LE(total, int64_t{budget.uniform_entries} * budget.num_rows);
  return budgets;
}

// A cache that returns to its budget has to hold all that guards will ever hold, however short the prompt is.
int64_t ComposedPolicy::NumGuarded(const PolicyBudget& budget) const {
  const Guards& guards = settings_.guards;
  const bool grows_past = WatchesSteps() && !needs_.fixed_rate && budget.first_token == 0;
  return grows_past ? int64_t{guards.sinks} + guards.recent : guards.NumHeld(budget.first_token, budget.next_token());
}

void ComposedPolicy::CheckGuards(const Budgets& budgets, const PolicyBudget& asked) const {
  const Guards& guards = settings_.guards;
  const int64_t guarded = NumGuarded(asked);
  for (const std::vector<int>& layer : budgets) {
    for (int budget : layer) {
      if (guarded <= budget) continue;
      throw Error(StrCat(name_, ": guards sinks=", guards.sinks, ",recent=", guards.recent, " hold ", guarded,
                         " entries, above a budget of ", budget,
                         " entries per KV head; lower the guards or keep a larger fraction"));
    }
  }
}

void ComposedPolicy::CheckGuardBytes(const PolicyBudget& budget) const {
  const Guards& guards = settings_.guards;
  const int64_t guarded = NumGuarded(budget);
  const double bytes = static_cast<double>(guarded * budget.num_rows) * budget.entry_bytes[parts_.store->ladder()[0]];
  if (guarded == 0 || bytes <= budget.bytes) return;
  throw Error(StrCat(name_, ": guards sinks=", guards.sinks, ",recent=", guards.recent, " hold ", guarded,
                     " entries per KV head or ", bytes, " bytes, above a budget of ", budget.bytes,
                     " bytes; lower the guards or keep a larger fraction"));
}

std::vector<double> ComposedPolicy::RowBytes(const PolicyBudget& budget) const {
  std::vector<double> bytes;
  for (const uint8_t bits : parts_.store->ladder()) {
    bytes.push_back(budget.entry_bytes[bits] * (shape_.num_kv_heads / NumRows()));
  }
  return bytes;
}

SpendingView ComposedPolicy::ViewOf(std::vector<SpendingView::Row> rows, const PolicyBudget& budget,
                                    std::span<const double> row_bytes, double bytes) const {
  return {std::move(rows), parts_.store->ladder(), row_bytes, bytes, budget.uniform_entries};
}

double ComposedPolicy::BytesOf(const Layer& layer) const {
  double bytes = 0;
  for (const std::vector<uint8_t>& row : layer.bits) {
    for (const uint8_t bits : row) bytes += budgets_[layer.budget_index].entry_bytes[bits];
  }
  return bytes;
}

Budgets ComposedPolicy::SpendAtDecision(const PolicyBudget& budget, const std::vector<PerSlot>& priority) {
  const std::vector<uint8_t> fresh(budget.num_tokens, parts_.store->ladder()[0]);
  const std::vector<double> row_bytes = RowBytes(budget);
  std::vector<std::vector<int>> present;  // tokens that the layer has
  std::vector<std::vector<float>> ranked;
  for (const PerSlot& layer : priority) {
    for (int row = 0; row < NumRows(); ++row) {
      present.emplace_back(), ranked.emplace_back();
      for (int i = 0; i < budget.num_tokens; ++i) {
        if (layer[row][i] == kAbsentPriority) continue;
        present.back().push_back(budget.first_token + i);
        ranked.back().push_back(layer[row][i]);
      }
      RankTogether(present.back(), settings_.granularity, ranked.back());
    }
  }
  std::vector<SpendingView::Row> rows;
  for (size_t row = 0; row < ranked.size(); ++row) {
    const int layer = budget.layers[row / NumRows()];
    rows.push_back({layer, ranked[row], std::span(fresh).first(ranked[row].size()), present[row],
                    DistortionOf(layers_[layer], row % NumRows())});
  }
  const Bits bits = parts_.allocator->Spend(ViewOf(std::move(rows), budget, row_bytes, budget.bytes));
  Budgets entries;
  double spent = 0;
  for (size_t i = 0; i < budget.layers.size(); ++i) {
    Layer& layer = layers_[budget.layers[i]];
    entries.emplace_back();
    for (int kv_head = 0; kv_head < shape_.num_kv_heads; ++kv_head) {
      const size_t row = i * NumRows() + std::min(kv_head, NumRows() - 1);
      std::vector<uint8_t>& bits_of_token = layer.bits.emplace_back(budget.next_token());
      for (size_t j = 0; j < present[row].size(); ++j) bits_of_token[present[row][j]] = bits.at(row).at(j);
      entries.back().push_back(
          static_cast<int>(bits_of_token.size() - std::count(bits_of_token.begin(), bits_of_token.end(), 0)));
    }
    layer.budget_bytes = BytesOf(layer);
    spent += layer.budget_bytes;
  }
  const double rest = std::max(0.0, budget.bytes - spent) / static_cast<double>(budget.layers.size());
  for (const int layer : budget.layers) layers_[layer].budget_bytes += rest;
  return entries;
}

int ComposedPolicy::ContestedEntries(const PolicyBudget& budget) const {
  return needs_.spends_bits ? parts_.allocator->ContestedEntries(budget) : budget.uniform_entries;
}

std::optional<Propagation> ComposedPolicy::Propagates() const {
  if (needs_.propagates_after < 0) return std::nullopt;
  const PolicyBudget& budget = BudgetOf(needs_.propagates_after);
  const int num_tokens = budget.num_tokens;
  std::optional<Propagation> propagation = parts_.scorer->Propagates(num_tokens, ContestedEntries(budget));
  if (!propagation) return std::nullopt;
  std::vector<bool> goes_on(num_tokens);
  for (const int token : propagation->tokens) goes_on[token] = true;
  propagation->tokens.clear();
  for (int token = 0; token < num_tokens; ++token) {
    if (goes_on[token] || settings_.guards.Holds(token, num_tokens)) propagation->tokens.push_back(token);
  }
  return propagation;
}

LayerPlan ComposedPolicy::Select(int layer_index, const std::vector<int>& budget_entries) {
  Layer& layer = layers_.at(layer_index);
  KVSCOPE_CHECK_EQ(layer.priority.size(), budget_entries.size());  // Allocate comes first
  const std::vector<int> tokens = AllSlots(layer.priority[0].size());
  LayerPlan plan(budget_entries.size());
  for (size_t kv_head = 0; kv_head < plan.size(); ++kv_head) {
    HeadPlan& head = plan[kv_head];
    const bool is_copy = needs_.scope == Scope::kLayer && kv_head > 0;
    if (needs_.spends_bits) {
      head = PlanFromBits(layer.bits[kv_head]);
      layer.bits[kv_head] = head.bits;
      if (!layer.key_factors.empty()) head.key_factors = layer.key_factors[kv_head];
    } else {
      head.keep = is_copy
                      ? plan[0].keep
                      : SelectSlots(tokens, layer.priority[kv_head], settings_.granularity, budget_entries[kv_head]);
    }
    Compact(layer.relevance[kv_head], head.keep);
  }
  layer.priority.clear();
  return plan;
}

void ComposedPolicy::AfterWindow(int layer_index, int kv_head, int count) {
  Layer& layer = layers_.at(layer_index);
  std::vector<float>& relevance = layer.relevance.at(kv_head);
  relevance.erase(relevance.begin(), relevance.begin() + count);
  if (!needs_.spends_bits) return;
  std::vector<uint8_t>& bits = layer.bits.at(kv_head);
  bits.erase(bits.begin(), bits.begin() + count);
}

std::optional<LayerPlan> ComposedPolicy::AfterStep(const StepView& step, const std::vector<int>& budget_entries) {
  if (!WatchesSteps()) return std::nullopt;
  Layer& layer = layers_.at(step.layer_index());
  bool is_above_budget = false;
  for (int kv_head = 0; kv_head < shape_.num_kv_heads; ++kv_head) {
    const size_t num_slots = step.TokenFromSlot(kv_head).size();
    KVSCOPE_CHECK_LE(layer.relevance[kv_head].size(), num_slots);
    layer.relevance[kv_head].resize(num_slots, 0.0f);
    if (needs_.spends_bits) {
      layer.bits[kv_head].resize(num_slots, parts_.store->ladder()[0]);
    } else {
      is_above_budget |= static_cast<int>(num_slots) > budget_entries.at(kv_head);
    }
  }
  parts_.scorer->Update(step, layer.relevance);
  if (++layer.queries_since_decision % settings_.every != 0) return std::nullopt;
  if (needs_.spends_bits) is_above_budget = BytesOf(layer) > layer.budget_bytes;
  if (!is_above_budget) return std::nullopt;
  return needs_.spends_bits ? Spend(step, layer) : Evict(step, layer, budget_entries);
}

LayerPlan ComposedPolicy::Evict(const StepView& step, Layer& layer, const std::vector<int>& budget_entries) {
  LayerPlan plan(shape_.num_kv_heads);
  layer.priority.assign(shape_.num_kv_heads, {});
  for (int kv_head = 0; kv_head < shape_.num_kv_heads; ++kv_head) {
    const std::span<const int> tokens = step.TokenFromSlot(kv_head);
    std::vector<float>& relevance = layer.relevance[kv_head];
    if (static_cast<int>(tokens.size()) <= budget_entries[kv_head]) {
      plan[kv_head].keep = AllSlots(tokens.size());
    } else if (needs_.scope == Scope::kLayer && kv_head > 0) {
      plan[kv_head].keep = plan[0].keep;
      layer.priority[kv_head] = layer.priority[0];
    } else {
      layer.priority[kv_head] =
          Prioritize({step.layer_index(), kv_head, step.query_token() + 1, budget_entries[kv_head], tokens, relevance});
      plan[kv_head].keep = SelectSlots(tokens, layer.priority[kv_head], settings_.granularity, budget_entries[kv_head]);
    }
    Compact(relevance, plan[kv_head].keep);
  }
  return plan;
}

LayerPlan ComposedPolicy::Spend(const StepView& step, Layer& layer) {
  const PolicyBudget& budget = budgets_[layer.budget_index];
  const std::vector<double> row_bytes = RowBytes(budget);
  std::vector<std::vector<float>> ranked;
  std::vector<SpendingView::Row> rows;
  for (int row = 0; row < NumRows(); ++row) {
    const std::span<const int> tokens = step.TokenFromSlot(row);
    ranked.push_back(Prioritize(
        {step.layer_index(), row, step.query_token() + 1, ContestedEntries(budget), tokens, layer.relevance[row]}));
    RankTogether(tokens, settings_.granularity, ranked.back());
  }
  for (int row = 0; row < NumRows(); ++row) {
    rows.push_back(
        {step.layer_index(), ranked[row], layer.bits[row], step.TokenFromSlot(row), DistortionOf(layer, row)});
  }
  const Bits bits = parts_.allocator->Spend(ViewOf(std::move(rows), budget, row_bytes, layer.budget_bytes));
  LayerPlan plan(shape_.num_kv_heads);
  for (int kv_head = 0; kv_head < shape_.num_kv_heads; ++kv_head) {
    const std::vector<uint8_t>& row = bits.at(std::min(kv_head, NumRows() - 1));
    plan[kv_head] = PlanFromBits(row);
    layer.bits[kv_head] = plan[kv_head].bits;
    Compact(layer.relevance[kv_head], plan[kv_head].keep);
  }
  layer.priority.assign(shape_.num_kv_heads, {});
  for (int kv_head = 0; kv_head < shape_.num_kv_heads; ++kv_head)
    layer.priority[kv_head] = ranked[std::min(kv_head, NumRows() - 1)];
  return plan;
}

}  // namespace kvscope
