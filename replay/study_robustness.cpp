// SPDX-License-Identifier: Apache-2.0
// Does it hold at other lengths, at sizes between, and when the needle must be told from its neighbours?
#include <algorithm>
#include <set>

#include "core/error.h"
#include "replay/chart_axis.h"
#include "replay/study_sections.h"

namespace kvscope {
namespace {

// One block of lines, one line per policy; cells are (sizes x what is compared).
struct Group {
  std::string title;
  const StudyTable* table;
};

std::vector<std::string> PoliciesOf(const std::vector<Group>& groups) {
  std::vector<std::string> labels;
  for (const Group& group : groups) {
    for (const PolicyName& name : group.table->data.policies) {
      if (std::find(labels.begin(), labels.end(), name.label) == labels.end()) labels.push_back(name.label);
    }
  }
  return labels;
}

// Policies down; across each group and each size the right answers and the answer NLL.
void CompactTable(ReportPage& page, const StudyContext& context, const std::vector<Group>& groups,
                  const std::vector<double>& fractions, const std::string& caption,
                  const std::vector<std::string>& labels) {
  std::vector<std::string> headers{""};
  std::vector<int> spans{1};
  std::vector<ReportPage::Column> columns{{"policy", "", true}};
  for (const Group& group : groups) {
    for (const double fraction : fractions) {
      headers.push_back(group.title.empty() ? FractionText(fraction)
                                            : StrCat(group.title, ", ", FractionText(fraction)));
      spans.push_back(2);
      columns.push_back({"right", "right answers of those tried"});
      columns.push_back({"NLL", "answer NLL, nats per token"});
    }
  }
  std::vector<ReportPage::TableRow> rows;
  for (const std::string& label : labels) {
    ReportPage::TableRow row;
    row.cells = {label};
    for (const Group& group : groups) {
      const bool is_full = group.table->LabelOf("full") == label;
      row.quiet = row.quiet || group.table->data.IsReference(label);
      for (const double fraction : fractions) {
        const Cell* cell = is_full ? group.table->Fixed(label) : group.table->At(label, fraction);
        row.cells.push_back(CountOf(cell));
        row.cells.push_back(MeanText(cell, "answer_nll"));
      }
    }
    row.strong.assign(row.cells.size(), label == context.method());
    rows.push_back(std::move(row));
  }
  page.Table(headers, spans, columns, rows, caption);
}

std::vector<double> FractionsOf(const std::vector<Group>& groups) {
  std::set<double, std::greater<>> fractions;
  for (const Group& group : groups) fractions.insert(group.table->fractions.begin(), group.table->fractions.end());
  return {fractions.begin(), fractions.end()};
}

// Answer NLL against the length of the prompt, one chart per size.
void LengthCharts(ReportPage& page, const StudyContext& context, const std::vector<Group>& groups,
                  const std::vector<double>& fractions, const std::vector<std::string>& labels) {
  page.BeginRow();
  for (const double fraction : fractions) {
    LineChartSpec spec;
    spec.x_label = "prompt, tokens";
    spec.y_label = StrCat("answer NLL, nats per token, ", FractionText(fraction));
    double low = 1e300, high = 0;
    for (const std::string& label : labels) {
      ChartSeries series{label, context.LookOf(label), {}};
      series.is_strong = label == context.method();
      for (const Group& group : groups) {
        const bool is_full = group.table->LabelOf("full") == label;
        const Cell* cell = is_full ? group.table->Fixed(label) : group.table->At(label, fraction);
        const auto nll = cell ? cell->Mean("answer_nll") : std::nullopt;
        const auto context_tokens = cell ? cell->Mean("context") : std::nullopt;
        if (!nll || !context_tokens) continue;
        series.points.push_back({*context_tokens, *nll, {}, {}});
        low = std::min(low, *nll);
        high = std::max(high, *nll);
      }
      if (series.points.size() > 1) spec.series.push_back(std::move(series));
    }
    if (spec.series.size() < 2) continue;
    spec.y_log = low > 0 && high > 12 * low;
    if (spec.y_log) spec.y_label += " (logarithmic)";
    page.Figure(StrCat("length_", fraction), LineChart(spec),
                StrCat("Answer NLL against the length of the prompt, ", FractionText(fraction),
                       ", decided after the question. A level line: the policy does not suffer from length."));
  }
  page.EndRow();
}

std::vector<Group> LengthGroups(const StudyContext& context, const std::vector<StudyTable>& own) {
  std::vector<Group> groups;
  for (const StudyTable& table : own) groups.push_back({FixedText(table.context, 0) + " tokens", &table});
  const StudyTable* main = context.Main("prompt");
  if (main && main->data.contexts.size() == 1) {
    groups.push_back({FixedText(main->data.contexts[0], 0) + " tokens", main});
  }
  std::sort(groups.begin(), groups.end(), [](const auto& a, const auto& b) {
    return a.table->data.contexts.front() < b.table->data.contexts.front();
  });
  return groups;
}

void WriteLength(ReportPage& page, const StudyContext& context) {
  page.Subheading("Other lengths");
  if (!SayIfMissing(page, context.study, "length", context.length)) return;
  std::vector<Group> own;
  for (const StudyTable& table : context.length) own.push_back({"", &table});
  const std::vector<std::string> labels = PoliciesOf(own);
  const std::vector<Group> groups = LengthGroups(context, context.length);
  CompactTable(page, context, groups, FractionsOf(own), "Right answers and answer NLL by the length of the prompt.",
               labels);
  LengthCharts(page, context, groups, FractionsOf(own), labels);
}

// The sizes of the fractions arm join those of the main arm on one axis.
void WriteFractions(ReportPage& page, const StudyContext& context) {
  page.Subheading("Sizes between");
  if (!SayIfMissing(page, context.study, "fractions", context.fractions)) return;
  const std::vector<Group> groups{{"", &context.fractions[0]}};
  CompactTable(page, context, groups, FractionsOf(groups), "Right answers and answer NLL at further sizes.",
               PoliciesOf(groups));
  StudyTable joined = context.fractions[0];
  if (const StudyTable* main = context.Main("prompt")) {
    for (const Cell& cell : main->data.cells) {
      if (!cell.budget.fraction || joined.LabelOf(cell.policy) != cell.label) continue;
      joined.data.cells.push_back(cell);
      joined.fractions.push_back(*cell.budget.fraction);
    }
  }
  const auto spec = FractionChart(context, joined, {"answer_nll", "answer NLL, nats per token", Unit::kPlain});
  if (!spec) return;
  page.Figure("fractions_nll", LineChart(*spec),
              "Answer NLL over all sizes of this arm and of the main arm, decided after the question. Bars are one "
              "standard error over prompts.");
}

void WriteDoors(ReportPage& page, const StudyContext& context) {
  page.Subheading("One of three doors");
  if (!SayIfMissing(page, context.study, "doors", context.doors)) return;
  const std::vector<Group> groups{{"", &context.doors[0]}};
  page.Paragraph(
      "Three keys are hidden and one is asked for: keeping something that looks like a needle is not enough.");
  CompactTable(page, context, groups, FractionsOf(groups), "Right answers and answer NLL of the keyed lookup.",
               PoliciesOf(groups));
}

}  // namespace

void WriteStudyRobustness(ReportPage& page, const StudyContext& context) {
  WriteLength(page, context);
  WriteFractions(page, context);
  WriteDoors(page, context);
}

}  // namespace kvscope
