// SPDX-License-Identifier: Apache-2.0
#include "viewer/grid_model.h"

#include <algorithm>
#include <filesystem>
#include <set>

#include "core/error.h"
#include "core/probe.h"
#include "core/trace_reader.h"
#include "replay/analysis.h"
#include "replay/report_data.h"
#include "replay/sweep.h"

namespace kvscope {
namespace {

constexpr const char *kFactsSlot = "grid facts", *kReplaySlot = "grid replay";

std::vector<double> Ascending(std::set<double> values) {
  return {values.begin(), values.end()};
}

size_t PlaceOf(double value, const std::vector<double>& values) {
  return static_cast<size_t>(std::ranges::lower_bound(values, value) - values.begin());
}

constexpr size_t kMostCells = 10'000;

std::string NumberField(double value) {
  return std::isfinite(value) ? StrCat(value) : "";
}

// Once each, in order.
void AddOnce(const std::string& path, std::vector<std::string>& paths, std::set<std::string>& known) {
  if (!path.empty() && known.insert(path).second) paths.push_back(path);
}

}  // namespace

double ValueOf(const GridRun& run, GridFigure figure) {
  return figure == GridFigure::kAnswer ? run.answer_score : run.retention;
}

Grid GridOf(const std::vector<GridRun>& runs, GridFigure figure) {
  std::set<double> contexts, depths;
  for (const GridRun& run : runs) contexts.insert(run.context), depths.insert(run.depth);
  Grid grid{Ascending(contexts), Ascending(depths), {}};
  grid.cells.resize(grid.contexts.size() * grid.depths.size());
  for (const GridRun& run : runs) {
    const size_t depth = PlaceOf(run.depth, grid.depths), context = PlaceOf(run.context, grid.contexts);
    grid.cells[depth * grid.contexts.size() + context].runs.push_back(&run);
  }
  const auto rank = [&](const GridRun* run) {
    const double value = ValueOf(*run, figure);
    return std::isnan(value) ? INFINITY : value;
  };
  for (GridCell& cell : grid.cells) {
    std::ranges::stable_sort(cell.runs, {}, rank);
    double sum = 0;
    for (const GridRun* run : cell.runs) {
      const double value = ValueOf(*run, figure);
      if (std::isnan(value)) continue;
      sum += value;
      ++cell.num_values;
    }
    if (cell.num_values > 0) cell.value = sum / cell.num_values;
  }
  return grid;
}

std::string GridCsv(const std::vector<GridRun>& runs) {
  if (runs.empty()) return "";
  std::string table = "context,depth,run_id,trace,answer_score,needle_retention\n";
  for (const GridRun& run : runs) {
    table += StrCat(run.context, ",", run.depth, ",", CsvField(run.run_id), ",", CsvField(run.path), ",",
                    NumberField(run.answer_score), ",", NumberField(run.retention), "\n");
  }
  return table;
}

std::map<std::string, double> RetentionFromRun(const Results& results, const PolicyChoice& choice, Protocol protocol) {
  std::map<std::string, double> retention;
  std::set<std::string> of_replay;
  for (const Results::Row& row : results.rows) {
    const ResultRow& figures = row.figures;
    const auto kept = figures.Number("needle_retention");
    const auto budget = figures.Number("keep_fraction_asked");
    if (!kept || figures.Text("policy") != choice.spec || figures.Text("protocol") != Name(protocol)) continue;
    if (budget && std::fabs(*budget - choice.keep_fraction) > 1e-9) continue;
    // Not another budget by another name; a fixed-rate policy has none.
    if (!budget && (figures.Has("compression_ratio") || !BudgetOf(figures).label.empty())) continue;
    if (figures.Number("guard_sinks").value_or(0) != 0 || figures.Number("guard_recent").value_or(0) != 0) continue;
    const std::string run_id = figures.Text("run_id");
    const bool is_replay = figures.Text("mode") == "replay";
    if (!is_replay && of_replay.contains(run_id)) continue;
    if (is_replay) of_replay.insert(run_id);
    retention[run_id] = *kept;
  }
  return retention;
}

std::optional<double> ReplayRetention(const std::string& trace_path, const PolicyChoice& choice, Protocol protocol,
                                      const std::atomic<bool>& is_cancelled) {
  const PolicySpec spec = PolicySpec::Parse(choice.spec);
  const auto trace = TraceReader::Open(trace_path);
  BudgetSpec budget;
  if (!spec.Needs({1, 1, 1, 16, 16}).fixed_rate) budget.value = choice.keep_fraction;
  const PlanRequest request{spec, budget, {}, DecisionToken(trace->info(), protocol)};
  if (const std::string why = WhyRefused(*trace, request); !why.empty()) throw Error(StrCat(trace_path, ": ", why));
  const std::vector<int> needle = NeedleTokens(trace->info(), request.decision_token);
  if (needle.empty()) throw Error(StrCat(trace_path, ": no needle lies before the decision"));
  PlanOptions options;
  options.watched_tokens = needle;
  options.is_cancelled = &is_cancelled;
  const std::vector<Plan> plans = MakePlans(*trace, {request}, options);
  if (plans.empty()) return std::nullopt;
  std::vector<NamedArray> arrays;
  AddNeedleArrays(plans[0], needle, arrays);
  const auto kept = std::ranges::find(arrays, "needle_retention", &NamedArray::name);
  if (kept == arrays.end())
    throw Error(StrCat(choice.spec, ": it decides during prefill, so what the decision left is not known"));
  double sum = 0, heads = 0;
  for (const float share : kept->values) {
    if (std::isnan(share)) continue;  // the layer's window has left the needle
    sum += share, ++heads;
  }
  if (heads == 0) throw Error(StrCat(trace_path, ": every layer's window has left the needle before the decision"));
  return sum / heads;
}

GridModel::Facts GridModel::ReadFacts(const std::string& path, bool must_exist) {
  Facts facts;
  std::error_code ignored;
  if (!must_exist && !std::filesystem::is_regular_file(path, ignored)) {
    facts.is_missing = true;
    return facts;
  }
  try {
    ProbeTraceInChild(path);
    const auto trace = TraceReader::Open(path);
    const TraceInfo& info = trace->info();
    const auto depth = TaskNumber(info.task, "depth_asked");
    facts.has_needle = depth && std::isfinite(*depth);
    if (!facts.has_needle) return facts;
    facts.run = {.run_id = info.run_id,
                 .path = path,
                 .context = TaskNumber(info.task, "context").value_or(info.prompt_tokens),
                 .depth = *depth,
                 .answer_score = std::isfinite(trace->answer().score) ? trace->answer().score : NAN};
  } catch (const Error& error) {
    facts.failure = error.what();
  }
  return facts;
}

void GridModel::Update(const std::vector<std::string>& traces, const ResultsList& results, const ViewState& view,
                       GridFigure figure, Jobs& jobs) {
  Inputs inputs{.traces = traces,
                .results = results,
                .figure = figure,
                .choice = {},
                .protocol = view.protocol,
                .facts = facts_from_path_.size(),
                .replays = replayed_.size()};
  if (view.policy_index >= 0 && view.policy_index < static_cast<int>(view.policies.size()))
    inputs.choice = view.policies[view.policy_index];
  if (inputs != inputs_) {
    inputs_ = std::move(inputs);
    Gather();
  }
  ReadNext(jobs);
  ReplayNext(jobs);
}

GridModel::ReplayKey GridModel::KeyOf(const std::string& path) const {
  return {path, inputs_.choice.spec, inputs_.choice.keep_fraction, inputs_.protocol};
}

// Runs that results know, and the traces that they name.
void GridModel::AddResultRuns(std::map<std::string, size_t>& index_from_run) {
  for (const auto& results : inputs_.results) {
    for (const Results::Row& row : results->rows) {
      const ResultRow& figures = row.figures;
      const auto context = figures.Number("context"), depth = figures.Number("depth");
      const std::string run_id = figures.Text("run_id");
      if (!context || !depth || run_id.empty()) continue;
      const auto [place, is_new] = index_from_run.emplace(run_id, runs_.size());
      if (is_new) runs_.push_back({.run_id = run_id, .path = "", .context = *context, .depth = *depth});
      // Whoever runs the model with the full cache gets the recorded answer again.
      GridRun& run = runs_[place->second];
      const auto score = figures.Number("metric_value");
      if (score && std::isnan(run.answer_score) && figures.Text("policy") == "full") run.answer_score = *score;
    }
  }
}

void GridModel::Gather() {
  paths_.clear();
  std::set<std::string> known;
  for (const std::string& path : inputs_.traces) AddOnce(path, paths_, known);
  for (const auto& results : inputs_.results) {
    for (const Results::Row& row : results->rows) {
      if (row.figures.Has("depth")) AddOnce(row.figures.Text("trace"), paths_, known);
    }
  }
  runs_.clear(), failures_.clear();
  num_without_needle_ = 0;
  reading_ = {0, paths_.size()}, replaying_ = {};
  std::map<std::string, size_t> index_from_run;
  for (const std::string& path : paths_) {
    const auto facts = facts_from_path_.find(path);
    if (facts == facts_from_path_.end()) continue;
    ++reading_.done;
    if (!facts->second.failure.empty()) failures_.push_back(facts->second.failure);
    if (facts->second.is_missing || !facts->second.failure.empty()) continue;
    num_without_needle_ += !facts->second.has_needle;
    const std::string& run_id = facts->second.run.run_id;
    if (facts->second.has_needle && index_from_run.emplace(run_id.empty() ? path : run_id, runs_.size()).second)
      runs_.push_back(facts->second.run);
  }
  AddResultRuns(index_from_run);
  if (inputs_.figure == GridFigure::kRetention && !inputs_.choice.spec.empty()) {
    std::map<std::string, double> retention;
    for (const auto& results : inputs_.results)
      retention.merge(RetentionFromRun(*results, inputs_.choice, inputs_.protocol));
    for (GridRun& run : runs_) {
      if (const auto said = retention.find(run.run_id); said != retention.end()) run.retention = said->second;
      if (!std::isnan(run.retention) || run.path.empty()) continue;
      ++replaying_.all;
      const auto replayed = replayed_.find(KeyOf(run.path));
      if (replayed == replayed_.end()) continue;
      ++replaying_.done;
      run.retention = replayed->second.retention;
      if (!replayed->second.failure.empty()) failures_.push_back(replayed->second.failure);
    }
  }
  std::set<double> contexts, depths;
  for (const GridRun& run : runs_) contexts.insert(run.context), depths.insert(run.depth);
  if (contexts.size() * depths.size() > kMostCells) {
    failures_.push_back(StrCat("expected at most ", kMostCells, " cells, found ", contexts.size(), " contexts by ",
                               depths.size(), " depths; open fewer runs"));
    runs_.clear();
  }
  grid_ = GridOf(runs_, inputs_.figure);
}

void GridModel::ReadNext(Jobs& jobs) {
  if (reading_.done == reading_.all || jobs.IsBusy(kFactsSlot)) return;
  const auto is_unread = [&](const std::string& path) { return !facts_from_path_.contains(path); };
  const auto next = std::ranges::find_if(paths_, is_unread);
  if (next == paths_.end()) return;
  const bool must_exist = next - paths_.begin() < static_cast<std::ptrdiff_t>(inputs_.traces.size());
  jobs.Start(kFactsSlot, [this, path = *next, must_exist](const std::atomic<bool>&) -> Jobs::Finish {
    const auto facts = std::make_shared<Facts>(ReadFacts(path, must_exist));
    return [this, path, facts] { facts_from_path_[path] = *facts; };
  });
}

// Once all traces are known, so that the first cells do not wait behind a long list.
void GridModel::ReplayNext(Jobs& jobs) {
  const bool is_wanted = inputs_.figure == GridFigure::kRetention && reading_.done == reading_.all;
  if (running_ && (!is_wanted || KeyOf(std::get<0>(*running_)) != *running_)) {
    jobs.Cancel(kReplaySlot);
    running_.reset();
  }
  if (!is_wanted || running_ || replaying_.done == replaying_.all) return;
  const auto is_next = [&](const GridRun& run) {
    return std::isnan(run.retention) && !run.path.empty() && !replayed_.contains(KeyOf(run.path));
  };
  const auto next = std::ranges::find_if(runs_, is_next);
  if (next == runs_.end()) return;
  running_ = KeyOf(next->path);
  jobs.Start(kReplaySlot,
             [this, key = *running_, choice = inputs_.choice](const std::atomic<bool>& is_cancelled) -> Jobs::Finish {
               auto replayed = std::make_shared<Replayed>();
               try {
                 replayed->retention =
                     ReplayRetention(std::get<0>(key), choice, std::get<3>(key), is_cancelled).value_or(NAN);
               } catch (const Error& error) {
                 replayed->failure = error.what();
               }
               return [this, key, replayed] {
                 replayed_[key] = *replayed;
                 running_.reset();
               };
             });
}

}  // namespace kvscope
