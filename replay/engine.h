// SPDX-License-Identifier: Apache-2.0
// Passes 2 and 3 of replay. Plan: every (policy, budget) decides on the evidence of a trace; the engine checks each
// answer. Evaluate: later queries attend over what each plan kept, beside the full cache, whose weights are computed
// once and shared by all plans. Live plans through the same function and makes its caches from the same plans.
#pragma once

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/trace.h"
#include "replay/evidence.h"
#include "replay/full_rows.h"
#include "replay/layer_cache.h"
#include "replay/metrics.h"
#include "replay/policy_spec.h"

namespace kvscope {

// Where a policy decides: after the prompt, or at the end of the last segment marked decide_at.
enum class Protocol { kPrompt, kContext };
std::string_view Name(Protocol protocol);  // "prompt", "context"
// The token before which a protocol decides, or -1 when the trace marks none.
int DecisionToken(const TraceInfo& info, Protocol protocol);

struct PlanRequest {
  PolicySpec spec;
  BudgetSpec budget;
  Guards guards;
  int decision_token = 0;  // the budget is a share of what comes before it; what comes after is measured
  std::function<std::unique_ptr<Policy>()> make_policy{};  // instead of the spec's own, for tests
  // The token before which the policy decides first: earlier than decision_token with prefill_chunk.
  int FirstDecision() const {
    return spec.prefill_chunk > 0 ? std::min(spec.prefill_chunk, decision_token) : decision_token;
  }
};

// What one policy decided at one budget.
struct Plan {
  PlanRequest request;
  PolicyNeeds needs;
  ModelShape shape;
  std::vector<AttentionRule> rules;  // [layer]
  std::shared_ptr<const Store> store;
  std::unique_ptr<Policy> policy;   // ready for BeforeStep and AfterStep
  std::vector<PolicyBudget> asked;  // one for all layers that have the same tokens
  bool is_minimum = false;          // some budget gave less than one entry per KV head
  Budgets budgets;                  // [layer][kv_head] entries
  std::vector<LayerPlan> layers;    // [layer], slots are tokens
  std::vector<int> watched_tokens;  // ascending
  // [layer, kv_head, watched token] where the decision found it; absent: it was not there yet, or nothing is ranked.
  std::vector<std::optional<EntryRank>> watched_rank;

  const PolicyBudget& AskedOf(int layer_index) const;
  CacheRules RulesOf(int layer_index) const;
  std::unique_ptr<LayerCache> MakeCache(int layer_index) const;
  double BytesPerEntry() const;                // store and state, of a new entry
  double BytesOf(const HeadPlan& head) const;  // right after it was loaded, state included
  bool SpendsBits() const { return needs.spends_bits; }
  double FullBytes() const;  // fp16 cache of everything before the decision that a layer's window still holds
};

struct PlanOptions {
  uint64_t seed = 0;
  // Analysis looks over the planner's shoulder: what it adds to the pass, and each layer's result, in order.
  std::function<void(Evidence&)> add_evidence;
  std::function<void(const LayerEvidence&)> see_layer;
  int row_end = 0;                       // of the pass when above every decision
  std::vector<int> watched_tokens = {};  // whose ranks are kept: the needle's
  // [layer] statistics of earlier passes over the same rows: not computed again, and what is computed is added.
  std::vector<LayerEvidence>* known = nullptr;
  const std::atomic<bool>* is_cancelled = nullptr;  // looked at between layers; then nothing was seen or planned
};

// A policy that has seen everything before its decision; it decides at any budget without another pass.
struct SeenPolicy {
  PlanRequest request;  // of no budget in particular
  PolicyNeeds needs;
  ModelShape shape;
  std::vector<AttentionRule> rules;  // [layer]
  std::shared_ptr<const Policy> policy;
};
std::vector<SeenPolicy> ShowTrace(const TraceSource& source, const std::vector<PlanRequest>& requests,
                                  const PlanOptions& options);
Plan Decide(const SeenPolicy& seen, const BudgetSpec& budget, const std::vector<int>& watched_tokens);

// Both at once, for many. Requests that differ in the budget only share the work before it. All three throw Error for a
// policy that breaks a rule (named), guards above a budget, a trace that cannot be read.
std::vector<Plan> MakePlans(const TraceSource& source, const std::vector<PlanRequest>& requests,
                            const PlanOptions& options);
// Empty, or why this request cannot be run on this trace.
std::string WhyRefused(const TraceSource& source, const PlanRequest& request);

// One query of one KV head under one plan, for tests and the curious.
struct QueryDetail {
  size_t plan = 0;
  int layer_index = 0, kv_head = 0, query_token = 0;
  int entries = 0;                      // seen by the query
  std::span<const float> full_weights;  // [group, stride]
  int64_t stride = 0;
  std::span<const double> kept_mass;  // [group] full weight on the entries seen
};

struct EvaluateOptions {
  int top_k = 64;
  std::vector<int> needle_tokens;                     // ascending, before every decision
  int answer_begin = 0;                               // queries from here on count for the needle
  std::function<void(const QueryDetail&)> see_query;  // called from several threads
  // Changes that a query made to the cache of a layer, called from several threads; one layer's in order.
  std::function<void(size_t plan, std::span<const CacheAction> actions)> see_actions;
  std::function<void()> layer_done;                 // for a progress bar
  FullRowsCache* full_rows = nullptr;               // kept over calls on one trace
  const std::atomic<bool>* is_cancelled = nullptr;  // when it becomes true, layers not begun yet stay empty
};

// Metrics of every plan over the queries from its decision to the end of the trace.
//
// Memory: per thread, K and V of one layer, the evaluated rows of q, at most 64 MiB of full weights and one layer's
// cache of every plan. Results do not depend on threads.
std::vector<PlanMetrics> Evaluate(const TraceSource& source, std::span<const Plan> plans,
                                  const EvaluateOptions& options);

}  // namespace kvscope
