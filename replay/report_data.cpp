// SPDX-License-Identifier: Apache-2.0
#include "replay/report_data.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <set>
#include <tuple>

#include "core/error.h"
#include "replay/chart_axis.h"

namespace kvscope {
namespace {

// full, random, other baselines, oracles, the rest.
int ReferenceRank(const PolicyName& name) {
  if (name.policy == "full") return 0;
  if (name.policy.starts_with("random")) return 1;
  if (name.kind == "oracle" || name.policy.find("oracle") != std::string::npos) return 2;
  return 3;
}

std::string GuardText(const ResultRow& row) {
  const double sinks = row.Number("guard_sinks").value_or(0), recent = row.Number("guard_recent").value_or(0);
  return sinks == 0 && recent == 0 ? "" : StrCat("guards ", sinks, "+", recent);
}

template <typename Value>
void AddOnce(std::vector<Value>& list, const Value& value) {
  if (std::find(list.begin(), list.end(), value) == list.end()) list.push_back(value);
}

void SortBudgets(std::vector<Budget>& budgets) {
  std::stable_sort(budgets.begin(), budgets.end(), [](const Budget& a, const Budget& b) {
    if (a.label.empty() != b.label.empty()) return a.label.empty();
    return a.fraction.value_or(-1) > b.fraction.value_or(-1);
  });
}

void AddRow(ReportData& data, const Results::Row& row, const std::string& label) {
  const ResultRow& figures = row.figures;
  const Budget budget = BudgetOf(figures);
  const std::string mode = figures.Text("mode");
  if (figures.Has("refused_reason")) {
    data.refusals.push_back({label, budget.label, figures.Text("trace"), mode, figures.Text("refused_reason")});
    return;
  }
  const PolicyName name{label, figures.Text("policy"), figures.Text("class")};
  const auto same = [&](const PolicyName& other) { return other.label == label; };
  if (std::none_of(data.policies.begin(), data.policies.end(), same)) data.policies.push_back(name);
  AddOnce(data.budgets, budget);
  if (const auto context = figures.Number("context")) AddOnce(data.contexts, *context);
  if (const auto depth = figures.Number("depth")) AddOnce(data.depths, *depth);
  for (Cell& cell : data.cells) {
    if (cell.label == label && cell.mode == mode && cell.budget == budget) {
      cell.rows.push_back(&row);
      return;
    }
  }
  data.cells.push_back({label, name.policy, name.kind, mode, budget, {&row}});
}

}  // namespace

Budget BudgetOf(const ResultRow& row) {
  if (const auto asked = row.Number("keep_fraction_asked")) return {asked, StrCat(*asked)};
  if (const auto removed = row.Number("compression_ratio")) return {1 - *removed, StrCat("removed ", *removed)};
  if (row.Text("class").starts_with("quanti")) return {std::nullopt, ""};  // packs every entry, whatever the budget
  const auto kept = row.Number("kept_tokens"), context = row.Number("context");
  if (kept && context && *context > 0 && *kept < 0.999 * *context && row.Text("policy") != "full") {
    return {*kept / *context, StrCat(std::lround(*kept), " tokens")};
  }
  return {std::nullopt, ""};
}

std::vector<std::string> PolicyLabels(const std::vector<const ResultRow*>& rows) {
  std::map<std::string, std::tuple<std::set<std::string>, std::set<std::string>, std::set<std::string>>> variants;
  for (const ResultRow* row : rows) {
    auto& [protocols, guards, growths] = variants[row->Text("policy")];
    if (row->Has("protocol")) protocols.insert(row->Text("protocol"));
    guards.insert(GuardText(*row));
    if (row->Has("growth")) growths.insert(row->Text("growth"));
  }
  std::vector<std::string> labels;
  for (const ResultRow* row : rows) {
    const auto& [protocols, guards, growths] = variants[row->Text("policy")];
    std::string label = row->Text("policy");
    if (label.empty()) label = "(unnamed)";
    if (protocols.size() > 1) label += StrCat(" · at ", row->Text("protocol"));
    if (guards.size() > 1 && !GuardText(*row).empty()) label += StrCat(" · ", GuardText(*row));
    if (growths.size() > 1) label += StrCat(" · ", row->Text("growth"));
    labels.push_back(label);
  }
  return labels;
}

std::optional<Pooled> Cell::Pool(std::string_view column) const {
  std::vector<double> values;
  for (const Results::Row* row : rows) {
    if (const auto value = row->figures.Number(column)) values.push_back(*value);
  }
  if (values.empty()) return std::nullopt;
  Pooled pooled;
  pooled.rows = static_cast<int>(values.size());
  for (const double value : values) pooled.mean += value / static_cast<double>(values.size());
  double squares = 0;
  for (const double value : values) squares += (value - pooled.mean) * (value - pooled.mean);
  const auto count = static_cast<double>(values.size());
  if (values.size() > 1) pooled.standard_error = std::sqrt(squares / (count - 1) / count);
  return pooled;
}

std::optional<double> Cell::Mean(std::string_view column) const {
  const auto pooled = Pool(column);
  return pooled ? std::optional<double>(pooled->mean) : std::nullopt;
}

std::optional<Pooled> Cell::PoolFirst(std::initializer_list<std::string_view> columns) const {
  for (const std::string_view column : columns) {
    if (const auto pooled = Pool(column)) return pooled;
  }
  return std::nullopt;
}

bool Cell::ReadsLessThanItHolds() const {
  const auto held = PoolFirst({"kept_bytes_mean", "kept_bytes_prefill"}), read = Pool("read_bytes_step");
  return held && read && read->mean > 0 && read->mean < 0.9 * held->mean;
}

std::optional<double> Cell::Bytes() const {
  if (ReadsLessThanItHolds()) return Mean("read_bytes_step");
  const auto held = PoolFirst({"kept_bytes_mean", "kept_bytes_prefill"});
  return held ? std::optional<double>(held->mean) : std::nullopt;
}

std::optional<Accuracy> Cell::PooledAccuracy() const {
  Accuracy pooled;
  for (const Results::Row* row : rows) {
    const auto value = row->figures.Number("metric_value");
    const double n = row->figures.Number("n").value_or(1);
    if (!value || *value < 0 || *value > 1 || n <= 0) continue;
    pooled.successes += *value * n;
    pooled.n += n;
  }
  if (pooled.n == 0) return std::nullopt;
  pooled.successes = std::min(pooled.successes, pooled.n);
  return pooled;
}

std::optional<NamedArray> Cell::MeanArray(std::string_view name) const {
  std::optional<NamedArray> mean;
  std::vector<int> counts;
  std::vector<double> sums;
  for (const Results::Row* row : rows) {
    const NamedArray* array = row->Find(name);
    if (!array) continue;
    if (!mean) {
      mean = *array;
      counts.assign(array->values.size(), 0);
      sums.assign(array->values.size(), 0);
    }
    if (array->shape != mean->shape) continue;
    for (size_t i = 0; i < array->values.size(); ++i) {
      if (!std::isfinite(array->values[i])) continue;
      sums[i] += array->values[i];
      ++counts[i];
    }
  }
  if (!mean) return std::nullopt;
  for (size_t i = 0; i < sums.size(); ++i) mean->values[i] = counts[i] ? static_cast<float>(sums[i] / counts[i]) : NAN;
  return mean;
}

const Cell* ReportData::Find(std::string_view label, std::string_view mode, const Budget& budget) const {
  for (const Cell& cell : cells) {
    if (cell.label == label && cell.mode == mode && cell.budget == budget) return &cell;
  }
  return nullptr;
}

bool ReportData::HasMode(std::string_view mode) const {
  return std::any_of(cells.begin(), cells.end(), [&](const Cell& cell) { return cell.mode == mode; });
}

bool ReportData::IsReference(const std::string& label) const {
  const auto look = looks.find(label);
  return look != looks.end() && look->second.reference;
}

bool ReportData::ReadsLessThanItHolds(const Cell& cell) const {
  if (cell.Mean("read_bytes_step")) return cell.ReadsLessThanItHolds();
  const Cell* other = Find(cell.label, cell.mode == "live" ? "replay" : "live", cell.budget);
  return other && other->ReadsLessThanItHolds();
}

std::optional<double> ReportData::Bytes(const Cell& cell) const {
  if (!ReadsLessThanItHolds(cell) || cell.Mean("read_bytes_step")) return cell.Bytes();
  return Find(cell.label, cell.mode == "live" ? "replay" : "live", cell.budget)->Bytes();
}

const Cell* ReportData::Full(std::string_view mode) const {
  for (const Cell& cell : cells) {
    if (cell.policy == "full" && cell.mode == mode) return &cell;
  }
  return nullptr;
}

std::vector<ReportData> GatherReportData(const Results& results) {
  std::vector<const Results::Row*> rows;
  for (const Results::Row& row : results.rows) rows.push_back(&row);
  return GatherReportData(rows, results.traces);
}

std::vector<ReportData> GatherReportData(const std::vector<const Results::Row*>& rows,
                                         const std::vector<Results::Trace>& traces) {
  std::vector<const ResultRow*> all_figures;
  for (const Results::Row* row : rows) all_figures.push_back(&row->figures);
  const std::vector<std::string> labels = PolicyLabels(all_figures);
  std::vector<ReportData> groups;
  std::map<std::string, size_t> group_of_run;
  for (size_t i = 0; i < rows.size(); ++i) {
    const ResultRow& figures = rows[i]->figures;
    const std::string model = figures.Text("model"), task = figures.Text("task");
    const auto same = [&](const ReportData& group) { return group.model == model && group.task == task; };
    auto group = std::find_if(groups.begin(), groups.end(), same);
    if (group == groups.end()) {
      groups.emplace_back();
      group = groups.end() - 1;
      group->model = model;
      group->task = task;
    }
    group_of_run[figures.Text("run_id")] = static_cast<size_t>(group - groups.begin());
    AddRow(*group, *rows[i], labels[i]);
  }
  for (const Results::Trace& trace : traces) {
    const auto known = group_of_run.find(trace.run_id);
    if (known != group_of_run.end()) groups[known->second].traces.push_back(&trace);
  }
  for (ReportData& group : groups) {
    std::stable_sort(group.policies.begin(), group.policies.end(),
                     [](const auto& a, const auto& b) { return ReferenceRank(a) < ReferenceRank(b); });
    group.looks = LooksOf(group.policies);
    SortBudgets(group.budgets);
    std::sort(group.contexts.begin(), group.contexts.end());
    std::sort(group.depths.begin(), group.depths.end());
  }
  return groups;
}

std::optional<double> NumberAttribute(const Results::Trace& trace, const std::string& name) {
  const auto found = trace.attributes.find(name);
  if (found == trace.attributes.end()) return std::nullopt;
  char* end = nullptr;
  const double value = std::strtod(found->second.c_str(), &end);
  return end != found->second.c_str() && std::isfinite(value) ? std::optional<double>(value) : std::nullopt;
}

std::optional<RelevanceHistogram> SumRelevance(const std::vector<const Results::Trace*>& traces) {
  std::optional<RelevanceHistogram> sum;
  const auto add = [](const std::vector<float>& counts, std::vector<double>& sums) {
    for (size_t bin = 0; bin < sums.size(); ++bin) {
      if (std::isfinite(counts[bin])) sums[bin] += std::max(0.0f, counts[bin]);
    }
  };
  for (const Results::Trace* trace : traces) {
    const NamedArray *needle = trace->Find("relevance_needle"), *rest = trace->Find("relevance_rest");
    const auto low = NumberAttribute(*trace, "relevance_log10_low"),
               width = NumberAttribute(*trace, "relevance_log10_width");
    if (!needle || !rest || !low || !width || *width <= 0 || needle->values.size() != rest->values.size()) continue;
    const size_t num_bins = needle->values.size();
    if (num_bins == 0) continue;
    if (!sum) {
      const auto name = trace->attributes.find("relevance_statistic");
      sum = {name == trace->attributes.end() ? "relevance" : name->second, *low, *width, std::vector<double>(num_bins),
             std::vector<double>(num_bins)};
    }
    if (sum->needle.size() != num_bins || sum->low != *low || sum->bin_width != *width) continue;
    add(needle->values, sum->needle);
    add(rest->values, sum->rest);
  }
  return sum;
}

std::string CountText(double count) {
  const double rounded = std::round(count * 10) / 10;
  return StrCat(rounded == std::round(rounded) ? std::round(count) : rounded);
}

std::string Listed(const std::vector<std::string>& items) {
  std::string text;
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0) text += i + 1 == items.size() ? " and " : ", ";
    text += items[i];
  }
  return text;
}

}  // namespace kvscope
