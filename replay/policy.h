// SPDX-License-Identifier: Apache-2.0
// What a cache policy is. Most papers are one cell of a grid,
//   scorer x allocator x granularity x trigger x store x reader,
// so most ideas need one small class: a Scorer (relevance and priority of tokens). A method that does not fit the grid
// implements Policy itself, the full set of hooks. Replay and live drive the same objects; the engine alone changes
// caches, checks bytes and applies guards.
//
// Words: score (before softmax) -> weight (after) -> relevance (a policy's state per entry) -> priority (its ranking).
// token: absolute position, never renumbered. slot: row of one KV head's compacted cache, ascending by token.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "kernels/column_stats.h"

namespace kvscope {

// ---- what policies see -------------------------------------------------------------------------------------------

struct ModelShape {
  int num_layers = 0;  // layers of the trace, not of the model when a part was recorded
  int num_heads = 0, num_kv_heads = 0, head_dim_k = 0, head_dim_v = 0;
  int HeadsPerKvHead() const { return num_heads / num_kv_heads; }
};

enum class Scope { kKvHead, kLayer };  // kLayer: all KV heads of a layer keep the same tokens

// A KV head's queries, over its query heads and the rows before a decision, times the scale of scores: [head_dim_k]
// each.
struct QueryChannels {
  std::vector<float> largest, rms;  // max |q| and root mean square of a channel
};

// Declared before anything runs; the engine computes the union over a sweep in one pass.
struct PolicyNeeds {
  std::vector<StatisticSpec> statistics;
  bool keys = false, values = false;  // reads K or V of the prompt
  bool queries = false;               // reads QueryChannels
  bool oracle = false;                // sees what a real policy cannot; labelled everywhere
  bool trace_weights = false;         // an oracle whose steps see the full cache's weights, which only a trace has
  bool spends_bits = false;           // is budgeted in bytes: its plans say the bits of each entry
  bool query_aware = false;           // reads rows, so under --decide-at prompt it knows the question
  bool fixed_rate = false;            // ignores the budget (full cache): one row per sweep
  Scope scope = Scope::kKvHead;
  int propagates_after = -1;         // the layer after which only the tokens it names go on (FastKV); -1: all go on
  int every = 0;                     // default trigger: 0 once, N after every N-th query
  double state_bytes_per_entry = 0;  // billed, per entry of a KV head
  // Systems of the catalogue that will need more: attn_in and W_O (CriticalKV, DuoAttention), probe passes (KVzip,
  // Finch, InfiniPot), token classes (FastGen), pre-RoPE query moments (ExpectedAttention, QFilter).
};

// One layer at the decision. All of the prompt (or context) is still there.
class LayerView {
 public:
  virtual ~LayerView() = default;
  virtual int layer_index() const = 0;
  virtual const ModelShape& shape() const = 0;
  virtual int num_tokens() const = 0;  // entries of each KV head
  // [num_tokens] of one query head. Asking for a statistic that Needs() did not declare is a bug.
  virtual std::span<const float> Statistic(const StatisticSpec& spec, int head) const = 0;
  // [num_tokens, head_dim] as f32; only when declared.
  virtual std::vector<float> Keys(int kv_head) const = 0;
  virtual std::vector<float> Values(int kv_head) const = 0;
  virtual QueryChannels Queries(int kv_head) const = 0;
  virtual uint64_t seed() const = 0;
};

// One query token of one layer, after attention over the policy's own cache (which holds that token already).
class StepView {
 public:
  virtual ~StepView() = default;
  virtual int layer_index() const = 0;
  virtual const ModelShape& shape() const = 0;
  virtual int query_token() const = 0;
  virtual std::span<const int> TokenFromSlot(int kv_head) const = 0;  // ascending
  // [slots of the head's KV head], sums to 1 over the policy's own cache.
  virtual std::span<const float> Weight(int head) const = 0;
  // [slots] what the full cache gives those entries; only when declared (an oracle).
  virtual std::vector<float> TraceWeight(int head) const = 0;
};

// Relevance or priority of one layer: row kv_head has one value per slot.
using PerSlot = std::vector<std::vector<float>>;

// Priorities at or above this are not up for competition (a scorer's own window, a guard). Among them newer tokens
// come first, so that a budget below the window keeps its newest part.
inline constexpr float kProtectedPriority = 1e30f;
inline float ProtectedPriority(int token) {
  return kProtectedPriority * (1.0f + token * 0x1p-22f);
}

// Below every other priority: the layer has not got this token, so it cannot be kept. It never came there (FastKV), or
// it has left the layer's window.
inline constexpr float kAbsentPriority = -1;

// What may stay at a decision in layers that have the same tokens: all, or those of a window. Budgets are shares of
// what a layer has, and are not moved between layers that have different tokens.
struct PolicyBudget {
  std::vector<int> layers;  // ascending
  int first_token = 0;      // those before it have left the window
  int num_tokens = 0;       // that the layers have
  // Per KV head, when all get the same and each entry is stored as it comes; may be above num_tokens.
  int uniform_entries = 0;
  // What allocators of bits spend: of these layers and their KV heads, state included.
  double bytes = 0;
  int num_rows = 0;  // KV heads of these layers
  // Bytes of an entry of one KV head by bits, state included: those of the store's ladder, else 0.
  std::array<double, 33> entry_bytes{};
  int next_token() const { return first_token + num_tokens; }
};

// Tokens that go on past a layer during prefill, ascending.
struct Propagation {
  int after_layer = 0;
  std::vector<int> tokens;
};

// The entries of one KV head that compete for its budget.
struct PriorityView {
  int layer_index = 0, kv_head = 0;
  int next_token = 0;                    // follows the newest token
  int budget_entries = 0;                // what may stay
  std::span<const int> token_from_slot;  // ascending
  std::span<const float> relevance;      // [slots]
};

// ---- the small interface: a scorer -------------------------------------------------------------------------------

class Scorer {
 public:
  virtual ~Scorer() = default;
  virtual PolicyNeeds Needs(const ModelShape& shape) const = 0;
  // At the decision: relevance of every token. relevance: [kv_heads][num_tokens], zero on entry.
  virtual void Seed(const LayerView& view, PerSlot& relevance) = 0;
  // After each later query: relevance is aligned with the slots, a new token's is 0 on entry.
  virtual void Update(const StepView& step, PerSlot& relevance) { (void)step, (void)relevance; }
  // Relevance to priority [slots] of one KV head. Default: priority = relevance.
  virtual void Prioritize(const PriorityView& view, std::span<float> priority) const;
  // After Seed of all layers. budget_entries as Prioritize sees it. Scorers whose Needs() say propagates_after; the
  // tokens that do not go on have kAbsentPriority in later layers.
  virtual std::optional<Propagation> Propagates(int num_tokens, int budget_entries) const {
    (void)num_tokens, (void)budget_entries;
    return std::nullopt;
  }
  virtual std::unique_ptr<Scorer> Clone() const = 0;
};

// ---- allocators --------------------------------------------------------------------------------------------------

// Entries per [layer][kv_head].
using Budgets = std::vector<std::vector<int>>;

struct AllocationView {
  ModelShape shape;  // its num_layers: those of the budget
  int num_tokens = 0;
  int uniform_entries = 0;            // what each KV head gets when all get the same
  std::span<const PerSlot> priority;  // [layer][kv_head][token]
};

// What an allocator takes as the harm of keeping an entry in fewer bits; that of dropping it is 1.
enum class Harm {
  kNone,      // it does not look
  kRelative,  // to the entry: squared error over squared size, the mean of K's and V's
  kOutput,    // to the head's output, per weight: mean square error of its score + squared error of V over V's spread
  kCapped,    // kRelative, but 1 where scores are off by 1 or more: weights are then wrong by a factor of e
};
inline bool ReadsQueries(Harm harm) {
  return harm == Harm::kOutput || harm == Harm::kCapped;
}

// Bytes to be spent on entries of one or all layers. A row is a KV head of a layer or, where all KV heads of a layer
// keep the same, the layer.
struct SpendingView {
  struct Row {
    int layer_index = 0;
    std::span<const float> priority;    // [slots], never below 0
    std::span<const uint8_t> bits_now;  // [slots]; bits only go down, 0 is gone for good
    std::span<const int> token_from_slot;
    std::span<const double> distortion = {};  // [ladder] harm of that many bits; for allocators with a Harm
  };
  std::vector<Row> rows;
  std::span<const uint8_t> ladder;      // bits of the store, descending, without 0
  std::span<const double> entry_bytes;  // [ladder] of one slot of a row
  double bytes = 0;                     // to spend
  int uniform_entries = 0;              // slots of a row that the bytes would hold unpacked; 0: not known
};
using Bits = std::vector<std::vector<uint8_t>>;  // [row][slot]

class Allocator {
 public:
  virtual ~Allocator() = default;
  virtual bool per_head() const { return false; }  // gives KV heads of a layer different budgets
  // Every budget is in [1, num_tokens]; their sum is at most layers * kv_heads * uniform_entries.
  virtual Budgets Allocate(const AllocationView& view) const;

