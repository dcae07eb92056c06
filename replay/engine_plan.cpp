// SPDX-License-Identifier: Apache-2.0
#include <tbb/parallel_for.h>

#include <algorithm>
#include <map>
#include <tuple>
#include <utility>

#include "core/error.h"
#include "replay/engine.h"

namespace kvscope {
namespace {

constexpr int kLayersAtOnce = 4;  // of the evidence pass: enough for many threads, little memory
constexpr double kHalfBytes = 2;

[[noreturn]] void FailPlan(const Plan& plan, const std::string& what) {
  throw Error(StrCat("policy '", plan.request.spec.text, "': ", what, "; the policy is broken"));
}

void CheckBudgets(const Plan& plan) {
  if (static_cast<int>(plan.budgets.size()) != plan.shape.num_layers) {
    FailPlan(plan, StrCat("expected budgets for ", plan.shape.num_layers, " layers, found ", plan.budgets.size()));
  }
  for (const PolicyBudget& asked : plan.asked) {
    const int most = std::max(asked.num_tokens, asked.uniform_entries);
    int64_t total = 0;
    for (const int layer_index : asked.layers) {
      const std::vector<int>& layer = plan.budgets[layer_index];
      if (static_cast<int>(layer.size()) != plan.shape.num_kv_heads) {
        FailPlan(plan, StrCat("expected budgets for ", plan.shape.num_kv_heads, " KV heads, found ", layer.size()));
      }
      for (const int budget : layer) {
        if (budget < 1 || budget > most) {
          FailPlan(plan, StrCat("expected budgets from 1 to ", most, " entries, found ", budget));
        }
        total += budget;
      }
    }
    const int64_t limit = int64_t{asked.uniform_entries} * asked.num_rows;
    if (plan.SpendsBits() || total <= limit) continue;
    FailPlan(plan, StrCat("expected budgets of at most ", limit, " entries in all, found ", total));
  }
}

void CheckLayer(const Plan& plan, int layer_index) {
  const int num_tokens = plan.request.FirstDecision();
  const LayerPlan& layer = plan.layers[layer_index];
  const Guards& guards = plan.request.guards;
  const int first_token = plan.AskedOf(layer_index).first_token;
  if (static_cast<int>(layer.size()) != plan.shape.num_kv_heads) {
    FailPlan(plan, StrCat("layer index ", layer_index, ": expected a plan for ", plan.shape.num_kv_heads,
                          " KV heads, found ", layer.size()));
  }
  for (int kv_head = 0; kv_head < plan.shape.num_kv_heads; ++kv_head) {
    const std::string where = StrCat("layer index ", layer_index, ", KV head index ", kv_head);
    const std::vector<int>& keep = layer[kv_head].keep;
    CheckHeadPlan(layer[kv_head], num_tokens, *plan.store, {}, plan.request.spec.text, where);
    if (keep[0] < first_token) {
      FailPlan(plan, StrCat(where, ": expected tokens from ", first_token, " on, as its window has left those before, ",
                            "found ", keep[0]));
    }
    const int budget = plan.budgets[layer_index][kv_head];
    if (!plan.policy->ChoosesReads() && static_cast<int>(keep.size()) > budget) {
      FailPlan(plan, StrCat(where, ": expected at most ", budget, " entries, found ", keep.size()));
    }
    if (plan.needs.scope == Scope::kLayer && keep != layer[0].keep) {
      FailPlan(plan, where + ": expected the tokens of KV head index 0, as its scope is the layer");
    }
    int64_t guarded = 0;
    for (const int token : keep) guarded += guards.Holds(token, num_tokens);
    const int64_t expected = guards.NumHeld(first_token, num_tokens);
    if (guarded < expected) {
      FailPlan(plan, StrCat(where, ": expected all ", expected, " guarded entries, found ", guarded));
    }
  }
}

// Of the tokens before a decision, those that the layer has: what the last of them sees.
int TokensOf(const AttentionRule& rule, int decision_token) {
  return decision_token - rule.FirstSeen(decision_token - 1);
}

// What the request gives the policy in some layers, in entries and in bytes, as a share of `whole` tokens.
PolicyBudget BudgetOf(const Plan& plan, std::vector<int> layers, int whole, int num_tokens) {
  const PlanRequest& request = plan.request;
  const ModelShape& shape = plan.shape;
  const double fp16_bytes = (shape.head_dim_k + shape.head_dim_v) * kHalfBytes;
  PolicyBudget budget;
  budget.num_tokens = num_tokens;
  budget.first_token = request.FirstDecision() - num_tokens;
  budget.num_rows = static_cast<int>(layers.size()) * shape.num_kv_heads;
  budget.layers = std::move(layers);
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

std::vector<PolicyBudget> BudgetsOf(const Plan& plan) {
  std::map<std::pair<int, int>, std::vector<int>> layers_from_tokens;
  for (int layer = 0; layer < plan.shape.num_layers; ++layer) {
    const AttentionRule& rule = plan.rules[layer];
    layers_from_tokens[{TokensOf(rule, plan.request.decision_token), TokensOf(rule, plan.request.FirstDecision())}]
        .push_back(layer);
  }
  std::vector<PolicyBudget> budgets;
  for (auto& [tokens, layers] : layers_from_tokens)
    budgets.push_back(BudgetOf(plan, std::move(layers), tokens.first, tokens.second));
  return budgets;
}

// Whether not even one entry per KV head fits, as it comes.
bool IsMinimum(const Plan& plan, const PolicyBudget& asked) {
  if (plan.needs.fixed_rate || plan.request.budget.unit != BudgetSpec::Unit::kFraction) return false;
  return asked.bytes < plan.BytesPerEntry() * asked.num_rows * (1 - 1e-9);
}

double BytesIn(const Plan& plan, std::span<const int> layers) {
  double bytes = 0;
  for (const int layer : layers) {
    for (const HeadPlan& head : plan.layers[layer]) bytes += plan.BytesOf(head);
  }
  return bytes;
}

void CheckBytes(const Plan& plan) {
  for (const PolicyBudget& asked : plan.asked) {
    const double bytes = BytesIn(plan, asked.layers);
    if (bytes <= asked.bytes * (1 + 1e-9) || IsMinimum(plan, asked)) continue;
    FailPlan(plan, StrCat("expected at most ", asked.bytes, " bytes, found ", bytes));
  }
}

}  // namespace

Plan Decide(const SeenPolicy& seen, const BudgetSpec& budget, const std::vector<int>& watched_tokens) {
  Plan plan;
  plan.request = seen.request;
  plan.request.budget = budget;
  plan.needs = seen.needs;
  plan.watched_tokens = watched_tokens;
  plan.shape = seen.shape;
  plan.rules = seen.rules;
  plan.store = seen.request.spec.MakeStore();
  plan.policy = seen.policy->Snapshot();
  plan.asked = BudgetsOf(plan);
  plan.is_minimum = std::ranges::any_of(plan.asked, [&](const auto& asked) { return IsMinimum(plan, asked); });
  plan.budgets = plan.policy->Allocate(plan.shape, plan.asked);
  CheckBudgets(plan);
  std::vector<std::vector<float>> priority(watched_tokens.empty() ? 0 : plan.shape.num_kv_heads);
  for (int layer = 0; layer < plan.shape.num_layers; ++layer) {
    const int first_token = plan.AskedOf(layer).first_token;
    for (size_t kv_head = 0; kv_head < priority.size(); ++kv_head) {
      const std::span<const float> ranked = plan.policy->Priority(layer, static_cast<int>(kv_head));
      priority[kv_head].assign(ranked.begin(), ranked.end());
    }
    plan.layers.push_back(plan.policy->Select(layer, plan.budgets[layer]));
    CheckLayer(plan, layer);
    for (size_t kv_head = 0; kv_head < priority.size(); ++kv_head) {
      for (const int token : watched_tokens) {
        const bool is_there = token < std::ssize(priority[kv_head]) && token >= first_token;
        plan.watched_rank.push_back(is_there ? RankOf(priority[kv_head], token, plan.layers[layer][kv_head].keep)
                                             : std::nullopt);
      }
    }
  }
  if (plan.SpendsBits()) CheckBytes(plan);
  return plan;
}

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

const PolicyBudget& Plan::AskedOf(int layer_index) const {
  return *std::ranges::find_if(
      asked, [&](const PolicyBudget& budget) { return std::ranges::binary_search(budget.layers, layer_index); });
}

CacheRules Plan::RulesOf(int layer_index) const {
  double layer_bytes = 0;
  if (SpendsBits()) {
    const PolicyBudget& budget = AskedOf(layer_index);
    layer_bytes = BytesIn(*this, {&layer_index, 1});
    layer_bytes +=
        std::max(0.0, budget.bytes - BytesIn(*this, budget.layers)) / static_cast<double>(budget.layers.size());
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

std::unique_ptr<LayerCache> Plan::MakeCache(int layer_index) const {
  return std::make_unique<LayerCache>(shape, layer_index, rules.at(layer_index), store, RulesOf(layer_index));
}

double Plan::BytesPerEntry() const {
  return store->BytesPerEntry(shape.head_dim_k, shape.head_dim_v) + needs.state_bytes_per_entry;
}

double Plan::BytesOf(const HeadPlan& head) const {
  double bytes = 0;
  for (const uint8_t bits : head.bits) bytes += asked[0].entry_bytes[bits];  // the same in all
  if (!head.bits.empty()) return bytes;
  const int entries = static_cast<int>(head.keep.size());
  return store->LoadedBytes(entries, shape.head_dim_k, shape.head_dim_v) + entries * needs.state_bytes_per_entry;
}

double Plan::FullBytes() const {
  double tokens = 0;
  for (const AttentionRule& rule : rules) tokens += TokensOf(rule, request.decision_token);
  return kHalfBytes * (shape.head_dim_k + shape.head_dim_v) * shape.num_kv_heads * tokens;
}

std::string WhyRefused(const TraceSource& source, const PlanRequest& request) {
  if (std::string reason = WhyNotReplayable(source); !reason.empty()) return reason;
  const int decision = request.FirstDecision(), num_tokens = NumTokens(source);
  if (decision < 1) return "the trace marks no segment at whose end to decide; use --decide-at prompt";
  if (request.decision_token > num_tokens)
    return StrCat("the trace ends after ", num_tokens, " tokens, before the decision");
  const PolicyNeeds needs = request.spec.Needs(ShapeOf(source.info()));
  for (const LayerInfo& layer : source.info().layers) {
    if (needs.propagates_after < 0 || RuleOf(layer).FirstSeen(request.decision_token - 1) == 0) continue;
    return StrCat("it lets a part of the tokens go on, and layer ", layer.layer, " sees a window of ", layer.window,
                  " tokens: the two together are not known");
  }
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

std::vector<SeenPolicy> ShowTrace(const TraceSource& source, const std::vector<PlanRequest>& requests,
                                  const PlanOptions& options) {
  const ModelShape shape = ShapeOf(source.info());
  std::vector<AttentionRule> rules;
  for (const LayerInfo& layer : source.info().layers) rules.push_back(RuleOf(layer));
  std::vector<std::unique_ptr<Policy>> policies;
  std::vector<SeenPolicy> seen;
  int row_end = options.row_end;
  for (const PlanRequest& request : requests) {
    policies.push_back(request.make_policy ? request.make_policy() : request.spec.MakePolicy(request.guards));
    seen.push_back({request, policies.back()->Needs(shape), shape, rules, nullptr});
    row_end = std::max(row_end, request.decision_token);
  }
  std::vector<LayerEvidence>* const known = options.known;
  if (known && (std::ssize(*known) != shape.num_layers || known->at(0).row_end != row_end)) {
    known->assign(shape.num_layers, {});
    for (LayerEvidence& layer : *known) layer.row_end = row_end;
  }
  Evidence evidence(source, row_end);
  for (const SeenPolicy& one : seen) {
    for (const StatisticSpec& spec : one.needs.statistics) evidence.Add(spec, one.request.FirstDecision());
    if (one.needs.keys || one.needs.values || one.needs.queries) evidence.KeepRows();
  }
  if (options.add_evidence) options.add_evidence(evidence);

  for (int begin = 0; begin < shape.num_layers; begin += kLayersAtOnce) {
    if (options.is_cancelled && *options.is_cancelled) return {};
    const int end = std::min(begin + kLayersAtOnce, shape.num_layers);
    auto layers = evidence.Compute(begin, end,
                                   known ? std::span(*known).subspan(begin, end - begin) : std::span<LayerEvidence>{});
    tbb::parallel_for(size_t{0}, seen.size() + 1, [&](size_t i) {
      for (const LayerEvidence& layer : layers) {
        if (i < seen.size()) {
          policies[i]->AfterLayer(EvidenceView(layer, seen[i].request.FirstDecision(), options.seed));
        } else if (options.see_layer) {
          options.see_layer(layer);
        }
      }
    });
    for (size_t i = 0; known && i < layers.size(); ++i) {
      layers[i].kv_heads.clear();  // large, and read again soon enough
      (*known)[begin + i] = std::move(layers[i]);
    }
  }
  for (size_t i = 0; i < seen.size(); ++i) seen[i].policy = std::move(policies[i]);
  return seen;
}

std::vector<Plan> MakePlans(const TraceSource& source, const std::vector<PlanRequest>& requests,
                            const PlanOptions& options) {
  // Those that differ in the budget only look at the trace once.
  std::map<std::tuple<std::string, int, int, int, int>, size_t> seen_from_key;
  std::vector<PlanRequest> different;
  std::vector<size_t> seen_from_request;
  for (const PlanRequest& request : requests) {
    const auto [found, is_new] =
        seen_from_key.try_emplace({request.spec.text, request.FirstDecision(), request.decision_token,
                                   request.guards.sinks, request.guards.recent},
                                  different.size());
    if (is_new) different.push_back(request);
    seen_from_request.push_back(found->second);
  }
  PlanOptions to_last_decision = options;
  for (const PlanRequest& request : requests)
    to_last_decision.row_end = std::max(to_last_decision.row_end, request.decision_token);
  const std::vector<SeenPolicy> seen = ShowTrace(source, different, to_last_decision);
  if (seen.size() < different.size()) return {};  // cancelled
  std::vector<Plan> plans(requests.size());
  tbb::parallel_for(size_t{0}, requests.size(), [&](size_t i) {
    plans[i] = Decide(seen[seen_from_request[i]], requests[i].budget, options.watched_tokens);
  });
  return plans;
}

}  // namespace kvscope
