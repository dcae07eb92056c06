// SPDX-License-Identifier: Apache-2.0
#include "replay/fidelity.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <random>

#include "core/error.h"
#include "replay/chart_axis.h"
#include "replay/report_data.h"

namespace kvscope {
namespace {

// Ranks from 1; equal values share the mean of their ranks.
std::vector<double> Ranks(std::span<const double> values) {
  std::vector<size_t> order(values.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return values[a] < values[b]; });
  std::vector<double> ranks(values.size());
  for (size_t begin = 0; begin < order.size();) {
    size_t end = begin + 1;
    while (end < order.size() && values[order[end]] == values[order[begin]]) ++end;
    for (size_t i = begin; i < end; ++i) ranks[order[i]] = (static_cast<double>(begin + end) + 1) / 2;
    begin = end;
  }
  return ranks;
}

std::optional<double> Rho(std::span<const double> x, std::span<const double> y) {
  const std::vector<double> rank_x = Ranks(x), rank_y = Ranks(y);
  const double mean = (static_cast<double>(x.size()) + 1) / 2;
  double xy = 0, xx = 0, yy = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    xy += (rank_x[i] - mean) * (rank_y[i] - mean);
    xx += (rank_x[i] - mean) * (rank_x[i] - mean);
    yy += (rank_y[i] - mean) * (rank_y[i] - mean);
  }
  if (xx <= 0 || yy <= 0) return std::nullopt;
  return xy / std::sqrt(xx * yy);
}

// What must agree for a live row to be the confirmation of a replay row: the captured run itself, else the cell of the
// task (a trace is named after it), else the same task, length, depth and seed.
enum class RunKeyKind { kRunId, kCell, kTask };

std::string RunKey(const ResultRow& row, RunKeyKind kind) {
  if (kind == RunKeyKind::kRunId) return row.Text("run_id");
  const auto number = [&](const char* column) { return row.Number(column).value_or(-1); };
  const std::string task = StrCat(row.Text("model"), "|", row.Text("task"), "|", number("context"), "|",
                                  number("depth"), "|", number("seed"));
  if (kind == RunKeyKind::kTask) return task;
  std::string cell = row.Text("trace");
  cell.erase(0, cell.rfind('/') + 1);
  cell.resize(std::min(cell.find(".kvtrace"), cell.size()));
  return cell.empty() ? "" : StrCat(task, "|", cell);
}

std::string PolicyKey(const ResultRow& row, const std::string& label) {
  return StrCat(row.Text("model"), "|", row.Text("task"), "|", label, "|", BudgetOf(row).label);
}

std::optional<double> MeanOf(const std::vector<const ResultRow*>& rows, const char* column) {
  double sum = 0;
  int count = 0;
  for (const ResultRow* row : rows) {
    if (const auto value = row->Number(column)) {
      sum += *value;
      ++count;
    }
  }
  return count ? std::optional<double>(sum / count) : std::nullopt;
}

// All rows of one policy at one budget.
struct Both {
  std::string label;
  std::vector<const Results::Row*> replay, live;
};

const Results::Row* Partner(const Results::Row& row, const std::vector<const Results::Row*>& others) {
  for (const RunKeyKind kind : {RunKeyKind::kRunId, RunKeyKind::kCell, RunKeyKind::kTask}) {
    const std::string key = RunKey(row.figures, kind);
    if (key.empty()) continue;
    for (const Results::Row* other : others) {
      if (RunKey(other->figures, kind) == key) return other;
    }
  }
  return nullptr;
}

FidelityPair PairOf(const Both& both, Fidelity& totals) {
  FidelityPair pair;
  const ResultRow& first = both.replay[0]->figures;
  pair.label = both.label;
  pair.policy = first.Text("policy");
  pair.kind = first.Text("class");
  pair.budget = BudgetOf(first).label;
  std::vector<const ResultRow*> replay_rows, live_rows;
  double jaccard_sum = 0;
  for (const Results::Row* row : both.replay) {
    const Results::Row* live = Partner(*row, both.live);
    if (!live) {
      ++totals.replay_without_live;
      continue;
    }
    ++pair.runs;
    replay_rows.push_back(&row->figures);
    if (std::find(live_rows.begin(), live_rows.end(), &live->figures) == live_rows.end())
      live_rows.push_back(&live->figures);
    const NamedArray *mine = row->Find("kept"), *theirs = live->Find("kept");
    const auto jaccard = mine && theirs ? KeptJaccard(*mine, *theirs) : std::nullopt;
    if (!jaccard) continue;
    ++pair.jaccard_runs;
    jaccard_sum += *jaccard;
    pair.jaccard_lowest = std::min(pair.jaccard_lowest.value_or(1), *jaccard);
  }
  totals.live_without_replay += static_cast<int>(both.live.size() - live_rows.size());
  if (pair.jaccard_runs > 0) pair.jaccard = jaccard_sum / pair.jaccard_runs;
  pair.attention_loss = MeanOf(replay_rows, "attention_loss");
  pair.output_error = MeanOf(replay_rows, "output_error");
  pair.kl = MeanOf(live_rows, "kl");
  pair.answer_nll = MeanOf(live_rows, "answer_nll");
  pair.perplexity = MeanOf(live_rows, "perplexity");
  for (const ResultRow* row : live_rows) {
    const auto value = row->Number("metric_value");
    if (!value || *value < 0 || *value > 1) continue;
    const double n = row->Number("n").value_or(1);
    pair.successes = pair.successes.value_or(0) + *value * n;
    pair.n = pair.n.value_or(0) + n;
  }
  return pair;
}