  // An allocator of bits is asked this instead: at the decision for all layers together, later for one layer.
  virtual bool spends_bits() const { return false; }
  virtual Harm harm() const { return Harm::kNone; }
  // Bits of every slot, 0 evicts; each row keeps at least one. Bytes hold unless that one does not fit.
  virtual Bits Spend(const SpendingView& view) const;
  // Entries of the highest bits that `bytes` will pay for, per row; what a scorer's own window is measured against.
  virtual int ContestedEntries(const PolicyBudget& budget) const { return budget.uniform_entries; }
};

// ---- the full interface ------------------------------------------------------------------------------------------

// What one KV head keeps: slots of its present cache, ascending. Bits go down only, entries never come back.
struct HeadPlan {
  std::vector<int> keep;
  std::vector<uint8_t> bits = {};       // per kept entry; empty: the store's own. ADKVC, MiKV, ZipCache (mixed stores)
  std::vector<float> key_factors = {};  // [head_dim_k] of StoredHead::BalanceKeys, at the decision only; empty: none
  // Merges {from slots -> into slot, weight}: CAM, CCM. Positions keep | reindex: StreamingLLM re-rotated, Finch,
  // InfiniPot. A log-weight per entry: merged entries. Each is added with its first user.
};
using LayerPlan = std::vector<HeadPlan>;  // [kv_head]

// What one step reads.
struct ReadPlan {
  std::vector<std::vector<int>> slots;         // [kv_head], ascending
  std::vector<std::vector<float>> log_weight;  // [kv_head][entry of slots], added to scores (MagicPIG); empty: 0
  // Unit query head (SparQ, MagicPIG), remainder alpha and mean V (SparQ), source layer (TidalDecode): with their
  // users.
};

// The query of a step and what the policy may look at to choose what to read: its own stored keys.
class QueryView {
 public:
  virtual ~QueryView() = default;
  virtual int layer_index() const = 0;
  virtual const ModelShape& shape() const = 0;
  virtual int query_token() const = 0;
  virtual std::span<const int> TokenFromSlot(int kv_head) const = 0;
  // [slots] weights that a full read of the policy's own cache would give.
  virtual std::span<const float> FullWeight(int head) const = 0;
};

class Policy {
 public:
  virtual ~Policy() = default;
  virtual PolicyNeeds Needs(const ModelShape& shape) const = 0;

