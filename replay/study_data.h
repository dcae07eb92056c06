// SPDX-License-Identifier: Apache-2.0
// The rows of a study's arms, set beside each other: tables of what may be compared, and pairs of one prompt.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "replay/report_data.h"
#include "replay/study.h"
#include "replay/study_statistics.h"

namespace kvscope {

// Rows of an arm that share what the arm was split by.
struct StudyTable {
  std::string protocol, text;  // empty: not split by it
  double context = 0;          // 0: not split by it
  ReportData data;
  std::vector<double> fractions;  // asked, largest first

  std::string Title() const;  // "decided after the question", "kjv, 2,048 tokens"
  // Rows of a policy at an asked fraction. One without a fraction (int4, kivi, full) is a point at the size it takes
  // and stands at every asked fraction that is not below that; else nullptr.
  const Cell* At(const std::string& label, double fraction, std::string_view mode = "live") const;
  // Rows of a policy that is asked for no fraction.
  const Cell* Fixed(const std::string& label, std::string_view mode = "live") const;
  // The label of a policy without guards; empty: not run.
  std::string LabelOf(std::string_view policy) const;
  std::vector<std::string> Labels(std::string_view policy) const;  // with and without guards
};

// One per value of what it is split by, in the order of the rows; of the model with the most rows.
struct StudySplit {
  bool by_protocol = false, by_context = false, by_text = false;
};
std::vector<StudyTable> StudyTables(const StudyArm* arm, const StudySplit& split);

// The prompt of a row: its trace (a file's name or the task's cell), length, depth and seed.
std::string PromptKey(const ResultRow& row);
// "kjv" of "kjv_c2048_r00".
std::string TextName(const ResultRow& row);
// What two cells have for the same prompts.
std::vector<std::pair<double, double>> PairedValues(const Cell* first, const Cell* second, std::string_view column);
// Log perplexity (or any other figure) differences become relative increases: exp(difference) - 1.
std::optional<Estimate> RelativeIncrease(const std::vector<std::pair<double, double>>& pairs);

// Looks for every policy of the study, the same on the whole page; the method comes first.
std::map<std::string, PolicyLook> StudyLooks(const Study& study, const std::vector<StudyTable>& tables);

// Policies that evict and store what is left in INT4: they stand beside every claim.
std::vector<std::string> StrongBaselines();

std::string FractionText(double fraction);  // "kept 0.5"
std::string CountOf(const Cell* cell);      // "18/20", "–" where nothing was answered
std::string MeanText(const Cell* cell, std::string_view column, int digits = 3);

}  // namespace kvscope
