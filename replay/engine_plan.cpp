// SPDX-License-Identifier: Apache-2.0
#include <tbb/parallel_for.h>

#include <algorithm>
#include <map>
#include <tuple>

#include "core/error.h"
#include "replay/engine.h"

namespace kvscope {
namespace {

constexpr int kLayersAtOnce = 4;  // of the evidence pass: enough for many threads, little memory
constexpr double kHalfBytes = 2;

// Requests that differ in the budget only.
struct Group {
  std::vector<size_t> requests;
  std::unique_ptr<Policy> policy;
  PolicyNeeds needs;
};

std::vector<Group> GroupRequests(const std::vector<PlanRequest>& requests, const ModelShape& shape) {
  std::map<std::tuple<std::string, int, int, int>, size_t> group_from_key;
  std::vector<Group> groups;
  for (size_t i = 0; i < requests.size(); ++i) {
    const PlanRequest& request = requests[i];
    const auto [found, is_new] = group_from_key.try_emplace(
        {request.spec.text, request.FirstDecision(), request.guards.sinks, request.guards.recent}, groups.size());
    if (is_new) {
      groups.push_back({{}, request.make_policy ? request.make_policy() : request.spec.MakePolicy(request.guards), {}});
      groups.back().needs = groups.back().policy->Needs(shape);
    }
    groups[found->second].requests.push_back(i);
  }
  return groups;
}

[[noreturn]] void FailPlan(const Plan& plan, const std::string& what) {
  throw Error(StrCat("policy '", plan.request.spec.text, "': ", what, "; the policy is broken"));
}

void CheckBudgets(const Plan& plan) {
  const int num_tokens = std::max(plan.request.FirstDecision(), plan.budget.uniform_entries);
  if (static_cast<int>(plan.budgets.size()) != plan.shape.num_layers) {
    FailPlan(plan, StrCat("expected budgets for ", plan.shape.num_layers, " layers, found ", plan.budgets.size()));
  }
  int64_t total = 0;
  for (const std::vector<int>& layer : plan.budgets) {
    if (static_cast<int>(layer.size()) != plan.shape.num_kv_heads) {
      FailPlan(plan, StrCat("expected budgets for ", plan.shape.num_kv_heads, " KV heads, found ", layer.size()));
    }
    for (const int budget : layer) {
      if (budget < 1 || budget > num_tokens) {
        FailPlan(plan, StrCat("expected budgets from 1 to ", num_tokens, " entries, found ", budget));
      }
      total += budget;
    }
  }
  if (plan.SpendsBits()) return;
  const int64_t limit = int64_t{plan.budget.uniform_entries} * plan.shape.num_layers * plan.shape.num_kv_heads;
  if (total > limit) FailPlan(plan, StrCat("expected budgets of at most ", limit, " entries in all, found ", total));
}

void CheckLayer(const Plan& plan, int layer_index) {
  const int num_tokens = plan.request.FirstDecision();
  const LayerPlan& layer = plan.layers[layer_index];
  const Guards& guards = plan.request.guards;
  if (static_cast<int>(layer.size()) != plan.shape.num_kv_heads) {
    FailPlan(plan, StrCat("layer index ", layer_index, ": expected a plan for ", plan.shape.num_kv_heads,
                          " KV heads, found ", layer.size()));
  }
  for (int kv_head = 0; kv_head < plan.shape.num_kv_heads; ++kv_head) {
    const std::string where = StrCat("layer index ", layer_index, ", KV head index ", kv_head);
    const std::vector<int>& keep = layer[kv_head].keep;
    CheckHeadPlan(layer[kv_head], num_tokens, *plan.store, {}, plan.request.spec.text, where);
    const int budget = plan.budgets[layer_index][kv_head];
    if (!plan.policy->ChoosesReads() && static_cast<int>(keep.size()) > budget) {
      FailPlan(plan, StrCat(where, ": expected at most ", budget, " entries, found ", keep.size()));
    }
    if (plan.needs.scope == Scope::kLayer && keep != layer[0].keep) {
      FailPlan(plan, where + ": expected the tokens of KV head index 0, as its scope is the layer");
    }
    int64_t guarded = 0;
    for (const int token : keep) guarded += guards.Holds(token, num_tokens);
    const int64_t expected = std::min<int64_t>(num_tokens, int64_t{guards.sinks} + guards.recent);
    if (guarded < expected) {
      FailPlan(plan, StrCat(where, ": expected all ", expected, " guarded entries, found ", guarded));
    }
  }
}

// What the request gives the policy, in entries and in bytes.
PolicyBudget BudgetOf(const Plan& plan) {
  const PlanRequest& request = plan.request;
  const ModelShape& shape = plan.shape;
  const int whole = request.decision_token;
  const double fp16_bytes = (shape.head_dim_k + shape.head_dim_v) * kHalfBytes;
  PolicyBudget budget;
  budget.num_tokens = request.FirstDecision();
  budget.num_rows = shape.num_layers * shape.num_kv_heads;
  for (const uint8_t bits : plan.store->ladder()) {
    budget.entry_bytes[bits] =
        plan.store->BytesPerEntry(shape.head_dim_k, shape.head_dim_v, bits) + plan.needs.state_bytes_per_entry;
  }
  budget.uniform_entries = whole;
  if (plan.needs.fixed_rate) return budget;
  budget.uniform_entries = request.budget.Entries(whole, fp16_bytes, plan.BytesPerEntry());
  double head_bytes = budget.uniform_entries * plan.BytesPerEntry();
  if (request.budget.unit == BudgetSpec::Unit::kFraction) {
    head_bytes = request.budget.value * whole * fp16_bytes;
    // A store whose groups are not full yet takes more than its entries' share.
    const auto loaded = [&](int entries) {
      return plan.store->LoadedBytes(entries, shape.head_dim_k, shape.head_dim_v) +
             entries * plan.needs.state_bytes_per_entry;
    };
    int& entries = budget.uniform_entries;
    while (plan.store->groups_tokens() && entries > 1 && loaded(entries) > head_bytes) --entries;
  }
  budget.bytes = head_bytes * budget.num_rows;
  return budget;
}

// Whether not even one entry per KV head fits, as it comes.
bool IsMinimum(const Plan& plan) {
  if (plan.needs.fixed_rate || plan.request.budget.unit != BudgetSpec::Unit::kFraction) return false;
  return plan.budget.bytes < plan.BytesPerEntry() * plan.shape.num_layers * plan.shape.num_kv_heads * (1 - 1e-9);
}

void CheckBytes(const Plan& plan) {
  double bytes = 0;
  for (const LayerPlan& layer : plan.layers) {
    for (const HeadPlan& head : layer) bytes += plan.BytesOf(head);
  }
  if (bytes <= plan.budget.bytes * (1 + 1e-9) || plan.is_minimum) return;
  FailPlan(plan, StrCat("expected at most ", plan.budget.bytes, " bytes, found ", bytes));
}

// Ties: the lower token comes first.
std::vector<float> RanksOf(const Plan& plan, const std::vector<int>& tokens) {
  std::vector<float> ranks;
  for (int layer = 0; layer < plan.shape.num_layers; ++layer) {
    for (int kv_head = 0; kv_head < plan.shape.num_kv_heads; ++kv_head) {
      const std::span<const float> priority = plan.policy->Priority(layer, kv_head);
      if (priority.empty()) return {};
      for (const int token : tokens) {
        const float own = token < std::ssize(priority) ? priority[token] : 0;
        int before = 0;
        for (int other = 0; other < std::ssize(priority); ++other) {
          before += priority[other] > own || (priority[other] == own && other < token);
        }
        ranks.push_back(static_cast<float>(before));
      }
    }
  }
  return ranks;
}

Plan Decide(const PlanRequest& request, const Group& group, const ModelShape& shape,
            const std::vector<int>& watched_tokens) {
  Plan plan;
  plan.request = request;
  plan.needs = group.needs;
  plan.shape = shape;
  plan.store = request.spec.MakeStore();
  plan.policy = group.policy->Snapshot();
  plan.budget = BudgetOf(plan);
  plan.is_minimum = IsMinimum(plan);
  plan.budgets = plan.policy->Allocate(shape, plan.budget);
  CheckBudgets(plan);
  plan.watched_rank = RanksOf(plan, watched_tokens);
  for (int layer = 0; layer < shape.num_layers; ++layer) {
    plan.layers.push_back(plan.policy->Select(layer, plan.budgets[layer]));
    CheckLayer(plan, layer);
  }
  if (plan.SpendsBits()) CheckBytes(plan);
  return plan;
}

}  // namespace

std::string_view Name(Protocol protocol) {
  return protocol == Protocol::kPrompt ? "prompt" : "context";
}

int DecisionToken(const TraceInfo& info, Protocol protocol) {
  if (protocol == Protocol::kPrompt) return info.prompt_tokens;
  int token = -1;
  for (const Segment& segment : info.segments) {
    if (segment.decide_at && segment.token_end >= 1) token = segment.token_end;
  }
  return token;
}

CacheRules Plan::RulesOf(int layer_index) const {
  double layer_bytes = 0;
  if (SpendsBits()) {
    double spent = 0;
    for (size_t layer = 0; layer < layers.size(); ++layer) {
      for (const HeadPlan& head : layers[layer]) {
        spent += BytesOf(head);
        if (static_cast<int>(layer) == layer_index) layer_bytes += BytesOf(head);
      }
    }
    layer_bytes += std::max(0.0, budget.bytes - spent) / shape.num_layers;
  }
  return {.policy = request.spec.text,
          .decision_token = request.FirstDecision(),
          .budget_entries = budgets.at(layer_index),
          .budget_bytes = layer_bytes,
          .growth = needs.fixed_rate ? Growth::kAppend : request.spec.growth,
          .every = request.spec.every,
          .chooses_reads = policy->ChoosesReads(),
          .guards = request.guards,
          .state_bytes_per_entry = needs.state_bytes_per_entry};
}

std::unique_ptr<LayerCache> Plan::MakeCache(int layer_index, float scale) const {
  return std::make_unique<LayerCache>(shape, layer_index, scale, store, RulesOf(layer_index));
}

double Plan::BytesPerEntry() const {
  return store->BytesPerEntry(shape.head_dim_k, shape.head_dim_v) + needs.state_bytes_per_entry;
}

double Plan::BytesOf(const HeadPlan& head) const {
  double bytes = 0;
  for (const uint8_t bits : head.bits) bytes += budget.entry_bytes[bits];
  if (!head.bits.empty()) return bytes;
  const int entries = static_cast<int>(head.keep.size());
  return store->LoadedBytes(entries, shape.head_dim_k, shape.head_dim_v) + entries * needs.state_bytes_per_entry;
}

double Plan::FullBytes() const {
  return kHalfBytes * (shape.head_dim_k + shape.head_dim_v) * shape.num_layers * shape.num_kv_heads *
         request.decision_token;
}

std::string WhyRefused(const TraceSource& source, const PlanRequest& request) {
  if (std::string reason = WhyNotReplayable(source); !reason.empty()) return reason;
  const int decision = request.FirstDecision(), num_tokens = NumTokens(source);
  if (decision < 1) return "the trace marks no segment at whose end to decide; use --decide-at prompt";
  if (request.decision_token > num_tokens)
    return StrCat("the trace ends after ", num_tokens, " tokens, before the decision");
  const PolicyNeeds needs = request.spec.Needs(ShapeOf(source.info()));
  if (needs.queries) {  // those that are stored stand for all, but there must be some
    const std::string reason = WhyRowsAreMissing(source, std::max(0, decision - 1), decision);
    if (!reason.empty()) return "the size of queries " + reason;
  }
  for (const StatisticSpec& spec : needs.statistics) {
    const int begin = spec.last_rows > 0 ? std::max(0, decision - spec.last_rows) : 0;
    const std::string reason = WhyRowsAreMissing(source, begin, decision);
    if (!reason.empty()) return StrCat("statistic ", ToString(spec), " ", reason);
  }
  if (std::string reason = WhyRowsAreMissing(source, decision, num_tokens); !reason.empty()) {
    return "evaluation " + reason;
  }
  return "";
}

std::vector<Plan> MakePlans(const TraceSource& source, const std::vector<PlanRequest>& requests,
                            const PlanOptions& options) {
  const ModelShape shape = ShapeOf(source.info());
  std::vector<Group> groups = GroupRequests(requests, shape);
  int row_end = options.row_end;
  for (const PlanRequest& request : requests) row_end = std::max(row_end, request.decision_token);
  Evidence evidence(source, row_end);
  for (const Group& group : groups) {
    for (const StatisticSpec& spec : group.needs.statistics) {
      evidence.Add(spec, requests[group.requests[0]].FirstDecision());
    }
    if (group.needs.keys || group.needs.values || group.needs.queries) evidence.KeepRows();
  }
  if (options.add_evidence) options.add_evidence(evidence);

  for (int begin = 0; begin < shape.num_layers; begin += kLayersAtOnce) {
    const auto layers = evidence.Compute(begin, std::min(begin + kLayersAtOnce, shape.num_layers));
    tbb::parallel_for(size_t{0}, groups.size() + 1, [&](size_t i) {
      for (const LayerEvidence& layer : layers) {
        if (i < groups.size()) {
          groups[i].policy->AfterLayer(
              EvidenceView(layer, requests[groups[i].requests[0]].FirstDecision(), options.seed));
        } else if (options.see_layer) {
          options.see_layer(layer);
        }
      }
    });
  }

  std::vector<Plan> plans(requests.size());
  std::vector<size_t> group_from_request(requests.size());
  for (size_t group = 0; group < groups.size(); ++group) {
    for (const size_t request : groups[group].requests) group_from_request[request] = group;
  }
  tbb::parallel_for(size_t{0}, requests.size(), [&](size_t i) {
    plans[i] = Decide(requests[i], groups[group_from_request[i]], shape, options.watched_tokens);
  });
  return plans;
}

}  // namespace kvscope
