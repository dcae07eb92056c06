// SPDX-License-Identifier: Apache-2.0
#include "replay/layer_cache.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/half.h"
#include "kernels/attention_tile.h"

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

// The entries of one KV head, all of them or those of a read plan, and what the caller wants to know of the scores.
class CacheTiles final : public KeyValueTiles {
 public:
  CacheTiles(const StoredHead& stored, int head_dim_k, int head_dim_v)
      : stored_(stored), head_dim_k_(head_dim_k), head_dim_v_(head_dim_v) {}

  std::span<const int> slots;                    // of a read plan; empty: all
  std::span<const float> log_weight;             // [entry read]
  int group = 1, entries_before = 0;             // entries before the first query's own
  std::vector<float>* weights = nullptr;         // [group] vectors of all scores, single tokens only
  std::span<const int> watched;                  // slots, ascending
  std::vector<float>* watched_scores = nullptr;  // [group] vectors of [token, watched]

  const float* Read(int begin, int count, float* panels, float* scratch) override {
    DType dtype;
    if (const void* rows = slots.empty() ? stored_.RawKeys(begin, dtype) : nullptr) {
      PackKeyPanels(rows, dtype, count, head_dim_k_, panels);
      stored_.ReadValues(begin, count, scratch);
      return scratch;
    }
    std::vector<float>& keys = ThreadScratch().keys;
    keys.resize(static_cast<size_t>(kTileTokens) * head_dim_k_);
    if (slots.empty()) {
      stored_.ReadKeys(begin, count, keys.data());
      stored_.ReadValues(begin, count, scratch);
    } else {
      for (int i = 0; i < count;) {  // run by run
        int run = 1;
        while (i + run < count && slots[begin + i + run] == slots[begin + i] + run) ++run;
        stored_.ReadKeys(slots[begin + i], run, keys.data() + static_cast<int64_t>(i) * head_dim_k_);
        stored_.ReadValues(slots[begin + i], run, scratch + static_cast<int64_t>(i) * head_dim_v_);
        i += run;
      }
    }
    PackKeyPanels(keys.data(), DType::kF32, count, head_dim_k_, panels);
    return scratch;
  }

  void SawScores(int first_query, int num_queries, int begin, int count, float* scores) override {
    for (int head = 0; head < group; ++head) {
      for (int query = 0; query < num_queries; ++query) {
        float* row = scores + (static_cast<int64_t>(head) * num_queries + query) * kTileTokens;
        for (int i = 0; !log_weight.empty() && i < count; ++i) row[i] += log_weight[begin + i];
        if (weights) std::copy_n(row, count, weights[head].begin() + begin);
        auto entry = std::lower_bound(watched.begin(), watched.end(), begin);
        const int end = std::min(begin + count, entries_before + first_query + query + 1);
        for (; entry != watched.end() && *entry < end; ++entry) {
          watched_scores[head][(first_query + query) * watched.size() + (entry - watched.begin())] =
              row[*entry - begin];
        }
      }
    }
  }

 private:
  const StoredHead& stored_;
  int head_dim_k_, head_dim_v_;
};

class WeightsView final : public StepView {
 public:
  WeightsView(const LayerCache& cache, int query_token, const std::vector<std::vector<float>>& weights)
      : cache_(cache), query_token_(query_token), weights_(weights) {}
  int layer_index() const override { return cache_.layer_index(); }
  const ModelShape& shape() const override { return cache_.shape(); }
  int query_token() const override { return query_token_; }
  std::span<const int> TokenFromSlot(int kv_head) const override { return cache_.TokenFromSlot(kv_head); }
  std::span<const float> Weight(int head) const override { return weights_.at(head); }

