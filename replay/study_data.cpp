// SPDX-License-Identifier: Apache-2.0
#include "replay/study_data.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <tuple>

#include "core/error.h"
#include "replay/chart_axis.h"

namespace kvscope {
namespace {

// Bytes of rounding to whole entries.
constexpr double kSameSize = 1e-3;

bool IsAsked(const Cell& cell) {
  return cell.budget.fraction.has_value();
}

StudyTable TableOf(ReportData data) {
  StudyTable table;
  table.data = std::move(data);
  for (const Budget& budget : table.data.budgets) {
    if (budget.fraction) table.fractions.push_back(*budget.fraction);
  }
  std::sort(table.fractions.rbegin(), table.fractions.rend());
  return table;
}

size_t RowCount(const ReportData& data) {
  size_t count = 0;
  for (const Cell& cell : data.cells) count += cell.rows.size();
  return count;
}

}  // namespace

const StudyArm* Study::Find(std::string_view name) const {
  const auto found = std::find_if(arms.begin(), arms.end(), [&](const StudyArm& arm) { return arm.name == name; });
  return found == arms.end() ? nullptr : &*found;
}

std::string StudyTable::Title() const {
  std::vector<std::string> parts;
  if (!text.empty()) parts.push_back(text);
  if (context > 0) parts.push_back(FixedText(context, 0) + " tokens");
  if (protocol == "prompt") parts.push_back("decided after the question");
  if (protocol == "context") parts.push_back("decided before the question");
  if (!protocol.empty() && protocol != "prompt" && protocol != "context") parts.push_back("protocol " + protocol);
  std::string title;
  for (const std::string& part : parts) title += (title.empty() ? "" : ", ") + part;
  return title;
}

const Cell* StudyTable::Fixed(const std::string& label, std::string_view mode) const {
  for (const Cell& cell : data.cells) {
    if (cell.label == label && cell.mode == mode && !IsAsked(cell)) return &cell;
  }
  return nullptr;
}

const Cell* StudyTable::At(const std::string& label, double fraction, std::string_view mode) const {
  for (const Cell& cell : data.cells) {
    if (cell.label == label && cell.mode == mode && IsAsked(cell) && std::fabs(*cell.budget.fraction - fraction) < 1e-9)
      return &cell;
  }
  const Cell* fixed = Fixed(label, mode);
  const auto size = fixed ? fixed->Mean("kept_fraction") : std::nullopt;
  return size && *size <= fraction + kSameSize ? fixed : nullptr;
}

std::vector<std::string> StudyTable::Labels(std::string_view policy) const {
  std::vector<std::string> labels;
  for (const PolicyName& name : data.policies) {
    if (name.policy == policy) labels.push_back(name.label);
  }
  // The one without guards first.
  std::stable_sort(labels.begin(), labels.end(), [](const auto& a, const auto& b) { return a.size() < b.size(); });
  return labels;
}

std::string StudyTable::LabelOf(std::string_view policy) const {
  const auto labels = Labels(policy);
  return labels.empty() ? "" : labels[0];
}

std::vector<StudyTable> StudyTables(const StudyArm* arm, const StudySplit& split) {
  if (!arm) return {};
  using Key = std::tuple<std::string, std::string, double>;
  std::vector<std::pair<Key, std::vector<const Results::Row*>>> groups;
  for (const Results::Row& row : arm->results.rows) {
    const Key key{split.by_protocol ? row.figures.Text("protocol") : "", split.by_text ? TextName(row.figures) : "",
                  split.by_context ? row.figures.Number("context").value_or(0) : 0};
    auto group = std::find_if(groups.begin(), groups.end(), [&](const auto& one) { return one.first == key; });
    if (group == groups.end()) group = groups.insert(groups.end(), {key, {}});
    group->second.push_back(&row);
  }
  std::vector<StudyTable> tables;
  for (const auto& [key, rows] : groups) {
    std::vector<ReportData> models = GatherReportData(rows, arm->results.traces);
    if (models.empty()) continue;
    const auto largest = std::max_element(models.begin(), models.end(),
                                          [](const auto& a, const auto& b) { return RowCount(a) < RowCount(b); });
    StudyTable table = TableOf(std::move(*largest));
    std::tie(table.protocol, table.text, table.context) = key;
    tables.push_back(std::move(table));
  }
  return tables;
}

std::string PromptKey(const ResultRow& row) {
  std::string cell = row.Text("trace");
  cell.erase(0, cell.rfind('/') + 1);
  cell.resize(std::min(cell.find(".kvtrace"), cell.size()));
  const auto number = [&](const char* column) { return row.Number(column).value_or(-1); };
  return StrCat(cell, "|", number("context"), "|", number("depth"), "|", number("seed"));
}

std::string TextName(const ResultRow& row) {
  std::string name = row.Text("trace");
  name.erase(0, name.rfind('/') + 1);
  const auto end = std::find_if(name.begin(), name.end(), [](unsigned char letter) { return !std::isalpha(letter); });
  name.erase(end, name.end());
  return name;
}

std::vector<std::pair<double, double>> PairedValues(const Cell* first, const Cell* second, std::string_view column) {
  std::vector<std::pair<double, double>> pairs;
  if (!first || !second) return pairs;
  std::map<std::string, double> second_from_prompt;
  for (const Results::Row* row : second->rows) {
    if (const auto value = row->figures.Number(column)) second_from_prompt.emplace(PromptKey(row->figures), *value);
  }
  for (const Results::Row* row : first->rows) {
    const auto value = row->figures.Number(column);
    const auto partner = second_from_prompt.find(PromptKey(row->figures));
    if (value && partner != second_from_prompt.end()) pairs.emplace_back(*value, partner->second);
  }
  return pairs;
}

std::optional<Estimate> RelativeIncrease(const std::vector<std::pair<double, double>>& pairs) {
  std::vector<double> logs;
  for (const auto& [mine, reference] : pairs) {
    if (mine > 0 && reference > 0) logs.push_back(std::log(mine / reference));
  }
  auto estimate = MeanEstimate(logs);
  if (!estimate) return std::nullopt;
  for (double* value : {&estimate->value, &estimate->low, &estimate->high}) *value = std::expm1(*value);
  return estimate;
}

std::map<std::string, PolicyLook> StudyLooks(const Study& study, const std::vector<StudyTable>& tables) {
  std::vector<PolicyName> names;
  for (const StudyTable& table : tables) {
    for (const PolicyName& name : table.data.policies) {
      const auto same = [&](const PolicyName& other) { return other.label == name.label; };
      if (std::none_of(names.begin(), names.end(), same)) names.push_back(name);
    }
  }
  const std::vector<std::string> first{study.method, "snapkv@int4", "h2o@int4", "snapkv", "h2o"};
  const auto rank = [&](const PolicyName& name) {
    return std::find(first.begin(), first.end(), name.policy) - first.begin();
  };
  std::stable_sort(names.begin(), names.end(), [&](const auto& a, const auto& b) { return rank(a) < rank(b); });
  return LooksOf(names);
}

std::vector<std::string> StrongBaselines() {
  return {"snapkv@int4", "h2o@int4"};
}

std::string FractionText(double fraction) {
  return StrCat("kept ", fraction);
}

std::string CountOf(const Cell* cell) {
  const auto accuracy = cell ? cell->PooledAccuracy() : std::nullopt;
  return accuracy ? StrCat(CountText(accuracy->successes), "/", CountText(accuracy->n)) : "–";
}

std::string MeanText(const Cell* cell, std::string_view column, int digits) {
  const auto mean = cell ? cell->Mean(column) : std::nullopt;
  return mean ? NumberText(*mean, digits) : "–";
}

}  // namespace kvscope
