// SPDX-License-Identifier: Apache-2.0
// Rows of results, pooled for people: one cell per (policy, budget, mode), over traces. Figures are means over the
// rows that have them, accuracies are pooled over their samples; what nobody measured stays absent.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/results.h"
#include "replay/chart_color.h"

namespace kvscope {

// How much a policy was asked to keep. Rows of one budget are compared with each other.
struct Budget {
  std::optional<double> fraction;  // asked; absent for fixed-rate policies
  std::string label;               // "0.25", "64 tokens", "removed 0.75", "" (fixed rate)
  friend bool operator==(const Budget& a, const Budget& b) { return a.label == b.label; }
};
Budget BudgetOf(const ResultRow& row);

// A policy's name with what tells it from others of that name in the same results (protocol, guards, growth).
std::vector<std::string> PolicyLabels(const std::vector<const ResultRow*>& rows);

struct Pooled {
  double mean = 0;
  double standard_error = 0;  // of the mean over rows; 0 for one row
  int rows = 0;
};

struct Accuracy {
  double successes = 0, n = 0;
  double Share() const { return successes / n; }
};

struct Cell {
  std::string label, policy, kind, mode;
  Budget budget;
  std::vector<const Results::Row*> rows;  // refused ones are not here

  std::optional<double> Mean(std::string_view column) const;
  std::optional<Pooled> Pool(std::string_view column) const;
  // Of the first of these columns that any row has.
  std::optional<Pooled> PoolFirst(std::initializer_list<std::string_view> columns) const;
  std::optional<Accuracy> PooledAccuracy() const;
  // What the policy costs in memory: bytes held or, for one that holds all and reads a part, bytes read per step.
  std::optional<double> Bytes() const;
  bool ReadsLessThanItHolds() const;
  // Mean over rows of an array, NaN entries left out; absent when no row has it. Rows of another shape are left out.
  std::optional<NamedArray> MeanArray(std::string_view name) const;
};

struct Refusal {
  std::string label, budget, trace, mode, reason;
};

// Everything of one model and task.
struct ReportData {
  std::string model, task;
  std::vector<PolicyName> policies;  // full, random, oracles first; then in the order of the files
  std::map<std::string, PolicyLook> looks;
  std::vector<Budget> budgets;  // largest first; the fixed-rate budget, when there is one, before them
  std::vector<Cell> cells;
  std::vector<Refusal> refusals;
  std::vector<const Results::Trace*> traces;
  std::vector<double> contexts, depths;

  const Cell* Find(std::string_view label, std::string_view mode, const Budget& budget) const;
  bool HasMode(std::string_view mode) const;
  // True where a policy exists to be compared with, not to be used.
  bool IsReference(const std::string& label) const;
  // As of the cell itself or, where it does not say what is read, as of the other mode's.
  std::optional<double> Bytes(const Cell& cell) const;
  bool ReadsLessThanItHolds(const Cell& cell) const;
  // The full cache's cell in a mode.
  const Cell* Full(std::string_view mode) const;
};
// One per (model, task), in the order of appearance. `results` must outlive the answer.
std::vector<ReportData> GatherReportData(const Results& results);
// The same of some of the rows.
std::vector<ReportData> GatherReportData(const std::vector<const Results::Row*>& rows,
                                         const std::vector<Results::Trace>& traces);

std::optional<double> NumberAttribute(const Results::Trace& trace, const std::string& name);

// How relevant needle tokens are and all others: (token, head) pairs by log10 of a statistic, added up over the traces
// that agree in their bins.
struct RelevanceHistogram {
  std::string statistic;  // what was summed
  double low = 0, bin_width = 0;
  std::vector<double> needle, rest;  // [bin] pairs
};
std::optional<RelevanceHistogram> SumRelevance(const std::vector<const Results::Trace*>& traces);

// 12 or 12.3: counts of whole things, or means of counts.
std::string CountText(double count);
// "a", "a and b", "a, b and c".
std::string Listed(const std::vector<std::string>& items);

}  // namespace kvscope
