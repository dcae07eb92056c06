// SPDX-License-Identifier: Apache-2.0
#include "replay/layer_cache.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/error.h"
#include "core/half.h"
#include "kernels/attention_tile.h"
#include "replay/cache_tiles.h"

namespace kvscope {
namespace {

std::string Place(int layer_index, int kv_head) {
  return StrCat("layer index ", layer_index, ", KV head index ", kv_head);
}

// Scratch of one thread; grows to the largest problem it met.
struct Scratch {
  std::vector<float> keys, values, lse;
};
Scratch& ThreadScratch() {
  thread_local Scratch scratch;
  return scratch;
}

class WeightsView final : public StepView {
 public:
  WeightsView(const LayerCache& cache, int query_token, const std::vector<std::vector<float>>& weights,
              const TokenObserver* observer)
      : cache_(cache), query_token_(query_token), weights_(weights), observer_(observer) {}
  int layer_index() const override { return cache_.layer_index(); }
  const ModelShape& shape() const override { return cache_.shape(); }
  int query_token() const override { return query_token_; }
  std::span<const int> TokenFromSlot(int kv_head) const override { return cache_.TokenFromSlot(kv_head); }
  std::span<const float> Weight(int head) const override { return weights_.at(head); }
  std::vector<float> TraceWeight(int head) const override {
    if (!observer_ || !observer_->full_row) throw Error("trace_weights: only a trace has them; replay this policy");
    const std::span<const float> row = observer_->full_row(query_token_, head);
    std::vector<float> weights;
    for (const int token : TokenFromSlot(head / shape().HeadsPerKvHead())) weights.push_back(row[token]);
    return weights;
  }

 private:
  const LayerCache& cache_;
  int query_token_;
  const std::vector<std::vector<float>>& weights_;
  const TokenObserver* observer_;
};

// Computes the weights of a full read when the policy asks for the first one.
class LazyQueryView final : public QueryView {
 public:
  LazyQueryView(LayerCache& cache, const LayerStep& step) : cache_(cache), step_(step) {}
  int layer_index() const override { return cache_.layer_index(); }
  const ModelShape& shape() const override { return cache_.shape(); }
  int query_token() const override { return step_.first_token; }
  std::span<const int> TokenFromSlot(int kv_head) const override { return cache_.TokenFromSlot(kv_head); }
  std::span<const float> FullWeight(int head) const override {
    if (record_.weights.empty()) {
      std::vector<float> out(static_cast<size_t>(shape().num_heads) * shape().head_dim_v);
      LayerStep read = step_;
      read.out = out.data(), read.out_head_stride = shape().head_dim_v, read.out_token_stride = 0;
      read.lse = nullptr;
      record_.wants_weights = true;
      cache_.Attend(read, nullptr, &record_);
    }
    return record_.weights.at(head);
  }

