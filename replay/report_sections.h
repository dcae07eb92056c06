// SPDX-License-Identifier: Apache-2.0
// The sections of the report, one file per theme. Each writes what its data allows and says what was not measured.
#pragma once

#include <string>
#include <vector>

#include "replay/chart_matrix.h"
#include "replay/fidelity.h"
#include "replay/report_data.h"
#include "replay/report_page.h"

namespace kvscope {

// All sections of all groups, in order. fidelities: one per group.
void WriteSections(ReportPage& page, const std::vector<ReportData>& groups, const std::vector<Fidelity>& fidelities);
// Rows of one mode, as CompareFidelity wants them.
std::vector<const Results::Row*> RowsOfMode(const ReportData& data, std::string_view mode);

// Where a section belongs: pictures of a second model or task get its number in their names.
struct SectionContext {
  const ReportData& data;
  std::string slug_prefix;
};

// Sentences about the whole, made from the data.
std::vector<std::string> Findings(const ReportData& data, const Fidelity& fidelity);

void WriteHeadline(ReportPage& page, const SectionContext& context);
void WriteQuality(ReportPage& page, const SectionContext& context);
void WriteGrids(ReportPage& page, const SectionContext& context);
void WriteNeedle(ReportPage& page, const SectionContext& context);
void WriteRelevance(ReportPage& page, const SectionContext& context);
void WriteDynamics(ReportPage& page, const SectionContext& context);
void WriteFidelity(ReportPage& page, const SectionContext& context, const Fidelity& fidelity);

// "layer" or "head" names: the absolute numbers that traces carry, else 0, 1, 2, ...
std::vector<std::string> AxisNames(const ReportData& data, std::string_view attribute, size_t count);
// A budget for people: "kept 0.25", "own size" for fixed-rate policies.
std::string BudgetTitle(const Budget& budget);
// Mean of an array over traces; absent when no trace has it. Traces of another shape are left out.
std::optional<NamedArray> MeanTraceArray(const ReportData& data, std::string_view name);
// [layer, head] as a panel with heads down and layers across.
MatrixPanel HeadPanel(const NamedArray& array);
// What charts of such panels have in common: names along both axes, and cells of which a panel is `panel_width` wide.
enum class HeadAxis { kHeads, kKvHeads };
void NameAxes(const ReportData& data, HeadAxis axis, double panel_width, MatrixChartSpec& spec);
// "last32 before question" of needle_auc_last32_before_question.
struct AucStat {
  std::string name;
  NamedArray mean;  // over traces
};
std::vector<AucStat> AucStats(const ReportData& data);
double MeanOf(const NamedArray& array);  // NaN entries left out; NaN when nothing is left
std::vector<double> Doubles(const std::vector<float>& values);

}  // namespace kvscope
