// SPDX-License-Identifier: Apache-2.0
// Perplexity of real texts under each policy, beside the full cache's.
#include <algorithm>

#include "core/error.h"
#include "replay/chart_axis.h"
#include "replay/study_sections.h"

namespace kvscope {
namespace {

std::optional<Estimate> Rise(const StudyTable& table, const std::string& label, double fraction) {
  return RelativeIncrease(PairedValues(table.At(label, fraction), table.Fixed(table.LabelOf("full")), "perplexity"));
}

std::vector<double> AllFractions(const std::vector<StudyTable>& tables) {
  std::vector<double> fractions;
  for (const StudyTable& table : tables) {
    for (const double fraction : table.fractions) {
      if (std::find(fractions.begin(), fractions.end(), fraction) == fractions.end()) fractions.push_back(fraction);
    }
  }
  std::sort(fractions.rbegin(), fractions.rend());
  return fractions;
}

ReportPage::TableRow PerplexityRow(const StudyContext& context, const StudyTable& table, const PolicyName& name,
                                   const std::vector<double>& fractions) {
  ReportPage::TableRow row;
  row.cells = {name.label};
  row.quiet = table.data.IsReference(name.label);
  const bool is_full = name.policy == "full";
  for (const double fraction : fractions) {
    const Cell* cell = is_full ? table.Fixed(name.label) : table.At(name.label, fraction);
    const auto rise = is_full ? std::nullopt : Rise(table, name.label, fraction);
    row.cells.push_back(MeanText(cell, "perplexity", 4));
    row.cells.push_back(!rise         ? "–"
                        : rise->n > 1 ? EstimateText(*rise, {.decimals = 1, .factor = 100})
                                      : SignedText(rise->value, {.decimals = 1, .factor = 100}));
    row.cells.push_back(MeanText(cell, "kl"));
    const auto agreement = cell ? cell->Mean("top1_agreement") : std::nullopt;
    row.cells.push_back(agreement ? PercentText(*agreement, 1) : "–");
  }
  row.strong.assign(row.cells.size(), name.policy == context.method());
  return row;
}

void RiseChart(ReportPage& page, const StudyContext& context) {
  page.BeginRow();
  for (const StudyTable& table : context.perplexity) {
    auto spec = FractionChart(context, table, {"perplexity", "perplexity", Unit::kPlain});
    if (!spec) continue;
    page.Figure(StrCat("perplexity_", table.text, "_", table.context), LineChart(*spec),
                StrCat("Perplexity of ", table.Title(),
                       " against the share of bytes kept; the black level is the full "
                       "cache."));
  }
  page.EndRow();
}

}  // namespace

void WriteStudyPerplexity(ReportPage& page, const StudyContext& context) {
  if (!SayIfMissing(page, context.study, "perplexity", context.perplexity)) return;
  const std::vector<double> fractions = AllFractions(context.perplexity);
  std::vector<std::string> groups{""};
  std::vector<int> spans{1};
  std::vector<ReportPage::Column> columns{{"policy", "", true}};
  for (const double fraction : fractions) {
    groups.push_back(FractionText(fraction));
    spans.push_back(4);
    columns.push_back({"perplexity", "of the continuation, mean over prompts"});
    columns.push_back({"rise, %", "over the full cache on the same prompts"});
    columns.push_back({"KL", "nats per token, to the full cache"});
    columns.push_back({"same word", "share of steps whose most likely token is the full cache's"});
  }
  std::vector<ReportPage::TableRow> rows;
  for (const StudyTable& table : context.perplexity) {
    ReportPage::TableRow title;
    title.cells.assign(columns.size(), "");
    size_t prompts = 0;
    for (const Cell& cell : table.data.cells) prompts = std::max(prompts, cell.rows.size());
    title.cells[0] = StrCat(table.Title(), " (", prompts, prompts == 1 ? " prompt)" : " prompts)");
    title.strong.assign(1, true);
    title.starts_block = true;
    rows.push_back(std::move(title));
    for (const PolicyName& name : table.data.policies) rows.push_back(PerplexityRow(context, table, name, fractions));
    if (table.LabelOf("full").empty()) {
      page.Paragraph(StrCat("The full cache was not run on ", table.Title(), ": no rise can be given."));
    }
  }
  page.Table(
      groups, spans, columns, rows,
      "Rise: relative increase of perplexity over the full cache, from the mean difference of log perplexity over "
      "the same prompts; in brackets its 95 % interval (Student's t below 8 prompts).");
  RiseChart(page, context);
}

}  // namespace kvscope
