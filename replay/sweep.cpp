// SPDX-License-Identifier: Apache-2.0
#include "replay/sweep.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "replay/analysis.h"

namespace kvscope {
namespace {

std::string ClassNote(const PlanRequest& request, const PolicyNeeds& needs, const std::string& mode) {
  std::vector<std::string> notes;
  if (needs.oracle) notes.push_back("sees what no real policy can");
  if (needs.propagates_after >= 0 && mode == "replay") notes.push_back("later layers as of the whole prefill");
  if (request.guards.sinks || request.guards.recent) {
    notes.push_back(StrCat("guards sinks=", request.guards.sinks, ",recent=", request.guards.recent));
  }
  std::string text;
  for (const std::string& note : notes) {
    if (!text.empty()) text += "; ";
    text += note;
  }
  return text;
}

// One row to be: its request, and why it is refused.
struct Cell {
  PlanRequest request;
  Protocol protocol = Protocol::kPrompt;
  std::string refused;
};

std::vector<Cell> MakeCells(const TraceSource& source, const SweepOptions& options) {
  std::vector<Cell> cells;
  for (const Protocol protocol : options.protocols) {
    for (PlanRequest request : options.requests) {
      request.decision_token = DecisionToken(source.info(), protocol);
      cells.push_back({request, protocol, WhyRefused(source, request)});
    }
    if (!options.requests.empty()) continue;
    for (const PolicySpec& spec : ParsePolicies(options)) {
      const bool is_fixed_rate = spec.Needs({1, 1, 1, 16, 16}).fixed_rate;
      for (size_t i = 0; i < (is_fixed_rate ? size_t{1} : options.budgets.size()); ++i) {
        PlanRequest request{spec, is_fixed_rate ? BudgetSpec{} : options.budgets[i], options.guards,
                            DecisionToken(source.info(), protocol)};
        cells.push_back({request, protocol, WhyRefused(source, request)});
      }
    }
  }
  return cells;
}

// The earliest decision of all.
int FirstDecision(const std::vector<PlanRequest>& requests, int prompt_tokens) {
  int first = prompt_tokens;
  for (const PlanRequest& request : requests) first = std::min(first, request.decision_token);
  return first;
}

EvaluateOptions EvaluationOf(const TraceSource& source, const std::vector<int>& needle_tokens) {
  EvaluateOptions options;
  options.needle_tokens = needle_tokens;
  options.answer_begin = source.info().prompt_tokens;
  return options;
}

}  // namespace

std::optional<double> TaskNumber(const TaskInfo& task, const char* name) {
  const auto parameters = nlohmann::json::parse(task.parameters_json, nullptr, /*allow_exceptions=*/false);
  if (!parameters.is_object()) return std::nullopt;
  const auto found = parameters.find(name);
  if (found == parameters.end() || !found->is_number()) return std::nullopt;
  return found->get<double>();
}

std::vector<PolicySpec> ParsePolicies(const SweepOptions& options) {
  std::vector<std::string> texts;
  if (!options.is_bare) texts.push_back("full");
  texts.insert(texts.end(), options.policies.begin(), options.policies.end());
  if (!options.is_bare) texts.insert(texts.end(), {"random", "top_k_oracle"});
  std::vector<PolicySpec> specs;
  for (const std::string& text : texts) {
    const auto same = [&](const PolicySpec& spec) { return spec.text == text; };
    if (std::none_of(specs.begin(), specs.end(), same)) specs.push_back(PolicySpec::Parse(text));
  }
  return specs;
}

ResultRow DescribeRow(const TraceInfo& info, const std::string& path, const PlanRequest& request, Protocol protocol,
                      const std::string& mode, uint64_t seed) {
  const PolicySpec& spec = request.spec;
  const PolicyNeeds needs = spec.Needs({1, 1, 1, 16, 16});
  ResultRow row;
  row.Set("run_id", info.run_id);
  row.Set("trace", path);
  row.Set("model", info.model.name);
  row.Set("mode", mode);
  row.Set("device", "cpu");
  row.Set("task", info.task.name);
  row.Set("context", TaskNumber(info.task, "context").value_or(info.prompt_tokens));
  if (const auto depth = TaskNumber(info.task, "depth_asked")) row.Set("depth", *depth);
  row.Set("protocol", Name(protocol));
  row.Set("policy", spec.text);
  std::string parameters = spec.parameters;
  if (seed != 0) parameters += StrCat(parameters.empty() ? "" : ":", "seed=", seed);
  row.Set("parameters", parameters);
  row.Set("class", spec.kind);
  row.Set("class_note", ClassNote(request, needs, mode));
  row.Set("query_aware", needs.query_aware && (protocol == Protocol::kPrompt || needs.oracle) ? 1.0 : 0.0);
  row.Set("growth", needs.fixed_rate || spec.growth == Growth::kAppend ? "append" : "fixed");
  row.Set("guard_sinks", request.guards.sinks);
  row.Set("guard_recent", request.guards.recent);
  if (!needs.fixed_rate && request.budget.unit == BudgetSpec::Unit::kFraction) {
    row.Set("keep_fraction_asked", request.budget.value);
  }
  if (!needs.fixed_rate && request.budget.unit == BudgetSpec::Unit::kCompressionRatio) {
    row.Set("compression_ratio", request.budget.value);
  }
  row.Set("seed", static_cast<double>(info.task.seed));
  row.Set("version", KVSCOPE_VERSION);
  row.Set("engine_flags", info.model.engine_flags);
  return row;
}

void AddNeedleArrays(const Plan& plan, const std::vector<int>& needle_tokens, std::vector<NamedArray>& arrays) {
  const int64_t num_layers = plan.shape.num_layers, num_kv_heads = plan.shape.num_kv_heads;
  const auto count = static_cast<int64_t>(needle_tokens.size());
  constexpr float kNoValue = std::numeric_limits<float>::quiet_NaN();
  if (count == 0 || plan.request.FirstDecision() < plan.request.decision_token) return;
  const std::vector<std::string> axes{"layer", "kv_head"};
  NamedArray retention{"needle_retention", axes, {num_layers, num_kv_heads}, {}}, bits = retention;
  bits.name = "needle_bits";
  for (int64_t layer = 0; layer < num_layers; ++layer) {
    const int first_token = plan.AskedOf(static_cast<int>(layer)).first_token;
    const std::span<const int> in_window(std::ranges::lower_bound(needle_tokens, first_token), needle_tokens.end());
    const auto size = static_cast<double>(in_window.size());
    for (const HeadPlan& head : plan.layers[layer]) {
      double kept = 0, sum = 0;
      for (const int token : in_window) {
        const auto found = std::lower_bound(head.keep.begin(), head.keep.end(), token);
        if (found == head.keep.end() || *found != token) continue;
        ++kept;
        sum += head.bits.empty() ? plan.store->bits() : head.bits[found - head.keep.begin()];
      }
      retention.values.push_back(size > 0 ? static_cast<float>(kept / size) : kNoValue);
      bits.values.push_back(size > 0 ? static_cast<float>(sum / size) : kNoValue);
    }
  }
  const bool has_retention = std::any_of(arrays.begin(), arrays.end(),
                                         [](const NamedArray& array) { return array.name == "needle_retention"; });
  if (!has_retention) arrays.push_back(std::move(retention));
  arrays.push_back(std::move(bits));
  const auto is_ranked = [](const std::optional<EntryRank>& rank) { return rank.has_value(); };
  if (std::ranges::none_of(plan.watched_rank, is_ranked)) return;
  NamedArray ranks{"needle_rank", {"layer", "kv_head", "needle_token"}, {num_layers, num_kv_heads, count}, {}};
  for (const auto& rank : plan.watched_rank)
    ranks.values.push_back(rank ? static_cast<float>(rank->num_before) : kNoValue);
  arrays.push_back(std::move(ranks));
}

void AddKeptArrays(const Plan& plan, std::vector<NamedArray>& arrays) {
  const int num_tokens = plan.request.decision_token;
  if (plan.request.FirstDecision() < num_tokens) return;  // what the decision left is not known here
  NamedArray kept{
      "kept", {"layer", "kv_head", "token"}, {plan.shape.num_layers, plan.shape.num_kv_heads, num_tokens}, {}};
  kept.values.assign(static_cast<size_t>(plan.shape.num_layers) * plan.shape.num_kv_heads * num_tokens, 0.0f);
  NamedArray bits = kept;
  bits.name = "bits";
  size_t first = 0;
  for (const LayerPlan& layer : plan.layers) {
    for (const HeadPlan& head : layer) {
      for (size_t i = 0; i < head.keep.size(); ++i) {
        kept.values[first + head.keep[i]] = 1.0f;
        if (plan.SpendsBits()) bits.values[first + head.keep[i]] = head.bits[i];
      }
      first += num_tokens;
    }
  }
  arrays.push_back(std::move(kept));
  if (plan.SpendsBits()) arrays.push_back(std::move(bits));
}

void ReplayTrace(const TraceSource& source, const std::string& path, const SweepOptions& options, Results& results) {
  const std::vector<Cell> cells = MakeCells(source, options);
  std::vector<PlanRequest> requests;
  for (const Cell& cell : cells) {
    if (cell.refused.empty()) requests.push_back(cell.request);
  }
  const bool is_replayable = WhyNotReplayable(source).empty();
  const int num_layers = static_cast<int>(source.info().layers.size());
  std::atomic<int> work_done = 0;
  std::mutex progress_mutex;
  const auto advance = [&] {
    const double fraction = ++work_done / (2.0 * std::max(num_layers, 1));
    if (!options.progress) return;
    const std::lock_guard lock(progress_mutex);
    options.progress(std::min(fraction, 1.0));
  };

  std::unique_ptr<Analysis> analysis;
  if (options.analyzes && is_replayable) analysis = std::make_unique<Analysis>(source);
  PlanOptions plan_options;
  plan_options.seed = options.seed;
  plan_options.see_layer = [&](const LayerEvidence& layer) {
    if (analysis) analysis->SeeLayer(layer);
    advance();
  };
  if (analysis) {
    plan_options.row_end = analysis->row_end();
    plan_options.add_evidence = [&](Evidence& evidence) { analysis->AddEvidence(evidence); };
  }
  std::vector<Plan> plans;
  plan_options.watched_tokens = NeedleTokens(source.info(), FirstDecision(requests, source.info().prompt_tokens));
  plan_options.is_cancelled = options.is_cancelled;
  if (is_replayable) plans = MakePlans(source, requests, plan_options);
  const auto is_cancelled = [&] { return options.is_cancelled && *options.is_cancelled; };
  if (is_cancelled()) return;
  EvaluateOptions evaluation = EvaluationOf(source, plan_options.watched_tokens);
  evaluation.layer_done = advance;
  evaluation.is_cancelled = options.is_cancelled;
  const std::vector<PlanMetrics> metrics = Evaluate(source, plans, evaluation);
  if (is_cancelled()) return;

  size_t next = 0;
  for (const Cell& cell : cells) {
    Results::Row& row = results.rows.emplace_back();
    row.figures = DescribeRow(source.info(), path, cell.request, cell.protocol, "replay", options.seed);
    row.figures.Set("refused_reason", cell.refused);
    if (!cell.refused.empty()) continue;
    const Plan& plan = plans[next];
    metrics[next].FillRow(plan.FullBytes(), row.figures, row.arrays);
    if (plan.is_minimum) {
      const std::string note = row.figures.Text("class_note");
      row.figures.Set("class_note", StrCat(note, note.empty() ? "" : "; ", "minimum of one entry per KV head"));
    }
    if (options.keeps_kept) AddKeptArrays(plan, row.arrays);
    AddNeedleArrays(plan, plan_options.watched_tokens, row.arrays);
    ++next;
  }
  if (analysis) {
    if (!metrics.empty()) analysis->SeeNeedleWeights(metrics[0]);
    Results::Trace trace = analysis->Finish(path);
    if (const auto context = TaskNumber(source.info().task, "context")) trace.attributes["context"] = StrCat(*context);
    if (const auto depth = TaskNumber(source.info().task, "depth_asked")) trace.attributes["depth"] = StrCat(*depth);
    results.traces.push_back(std::move(trace));
  }
}

}  // namespace kvscope