using Figure = std::pair<const char*, std::optional<double> FidelityPair::*>;

void Correlate(Fidelity& fidelity, const Figure& replay, const Figure& live, const std::string& budget) {
  std::vector<double> x, y;
  for (const FidelityPair& pair : fidelity.pairs) {
    const auto predicted = pair.*replay.second, seen = pair.*live.second;
    if (pair.policy == "full" || !predicted || !seen) continue;
    if (!budget.empty() && pair.budget != budget) continue;
    x.push_back(*predicted);
    y.push_back(*seen);
  }
  if (const auto rank = SpearmanCorrelation(x, y)) {
    fidelity.correlations.push_back({replay.first, live.first, budget, *rank});
  }
}

void CorrelateAll(Fidelity& fidelity, const std::string& budget) {
  const Figure replay_figures[] = {{"attention_loss", &FidelityPair::attention_loss},
                                   {"output_error", &FidelityPair::output_error}};
  const Figure live_figures[] = {{"kl", &FidelityPair::kl}, {"answer_nll", &FidelityPair::answer_nll}};
  for (const Figure& replay : replay_figures) {
    for (const Figure& live : live_figures) Correlate(fidelity, replay, live, budget);
  }
}

}  // namespace

std::optional<double> KeptJaccard(const NamedArray& a, const NamedArray& b) {
  if (a.shape.size() != 3 || b.shape.size() != 3 || a.shape[0] != b.shape[0] || a.shape[1] != b.shape[1])
    return std::nullopt;
  const int64_t tokens = std::min(a.shape[2], b.shape[2]);
  int64_t both = 0, either = 0;
  for (int64_t head = 0; head < a.shape[0] * a.shape[1]; ++head) {
    for (int64_t token = 0; token < tokens; ++token) {
      const bool in_a = a.values[static_cast<size_t>(head * a.shape[2] + token)] > 0.5f;
      const bool in_b = b.values[static_cast<size_t>(head * b.shape[2] + token)] > 0.5f;
      both += in_a && in_b;
      either += in_a || in_b;
    }
  }
  return either == 0 ? 1.0 : static_cast<double>(both) / static_cast<double>(either);
}

std::optional<RankCorrelation> SpearmanCorrelation(std::span<const double> x, std::span<const double> y, uint64_t seed,
                                                   int draws) {
  KVSCOPE_CHECK_EQ(x.size(), y.size());
  if (x.size() < 3) return std::nullopt;
  const auto rho = Rho(x, y);
  if (!rho) return std::nullopt;
  std::mt19937_64 random(seed);
  std::vector<double> sampled, draw_x(x.size()), draw_y(x.size());
  for (int draw = 0; draw < draws; ++draw) {
    for (size_t i = 0; i < x.size(); ++i) {
      const size_t pick = random() % x.size();
      draw_x[i] = x[pick];
      draw_y[i] = y[pick];
    }
    if (const auto value = Rho(draw_x, draw_y)) sampled.push_back(*value);
  }
  RankCorrelation result{*rho, *rho, *rho, static_cast<int>(x.size())};
  if (!sampled.empty()) {
    std::sort(sampled.begin(), sampled.end());
    const auto last = static_cast<double>(sampled.size() - 1);
    result.low = sampled[static_cast<size_t>(std::floor(0.025 * last))];
    result.high = sampled[static_cast<size_t>(std::ceil(0.975 * last))];
  }
  return result;
}

Fidelity CompareFidelity(const Results& replay, const Results& live) {
  std::vector<const Results::Row*> replay_rows, live_rows;
  for (const Results::Row& row : replay.rows) replay_rows.push_back(&row);
  for (const Results::Row& row : live.rows) live_rows.push_back(&row);
  return CompareFidelity(replay_rows, live_rows);
}

Fidelity CompareFidelity(const std::vector<const Results::Row*>& replay, const std::vector<const Results::Row*>& live) {
  std::vector<const ResultRow*> all;
  for (const auto* rows : {&replay, &live}) {
    for (const Results::Row* row : *rows) all.push_back(&row->figures);
  }
  const std::vector<std::string> labels = PolicyLabels(all);
  std::map<std::string, Both> pairs;
  std::vector<std::string> order;
  Fidelity fidelity;
  for (size_t i = 0; i < replay.size(); ++i) {
    const ResultRow& row = replay[i]->figures;
    if (row.Has("refused_reason")) continue;
    const std::string key = PolicyKey(row, labels[i]);
    if (!pairs.count(key)) order.push_back(key);
    pairs[key].label = labels[i];
    pairs[key].replay.push_back(replay[i]);
  }
  for (size_t i = 0; i < live.size(); ++i) {
    const ResultRow& row = live[i]->figures;
    if (row.Has("refused_reason")) continue;
    const auto known = pairs.find(PolicyKey(row, labels[replay.size() + i]));
    if (known == pairs.end()) {
      ++fidelity.live_without_replay;
    } else {
      known->second.live.push_back(live[i]);
    }
  }
  std::vector<std::string> budgets;
  for (const std::string& key : order) {
    const Both& both = pairs[key];
    const FidelityPair pair = PairOf(both, fidelity);
    if (pair.runs == 0) continue;
    if (!pair.budget.empty() && std::find(budgets.begin(), budgets.end(), pair.budget) == budgets.end()) {
      budgets.push_back(pair.budget);
    }
    fidelity.pairs.push_back(pair);
  }
  CorrelateAll(fidelity, "");
  if (budgets.size() > 1) {
    for (const std::string& budget : budgets) CorrelateAll(fidelity, budget);
  }
  return fidelity;
}

}  // namespace kvscope
