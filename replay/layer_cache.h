// SPDX-License-Identifier: Apache-2.0
// One layer of one policy's cache: per KV head the stored entries and the token of each. Replay evaluates over it and
// live decodes over it, through the same calls, so both see the same bits: with an fp16 store and everything kept, out
// and lse equal cpu_fast::Attend's. The policy answers with plans; only this class changes the cache, and it checks
// every plan first: a policy that breaks a rule is an Error that names it.
//
// In a layer with a window, entries that a query does not see any more go before it attends, whatever the policy: they
// are the model's loss, not the policy's, and no action tells of them.
//
// Not thread-safe; caches of different layers or forks are independent. Nothing is allocated once buffers have grown.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "kernels/attention_rule.h"
#include "replay/policy.h"
#include "replay/store.h"

namespace kvscope {

// What a cache is checked against.
struct CacheRules {
  std::string policy;               // for messages
  int decision_token = 0;           // tokens before it came with Load
  std::vector<int> budget_entries;  // [kv_head]; read policies: entries read, not held
  double budget_bytes = 0;          // of the layer, state included, in place of entries; 0: budgeted in entries
  Growth growth = Growth::kAppend;
  int every = 0;
  bool chooses_reads = false;
  Guards guards;
  double state_bytes_per_entry = 0;
};

// Consecutive tokens on their way through one layer. Row of (head, token i) begins at x + head * head_stride + i *
// token_stride; q, k, v are f32, already rounded to the cache dtype.
struct LayerStep {
  int first_token = 0, num_tokens = 1;
  const float* q = nullptr;  // [num_heads, num_tokens, head_dim_k]
  int64_t q_head_stride = 0, q_token_stride = 0;
  const float* k = nullptr;  // [num_kv_heads, num_tokens, head_dim_k]
  int64_t k_head_stride = 0, k_token_stride = 0;
  const float* v = nullptr;  // [num_kv_heads, num_tokens, head_dim_v]
  int64_t v_head_stride = 0, v_token_stride = 0;
  float* out = nullptr;  // [num_heads, num_tokens, head_dim_v]
  int64_t out_head_stride = 0, out_token_stride = 0;
  float* lse = nullptr;  // [num_heads, num_tokens], or null
  int64_t lse_head_stride = 0;
};

// What one Attend leaves behind beside out and lse. Weights are exp(score - lse) over what was read.
struct AttendRecord {
  bool wants_weights = false;                       // asked: weights of all slots; single tokens only
  std::vector<std::vector<float>> weights;          // [head][entry read]
  std::vector<std::vector<int>> watched;            // asked: [kv_head] slots, ascending
  std::vector<std::vector<float>> watched_weights;  // [head][token, watched]; 0 for tokens after the query
};

// Where an entry stood among those that competed with it. Absent when the policy ranks nothing.
struct EntryRank {
  float priority = 0, lowest_kept = 0;  // of those that stayed
  int num_before = 0;                   // entries ranked before it; ties: the lower token comes first
};
// slot: at the decision, the token.
std::optional<EntryRank> RankOf(std::span<const float> priority, int slot, std::span<const int> keep);

// One change of a cache, for the viewer and for ledgers.
struct CacheAction {
  int query_token = 0, layer_index = 0, kv_head = 0, token = 0;
  uint8_t bits = 0;                 // after the action; 0: evicted
  std::optional<EntryRank> rank{};  // of an evicted one
};

// Looks on while a step is under way, one query token at a time: replay measures here.
struct TokenObserver {
  bool wants_weights = false;
  // After attention, before the policy changes the cache. reads: null when all was read.
  std::function<void(const LayerStep& one, const ReadPlan* reads, const AttendRecord& record)> attended;
  // Row of the full cache's weights [query token + 1] of a head, for oracles.
  std::function<std::span<const float>(int query_token, int head)> full_row;
};

class LayerCache {
 public:
  LayerCache(const ModelShape& shape, int layer_index, const AttentionRule& rule, std::shared_ptr<const Store> store,
             CacheRules rules);

  // Fills an empty KV head with what the plan keeps of K and V [tokens, head_dim]; its slots are tokens.
  void Load(int kv_head, const void* k, const void* v, DType dtype, const HeadPlan& plan);
  // All of one step: appends, attends, lets the policy choose reads before and change the cache after. A policy that
  // reads or watches, a store that packs as it goes, or a window that something has left by the last token, takes the
  // tokens one at a time; any other takes them as one causal chunk, with the same bits. An observer is called only
  // where tokens come one at a time.
  void Step(const LayerStep& step, Policy& policy, const TokenObserver* observer = nullptr);
  bool TakesTokensSingly(const Policy& policy, int last_token) const;

  // The parts of a step, for those who look in between. None of the tokens may have left the window.
  void Append(const LayerStep& step);
  // Causal: token i of the step sees the entries that were there before it and itself. reads: slots of a single token.
  void Attend(const LayerStep& step, const ReadPlan* reads = nullptr, AttendRecord* record = nullptr);

  std::unique_ptr<LayerCache> Clone() const;
  const ModelShape& shape() const { return shape_; }
  int layer_index() const { return layer_index_; }
  std::span<const int> TokenFromSlot(int kv_head) const { return heads_[kv_head].token_from_slot; }
  // Bits of each slot; empty: the store's own.
  std::span<const uint8_t> BitsFromSlot(int kv_head) const { return heads_[kv_head].stored->BitsFromSlot(); }
  int num_slots(int kv_head) const { return static_cast<int>(heads_[kv_head].token_from_slot.size()); }
  int64_t num_entries() const;  // of all KV heads
  int64_t StoredBytes() const;  // payload, scales and zero points
  double Bytes() const;         // with the policy's state
  void set_action_log(std::vector<CacheAction>* log) { action_log_ = log; }

 private:
  struct Head {
    std::unique_ptr<StoredHead> stored;
    std::vector<int> token_from_slot;
  };
  void StepSingly(const LayerStep& one, Policy& policy, const TokenObserver* observer);
  void Settle();
  void DropUnseen(int query_token, Policy& policy);
  std::optional<ReadPlan> ChooseReads(const LayerStep& one, Policy& policy);
  void AttendHead(const LayerStep& step, int kv_head, const ReadPlan* reads, AttendRecord* record);
  void Apply(const LayerPlan& plan, const Policy& policy, int query_token);
  void CheckAfterEviction(int query_token) const;
  void CheckReads(const ReadPlan& reads, int query_token) const;

  ModelShape shape_;
  int layer_index_;
  AttentionRule rule_;
  std::shared_ptr<const Store> store_;
  CacheRules rules_;
  std::vector<Head> heads_;
  std::vector<CacheAction>* action_log_ = nullptr;
  AttendRecord record_;  // of Step
};

// Throws Error naming the policy unless `keep` is ascending, within [0, num_slots) and not empty, and bits (if any)
// match it, are the store's and do not rise. bits_from_slot: present ones; empty: all as the store writes them.
// where: "layer 3, KV head 1".
void CheckHeadPlan(const HeadPlan& plan, int num_slots, const Store& store, std::span<const uint8_t> bits_from_slot,
                   const std::string& policy, const std::string& where);

}  // namespace kvscope