 private:
  LayerCache& cache_;
  const LayerStep& step_;
  mutable AttendRecord record_;
};

}  // namespace

void CheckHeadPlan(const HeadPlan& plan, int num_slots, const Store& store, std::span<const uint8_t> bits_from_slot,
                   const std::string& policy, const std::string& where) {
  const auto fail = [&](const auto&... found) {
    throw Error(
        StrCat("policy '", policy, "', ", where, ": ", found..., "; the policy is broken, the cache is unchanged"));
  };
  if (plan.keep.empty()) fail("expected a plan that keeps at least 1 entry, found none");
  for (size_t i = 0; i < plan.keep.size(); ++i) {
    if (plan.keep[i] < 0 || plan.keep[i] >= num_slots) {
      fail("expected slots from 0 to ", num_slots - 1, " to keep, found ", plan.keep[i]);
    }
    if (i > 0 && plan.keep[i] <= plan.keep[i - 1]) {
      fail("expected ascending slots to keep, found ", plan.keep[i], " after ", plan.keep[i - 1]);
    }
  }
  if (plan.bits.empty()) return;
  if (plan.bits.size() != plan.keep.size()) {
    fail("expected bits for ", plan.keep.size(), " kept entries, found ", plan.bits.size());
  }
  const std::span<const uint8_t> ladder = store.ladder();
  for (size_t i = 0; i < plan.bits.size(); ++i) {
    const int bits = plan.bits[i];
    const double present = bits_from_slot.empty() ? store.bits() : bits_from_slot[plan.keep[i]];
    if (bits > present) fail("expected bits that do not rise above ", present, ", found ", bits);
    if (ladder.empty() && bits < present) fail("expected ", present, " bits, all that this store has, found ", bits);
    if (!ladder.empty() && std::find(ladder.begin(), ladder.end(), bits) == ladder.end()) {
      fail("expected bits that the store has, found ", bits);
    }
  }
}

LayerCache::LayerCache(const ModelShape& shape, int layer_index, const AttentionRule& rule,
                       std::shared_ptr<const Store> store, CacheRules rules)
    : shape_(shape), layer_index_(layer_index), rule_(rule), store_(std::move(store)), rules_(std::move(rules)) {
  KVSCOPE_CHECK_EQ(static_cast<int>(rules_.budget_entries.size()), shape.num_kv_heads);
  for (int kv_head = 0; kv_head < shape.num_kv_heads; ++kv_head) {
    heads_.push_back({store_->Make(shape.head_dim_k, shape.head_dim_v), {}});
  }
}

void LayerCache::Load(int kv_head, const void* k, const void* v, DType dtype, const HeadPlan& plan) {
  Head& head = heads_.at(kv_head);
  const std::span<const int> keep = plan.keep;
  KVSCOPE_CHECK(head.token_from_slot.empty());
  Scratch& scratch = ThreadScratch();
  const auto gather = [&](const void* rows, int dim, int begin, int count, std::vector<float>& gathered) {
    gathered.resize(static_cast<size_t>(kTileTokens) * dim);
    for (int i = 0; i < count; ++i) {
      const int64_t first = static_cast<int64_t>(keep[begin + i]) * dim;
      float* target = gathered.data() + static_cast<int64_t>(i) * dim;
      if (dtype == DType::kF16) {
        FloatsFromHalves({static_cast<const Half*>(rows) + first, static_cast<size_t>(dim)},
                         {target, static_cast<size_t>(dim)});
      } else {
        std::copy_n(static_cast<const float*>(rows) + first, dim, target);
      }
    }
    return std::span<const float>(gathered.data(), static_cast<size_t>(count) * dim);
  };
  if (!plan.key_factors.empty()) head.stored->BalanceKeys(plan.key_factors);
  for (int begin = 0; begin < static_cast<int>(keep.size()); begin += kTileTokens) {
    const int count = std::min(kTileTokens, static_cast<int>(keep.size()) - begin);
    const auto keys = gather(k, shape_.head_dim_k, begin, count, scratch.keys);
    const auto values = gather(v, shape_.head_dim_v, begin, count, scratch.values);
    head.stored->Append(keys, values, count);
  }
  head.stored->Settle();
  head.token_from_slot.assign(keep.begin(), keep.end());
  if (plan.bits.empty()) return;
  std::vector<int> slots(keep.size());
  std::iota(slots.begin(), slots.end(), 0);
  head.stored->Keep(slots, plan.bits);
}

void LayerCache::Append(const LayerStep& step) {
  for (int kv_head = 0; kv_head < shape_.num_kv_heads; ++kv_head) {
    Head& head = heads_[kv_head];
    for (int i = 0; i < step.num_tokens; ++i) {
      const float* k = step.k + kv_head * step.k_head_stride + i * step.k_token_stride;
      const float* v = step.v + kv_head * step.v_head_stride + i * step.v_token_stride;
      head.stored->Append({k, static_cast<size_t>(shape_.head_dim_k)}, {v, static_cast<size_t>(shape_.head_dim_v)}, 1);
      head.token_from_slot.push_back(step.first_token + i);
    }
  }
}

void LayerCache::Attend(const LayerStep& step, const ReadPlan* reads, AttendRecord* record) {
  KVSCOPE_CHECK(step.num_tokens == 1 || (!reads && !(record && record->wants_weights)));
  if (record && record->wants_weights) record->weights.resize(shape_.num_heads);
  if (record && !record->watched.empty()) record->watched_weights.resize(shape_.num_heads);
  if (reads) CheckReads(*reads, step.first_token);
  for (int kv_head = 0; kv_head < shape_.num_kv_heads; ++kv_head) AttendHead(step, kv_head, reads, record);
}

void LayerCache::AttendHead(const LayerStep& step, int kv_head, const ReadPlan* reads, AttendRecord* record) {
  const int group = shape_.HeadsPerKvHead(), first_head = kv_head * group, num_tokens = step.num_tokens;
  CacheTiles tiles(*heads_[kv_head].stored, shape_.head_dim_k, shape_.head_dim_v, group,
                   reads ? std::span<const int>(reads->slots[kv_head]) : std::span<const int>());
  if (reads && !reads->log_weight.empty()) tiles.AddLogWeights(reads->log_weight[kv_head]);
  const int entries_before = tiles.num_entries() - num_tokens;
  const bool wants_weights = record && record->wants_weights, watches = record && !record->watched.empty();
  if (wants_weights) {
    std::vector<float>* weights = &record->weights[first_head];
    for (int i = 0; i < group; ++i) weights[i].resize(tiles.num_entries());
    tiles.KeepScores(weights);
  }
  size_t num_watched = 0;
  if (watches) {
    KVSCOPE_CHECK(!reads);
    num_watched = record->watched[kv_head].size();
    std::vector<float>* weights = &record->watched_weights[first_head];
    for (int i = 0; i < group; ++i) weights[i].assign(num_watched * num_tokens, -INFINITY);
    tiles.Watch(record->watched[kv_head], entries_before, weights);
  }
  std::vector<float>& lse = ThreadScratch().lse;
  lse.resize(static_cast<size_t>(group) * num_tokens);
  CausalAttention problem;
  problem.q = step.q + first_head * step.q_head_stride;
  problem.q_head_stride = step.q_head_stride, problem.q_row_stride = step.q_token_stride;
  problem.group = group, problem.num_queries = num_tokens, problem.first_query = entries_before;
  problem.head_dim_k = shape_.head_dim_k, problem.head_dim_v = shape_.head_dim_v;
  problem.rule = {.scale = rule_.scale, .softcap = rule_.softcap};  // all that is here is in the window
  problem.out = step.out + first_head * step.out_head_stride;
  problem.out_head_stride = step.out_head_stride, problem.out_row_stride = step.out_token_stride;
  problem.lse = lse.data(), problem.lse_head_stride = num_tokens;
  cpu_fast::Attend(problem, tiles);
  for (int i = 0; i < group; ++i) {
    const float* head_lse = lse.data() + static_cast<int64_t>(i) * num_tokens;
    if (step.lse) std::copy_n(head_lse, num_tokens, step.lse + (first_head + i) * step.lse_head_stride);
    if (wants_weights) ExpShifted(record->weights[first_head + i], head_lse[0]);
    for (int token = 0; watches && token < num_tokens; ++token) {
      ExpShifted({record->watched_weights[first_head + i].data() + token * num_watched, num_watched}, head_lse[token]);
    }
  }
}

std::optional<ReadPlan> LayerCache::ChooseReads(const LayerStep& step, Policy& policy) {
  KVSCOPE_CHECK_EQ(step.num_tokens, 1);
  if (!policy.ChoosesReads()) return std::nullopt;
  const LazyQueryView view(*this, step);
  return policy.BeforeStep(view);
}

void LayerCache::CheckReads(const ReadPlan& reads, int query_token) const {
  const int later_tokens = rules_.growth == Growth::kAppend ? query_token + 1 - rules_.decision_token : 0;
  const auto fail = [&](int kv_head, const auto&... found) {
    throw Error(StrCat("policy '", rules_.policy, "', ", Place(layer_index_, kv_head), ", query token ", query_token,
                       ": expected ", found..., "; the policy is broken"));
  };
  if (reads.slots.size() != heads_.size())
    fail(0, heads_.size(), " KV heads in its read plan, found ", reads.slots.size());
  if (!reads.log_weight.empty() && reads.log_weight.size() != heads_.size()) {
    fail(0, heads_.size(), " KV heads of log-weights, found ", reads.log_weight.size());
  }
  for (int kv_head = 0; kv_head < shape_.num_kv_heads; ++kv_head) {
    const std::vector<int>& slots = reads.slots[kv_head];
    const int64_t budget = int64_t{rules_.budget_entries[kv_head]} + later_tokens;
    if (slots.empty() || static_cast<int64_t>(slots.size()) > budget) {
      fail(kv_head, "from 1 to ", budget, " entries to read, found ", slots.size());
    }
    for (size_t i = 0; i < slots.size(); ++i) {
      if (slots[i] < 0 || slots[i] >= num_slots(kv_head) || (i > 0 && slots[i] <= slots[i - 1])) {
        fail(kv_head, "ascending slots below ", num_slots(kv_head), " to read, found ", slots[i]);
      }
    }
    if (!reads.log_weight.empty() && reads.log_weight[kv_head].size() != slots.size()) {
      fail(kv_head, slots.size(), " log-weights, found ", reads.log_weight[kv_head].size());
    }
  }
}

std::optional<EntryRank> RankOf(std::span<const float> priority, int slot, std::span<const int> keep) {
  if (priority.empty()) return std::nullopt;
  EntryRank rank{priority[slot], std::numeric_limits<float>::infinity(), 0};
  for (int other = 0; other < std::ssize(priority); ++other) {
    rank.num_before += priority[other] > rank.priority || (priority[other] == rank.priority && other < slot);
  }
  for (const int kept : keep) rank.lowest_kept = std::min(rank.lowest_kept, priority[kept]);
  return rank;
}

void LayerCache::Apply(const LayerPlan& plan, const Policy& policy, int query_token) {
  if (plan.size() != heads_.size()) {
    throw Error(StrCat("policy ", rules_.policy, ", layer index ", layer_index_, ": expected a plan for ",
                       heads_.size(), " KV heads, found ", plan.size(), "; the policy is broken"));
  }
  for (int kv_head = 0; kv_head < shape_.num_kv_heads; ++kv_head) {
    CheckHeadPlan(plan[kv_head], num_slots(kv_head), *store_, BitsFromSlot(kv_head), rules_.policy,
                  Place(layer_index_, kv_head));
  }
  for (int kv_head = 0; kv_head < shape_.num_kv_heads; ++kv_head) {
    Head& head = heads_[kv_head];
    const std::vector<int>& keep = plan[kv_head].keep;
    const std::vector<uint8_t>& bits = plan[kv_head].bits;
    const std::span<const uint8_t> bits_now = BitsFromSlot(kv_head);
    const bool keeps_bits = bits.empty() || bits_now.empty();
    if (keep.size() == head.token_from_slot.size() && (keeps_bits || std::ranges::equal(bits, bits_now))) continue;
    const std::span<const float> priority =
        action_log_ ? policy.Priority(layer_index_, kv_head) : std::span<const float>{};
    KVSCOPE_CHECK(priority.empty() || priority.size() == head.token_from_slot.size());
    size_t kept = 0;
    for (size_t slot = 0; slot < head.token_from_slot.size(); ++slot) {
      const int token = head.token_from_slot[slot];
      const bool stays = kept < keep.size() && keep[kept] == static_cast<int>(slot);
      if (action_log_ && !stays) {
        action_log_->push_back(
            {query_token, layer_index_, kv_head, token, 0, RankOf(priority, static_cast<int>(slot), keep)});
      }
      if (!stays) continue;
      if (action_log_ && !keeps_bits && bits[kept] != bits_now[slot]) {
        action_log_->push_back({query_token, layer_index_, kv_head, token, bits[kept]});
      }
      head.token_from_slot[kept++] = token;
    }
    head.token_from_slot.resize(kept);
    head.stored->Keep(keep, bits);
  }
}

void LayerCache::CheckAfterEviction(int query_token) const {
  if (rules_.budget_bytes > 0 && rules_.growth == Growth::kFixed) {
    const double added = rules_.state_bytes_per_entry + store_->BytesPerEntry(shape_.head_dim_k, shape_.head_dim_v);
    const double limit = rules_.budget_bytes + std::max(rules_.every - 1, 0) * shape_.num_kv_heads * added;
    // Every KV head keeps at least one entry, whatever the budget.
    if (Bytes() > limit * (1 + 1e-9) && num_entries() > shape_.num_kv_heads) {
      throw Error(StrCat("policy '", rules_.policy, "', layer index ", layer_index_, ", after query token ",
                         query_token, ": expected at most ", limit, " bytes, found ", Bytes(),
                         "; the policy is broken"));
    }
  }
  for (int kv_head = 0; kv_head < shape_.num_kv_heads; ++kv_head) {
    const std::vector<int>& tokens = heads_[kv_head].token_from_slot;
    const int64_t limit = int64_t{rules_.budget_entries[kv_head]} + std::max(rules_.every - 1, 0);
    if (rules_.budget_bytes == 0 && rules_.growth == Growth::kFixed && static_cast<int64_t>(tokens.size()) > limit) {
      throw Error(StrCat("policy '", rules_.policy, "', ", Place(layer_index_, kv_head), ", after query token ",
                         query_token, ": expected at most ", limit, " entries, found ", tokens.size(),
                         "; the policy is broken"));
    }
    // Guards are the oldest and the newest entries, so missing ones show at the ends.
    const int first_seen = rule_.FirstSeen(query_token);
    const int sinks = std::clamp(rules_.guards.sinks - first_seen, 0, query_token + 1 - first_seen);
    const int recent = std::min(rules_.guards.recent, query_token + 1 - first_seen);
    const bool has_sinks =
        sinks == 0 || (static_cast<int>(tokens.size()) >= sinks && tokens[sinks - 1] == first_seen + sinks - 1);
    const bool has_recent = recent == 0 || (static_cast<int>(tokens.size()) >= recent &&
                                            tokens[tokens.size() - recent] == query_token + 1 - recent);
    if (!has_sinks || !has_recent) {
      throw Error(StrCat("policy '", rules_.policy, "', ", Place(layer_index_, kv_head), ", after query token ",
                         query_token,
                         ": expected the guarded entries to stay, found one evicted; the policy is broken"));
    }
  }
}

bool LayerCache::TakesTokensSingly(const Policy& policy, int last_token) const {
  return policy.WatchesSteps() || policy.ChoosesReads() || store_->groups_tokens() || rule_.FirstSeen(last_token) > 0;
}

void LayerCache::DropUnseen(int query_token, Policy& policy) {
  const int first_seen = rule_.FirstSeen(query_token);
  std::vector<int> slots;
  for (int kv_head = 0; first_seen > 0 && kv_head < shape_.num_kv_heads; ++kv_head) {
    Head& head = heads_[kv_head];
    const auto seen = std::ranges::lower_bound(head.token_from_slot, first_seen);
    const auto gone = static_cast<int>(seen - head.token_from_slot.begin());
    if (gone == 0) continue;
    slots.resize(head.token_from_slot.size() - gone);
    std::iota(slots.begin(), slots.end(), gone);
    head.stored->Keep(slots, {});
    head.token_from_slot.erase(head.token_from_slot.begin(), seen);
    if (policy.WatchesSteps()) policy.AfterWindow(layer_index_, kv_head, gone);
  }
}

void LayerCache::Settle() {
  for (Head& head : heads_) head.stored->Settle();
}

void LayerCache::Step(const LayerStep& step, Policy& policy, const TokenObserver* observer) {
  if (!TakesTokensSingly(policy, step.first_token + step.num_tokens - 1)) {
    Append(step);
    Attend(step);
    Settle();
    return;
  }
  for (int i = 0; i < step.num_tokens; ++i) {
    LayerStep one = step;
    one.first_token += i, one.num_tokens = 1;
    one.q += i * step.q_token_stride, one.k += i * step.k_token_stride, one.v += i * step.v_token_stride;
    one.out += i * step.out_token_stride;
    if (one.lse) one.lse += i;
    StepSingly(one, policy, observer);
  }
}

// The loop that ADKVC's proposal describes, for every policy, in replay and live alike. The new token's key and value
// come first rather than fifth, since a token attends to itself as well; nothing else is in another order.
void LayerCache::StepSingly(const LayerStep& one, Policy& policy, const TokenObserver* observer) {
  // 1. The query and the new key and value are those of one layer and token; the newest entry is stored as it comes.
  DropUnseen(one.first_token, policy);
  Append(one);
  // 2. Retrieve: a policy may choose what to read; keys and values are de-quantised tile by tile as they are read.
  const std::optional<ReadPlan> reads = ChooseReads(one, policy);
  // 3., 4. Attention over what was read, its weights, and the context vector.
  record_.wants_weights = policy.WatchesSteps() || (observer && observer->wants_weights);
  Attend(one, reads ? &*reads : nullptr, &record_);
  Settle();
  if (observer && observer->attended) observer->attended(one, reads ? &*reads : nullptr, record_);
  if (!policy.WatchesSteps()) return;
  // 5. The weights go into the policy's history of each entry; every so often it answers with a plan.
  const WeightsView view(*this, one.first_token, record_.weights, observer);
  const std::optional<LayerPlan> plan = policy.AfterStep(view, rules_.budget_entries);
  // 6. Compress and evict.
  if (plan) Apply(*plan, policy, one.first_token);
  CheckAfterEviction(one.first_token);
  // 7. The next token.
}

std::unique_ptr<LayerCache> LayerCache::Clone() const {
  auto clone = std::make_unique<LayerCache>(shape_, layer_index_, rule_, store_, rules_);
  for (size_t kv_head = 0; kv_head < heads_.size(); ++kv_head) {
    clone->heads_[kv_head] = {heads_[kv_head].stored->Clone(), heads_[kv_head].token_from_slot};
  }
  return clone;
}

int64_t LayerCache::num_entries() const {
  int64_t entries = 0;
  for (const Head& head : heads_) entries += static_cast<int64_t>(head.token_from_slot.size());
  return entries;
}

int64_t LayerCache::StoredBytes() const {
  int64_t bytes = 0;
  for (const Head& head : heads_) bytes += head.stored->bytes();
  return bytes;
}

double LayerCache::Bytes() const {
  return static_cast<double>(StoredBytes()) + rules_.state_bytes_per_entry * static_cast<double>(num_entries());
}

}  // namespace kvscope