  // During prefill, after each chunk of a layer: LagKV, InfiniPot, chunked ADKVC.
  virtual void AfterChunk(const LayerView& view, bool last) { (void)view, (void)last; }
  // Statistics of layers <= view.layer_index() are final: CAKE and DynamicKV revise earlier layers here, FastKV and
  // PyramidInfer name the tokens that go on to the next layer.
  virtual void AfterLayer(const LayerView& view) = 0;
  // All layers were seen, and each is in one of the budgets. Afterwards Select is valid. Policies that spend bits
  // answer the entries they will keep.
  virtual Budgets Allocate(const ModelShape& shape, std::span<const PolicyBudget> budgets) = 0;
  // For those who look on: what it ranks the entries of a KV head by; empty: by nothing. Between Allocate and Select,
  // and after an AfterStep that answered a plan: of the slots before that plan.
  virtual std::span<const float> Priority(int layer_index, int kv_head) const {
    (void)layer_index, (void)kv_head;
    return {};
  }
  // After Allocate.
  virtual std::optional<Propagation> Propagates() const { return std::nullopt; }
  virtual LayerPlan Select(int layer_index, const std::vector<int>& budget_entries) = 0;
  // Before a query reads: nullopt reads all. Quest, SparQ, MagicPIG, top_k_oracle.
  virtual bool ChoosesReads() const { return false; }
  virtual std::optional<ReadPlan> BeforeStep(const QueryView& query) {
    (void)query;
    return std::nullopt;
  }
  // When WatchesSteps(): the first `count` slots of a KV head have left the layer's window. Comes before a query.
  virtual void AfterWindow(int layer_index, int kv_head, int count) { (void)layer_index, (void)kv_head, (void)count; }
  // After each query, when WatchesSteps(). A plan changes the cache; nullopt leaves it. budget_entries as in Select.
  virtual bool WatchesSteps() const = 0;
  virtual std::optional<LayerPlan> AfterStep(const StepView& step, const std::vector<int>& budget_entries) = 0;
  virtual std::unique_ptr<Policy> Snapshot() const = 0;  // forks and shared contexts
};

// Guards that the user asks for, applied over any policy; none by default. Above everything a scorer protects itself.
struct Guards {
  int sinks = 0, recent = 0;
  bool Holds(int token, int next_token) const { return token < sinks || token >= next_token - recent; }
  int64_t NumHeld(int first_token, int next_token) const {  // of first_token ... next_token - 1
    return std::min<int64_t>(next_token - first_token, int64_t{std::max(0, sinks - first_token)} + recent);
  }
};
inline float GuardPriority(int token) {
  return 4 * ProtectedPriority(token);
}

// What a budget means once tokens arrive after the decision: they are added and billed, or the cache returns to B at
// every trigger (so it holds up to every - 1 entries more in between).
enum class Growth { kAppend, kFixed };

// Entries that share token / chunk_tokens are ranked together: by their mean (chunk) or their maximum (block).
struct Granularity {
  int chunk_tokens = 1;
  bool ranks_by_max = false;
};

// What a spec says beside the scorer's and the allocator's own parameters.
struct PolicySettings {
  Guards guards = {};
  Growth growth = Growth::kAppend;
  int every = 0;
  Granularity granularity = {};
};

// Declared for later issues. A Variant changes the model (positions, mask, head map, gate): SelfExtend, LongLoRA's
// mask, GQA pooling, cross-layer sharing, Deja Vu. A Ledger is a cost model over the action log: paged allocator,
// chunked prefill, offload tiers, shared contexts.
class Variant;
class Ledger;

}  // namespace kvscope