 private:
  const LayerCache& cache_;
  int query_token_;
  const std::vector<std::vector<float>>& weights_;
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

void CheckHeadPlan(const HeadPlan& plan, int num_slots, double stored_bits, const std::string& policy,
                   const std::string& where) {
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
  for (const uint8_t bits : plan.bits) {
    if (bits > stored_bits) fail("expected bits that do not rise above ", stored_bits, ", found ", int{bits});
    if (bits < stored_bits) fail("expected ", stored_bits, " bits, all that this store has, found ", int{bits});
  }
}

LayerCache::LayerCache(const ModelShape& shape, int layer_index, float scale, std::shared_ptr<const Store> store,
                       CacheRules rules)
    : shape_(shape), layer_index_(layer_index), scale_(scale), store_(std::move(store)), rules_(std::move(rules)) {
  KVSCOPE_CHECK_EQ(static_cast<int>(rules_.budget_entries.size()), shape.num_kv_heads);
  for (int kv_head = 0; kv_head < shape.num_kv_heads; ++kv_head) {
    heads_.push_back({store_->Make(shape.head_dim_k, shape.head_dim_v), {}});
  }
}

void LayerCache::Load(int kv_head, const void* k, const void* v, DType dtype, std::span<const int> keep) {
  Head& head = heads_.at(kv_head);
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
  for (int begin = 0; begin < static_cast<int>(keep.size()); begin += kTileTokens) {
    const int count = std::min(kTileTokens, static_cast<int>(keep.size()) - begin);
    const auto keys = gather(k, shape_.head_dim_k, begin, count, scratch.keys);
    const auto values = gather(v, shape_.head_dim_v, begin, count, scratch.values);
    head.stored->Append(keys, values, count);
  }
  head.token_from_slot.assign(keep.begin(), keep.end());
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
  CacheTiles tiles(*heads_[kv_head].stored, shape_.head_dim_k, shape_.head_dim_v);
  tiles.group = group;
  if (reads) {
    tiles.slots = reads->slots[kv_head];
    if (!reads->log_weight.empty()) tiles.log_weight = reads->log_weight[kv_head];
  }
  const int entries = reads ? static_cast<int>(tiles.slots.size()) : num_slots(kv_head);
  tiles.entries_before = entries - num_tokens;
  const bool wants_weights = record && record->wants_weights, watches = record && !record->watched.empty();
  if (wants_weights) {
    tiles.weights = &record->weights[first_head];
    for (int i = 0; i < group; ++i) tiles.weights[i].resize(entries);
  }
  if (watches) {
    KVSCOPE_CHECK(!reads);
    tiles.watched = record->watched[kv_head];
    tiles.watched_scores = &record->watched_weights[first_head];
    for (int i = 0; i < group; ++i) tiles.watched_scores[i].assign(tiles.watched.size() * num_tokens, -INFINITY);
  }
  std::vector<float>& lse = ThreadScratch().lse;
  lse.resize(static_cast<size_t>(group) * num_tokens);
  CausalAttention problem;
  problem.q = step.q + first_head * step.q_head_stride;
  problem.q_head_stride = step.q_head_stride, problem.q_row_stride = step.q_token_stride;
  problem.group = group, problem.num_queries = num_tokens, problem.first_query = tiles.entries_before;
  problem.head_dim_k = shape_.head_dim_k, problem.head_dim_v = shape_.head_dim_v, problem.scale = scale_;
  problem.out = step.out + first_head * step.out_head_stride;
  problem.out_head_stride = step.out_head_stride, problem.out_row_stride = step.out_token_stride;
  problem.lse = lse.data(), problem.lse_head_stride = num_tokens;
  cpu_fast::Attend(problem, tiles);
  for (int i = 0; i < group; ++i) {
    const float* head_lse = lse.data() + static_cast<int64_t>(i) * num_tokens;
    if (step.lse) std::copy_n(head_lse, num_tokens, step.lse + (first_head + i) * step.lse_head_stride);
    if (wants_weights) ExpShifted(tiles.weights[i], head_lse[0]);
    for (int token = 0; watches && token < num_tokens; ++token) {
      ExpShifted({tiles.watched_scores[i].data() + token * tiles.watched.size(), tiles.watched.size()},
                 head_lse[token]);
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

void LayerCache::Evict(const LayerStep& step, Policy& policy, const AttendRecord& record) {
  KVSCOPE_CHECK_EQ(step.num_tokens, 1);
  const WeightsView view(*this, step.first_token, record.weights);
  if (const auto plan = policy.AfterStep(view, rules_.budget_entries)) Apply(*plan, step.first_token);
  CheckAfterEviction(step.first_token);
}

void LayerCache::Apply(const LayerPlan& plan, int query_token) {
  if (plan.size() != heads_.size()) {
    throw Error(StrCat("policy ", rules_.policy, ", layer index ", layer_index_, ": expected a plan for ",
                       heads_.size(), " KV heads, found ", plan.size(), "; the policy is broken"));
  }
  for (int kv_head = 0; kv_head < shape_.num_kv_heads; ++kv_head) {
    CheckHeadPlan(plan[kv_head], num_slots(kv_head), store_->bits(), rules_.policy, Place(layer_index_, kv_head));
  }
  for (int kv_head = 0; kv_head < shape_.num_kv_heads; ++kv_head) {
    Head& head = heads_[kv_head];
    const std::vector<int>& keep = plan[kv_head].keep;
    if (keep.size() == head.token_from_slot.size()) continue;
    size_t kept = 0;
    for (size_t slot = 0; slot < head.token_from_slot.size(); ++slot) {
      const int token = head.token_from_slot[slot];
      if (kept < keep.size() && keep[kept] == static_cast<int>(slot)) {
        head.token_from_slot[kept++] = token;
      } else if (action_log_) {
        action_log_->push_back({query_token, layer_index_, kv_head, token, 0});
      }
    }
    head.token_from_slot.resize(kept);
    head.stored->Keep(keep, {});
  }
}

void LayerCache::CheckAfterEviction(int query_token) const {
  for (int kv_head = 0; kv_head < shape_.num_kv_heads; ++kv_head) {
    const std::vector<int>& tokens = heads_[kv_head].token_from_slot;
    const int64_t limit = int64_t{rules_.budget_entries[kv_head]} + std::max(rules_.every - 1, 0);
    if (rules_.growth == Growth::kFixed && static_cast<int64_t>(tokens.size()) > limit) {
      throw Error(StrCat("policy '", rules_.policy, "', ", Place(layer_index_, kv_head), ", after query token ",
                         query_token, ": expected at most ", limit, " entries, found ", tokens.size(),
                         "; the policy is broken"));
    }
    // Guards are the oldest and the newest entries, so missing ones show at the ends.
    const int sinks = std::min<int>(rules_.guards.sinks, query_token + 1);
    const int recent = std::min<int>(rules_.guards.recent, query_token + 1);
    const bool has_sinks = sinks == 0 || (static_cast<int>(tokens.size()) >= sinks && tokens[sinks - 1] == sinks - 1);
    const bool has_recent = recent == 0 || (static_cast<int>(tokens.size()) >= recent &&
                                            tokens[tokens.size() - recent] == query_token + 1 - recent);
    if (!has_sinks || !has_recent) {
      throw Error(StrCat("policy '", rules_.policy, "', ", Place(layer_index_, kv_head), ", after query token ",
                         query_token,
                         ": expected the guarded entries to stay, found one evicted; the policy is broken"));
    }
  }
}

void LayerCache::Step(const LayerStep& step, Policy& policy) {
  const bool watches = policy.WatchesSteps();
  if (!watches && !policy.ChoosesReads()) {
    Append(step);
    Attend(step);
    return;
  }
  record_.wants_weights = watches;
  for (int i = 0; i < step.num_tokens; ++i) {
    LayerStep one = step;
    one.first_token += i, one.num_tokens = 1;
    one.q += i * step.q_token_stride, one.k += i * step.k_token_stride, one.v += i * step.v_token_stride;
    one.out += i * step.out_token_stride;
    if (one.lse) one.lse += i;
    Append(one);
    const auto reads = ChooseReads(one, policy);
    Attend(one, reads ? &*reads : nullptr, &record_);
    if (watches) Evict(one, policy, record_);
  }
}

std::unique_ptr<LayerCache> LayerCache::Clone() const {
  auto clone = std::make_unique<LayerCache>(shape_, layer_index_, scale_, store_, rules_);
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
