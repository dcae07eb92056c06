// SPDX-License-Identifier: Apache-2.0
// How far replay can be trusted: the same entries kept, the same order of policies.
#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "replay/chart_axis.h"
#include "replay/chart_lines.h"
#include "replay/report_sections.h"

namespace kvscope {
namespace {

// Whether values spread over so many powers of ten that only a logarithmic axis shows them all.
struct Extent {
  double low = 1e300, high = -1e300;
  void Add(double value) {
    low = std::min(low, value);
    high = std::max(high, value);
  }
  bool IsWide() const { return low > 0 && high / low > 15; }
  double Floor() const { return low / 2; }  // where a zero is drawn on a logarithmic axis
};

Svg FidelityScatter(const ReportData& data, const Fidelity& fidelity, std::optional<double> FidelityPair::*figure,
                    const std::string& label) {
  ScatterSpec spec;
  spec.x_label = "replay attention loss";
  spec.y_label = label;
  Extent x, y;
  for (const PolicyName& name : data.policies) {
    const auto look = data.looks.find(name.label);
    ChartSeries series{name.label, look == data.looks.end() ? PolicyLook{} : look->second, {}};
    for (const FidelityPair& pair : fidelity.pairs) {
      if (pair.label != name.label || !pair.attention_loss || !(pair.*figure)) continue;
      if (pair.policy == "full") continue;  // nothing lost, nothing moved
      series.points.push_back({*pair.attention_loss, *(pair.*figure), {}, {}});
      if (*pair.attention_loss > 0) x.Add(*pair.attention_loss);
      if (*(pair.*figure) > 0) y.Add(*(pair.*figure));
    }
    if (!series.points.empty()) spec.series.push_back(std::move(series));
  }
  std::stable_sort(spec.series.begin(), spec.series.end(),
                   [](const auto& a, const auto& b) { return a.points[0].y > b.points[0].y; });
  for (ChartSeries& series : spec.series) {
    std::sort(series.points.begin(), series.points.end(), [](const auto& a, const auto& b) { return a.x > b.x; });
  }
  spec.x_log = x.IsWide();
  spec.y_log = y.IsWide();
  for (ChartSeries& series : spec.series) {
    bool has_zero = false;
    for (ChartPoint& point : series.points) {
      has_zero = has_zero || (spec.x_log && point.x <= 0) || (spec.y_log && point.y <= 0);
      if (spec.x_log && point.x <= 0) point.x = x.Floor();
      if (spec.y_log && point.y <= 0) point.y = y.Floor();
    }
    if (has_zero) series.name += " (0)";
  }
  if (spec.x_log) spec.x_label += " (logarithmic)";
  if (spec.y_log) spec.y_label += " (logarithmic)";
  return ScatterChart(spec);
}

bool Any(const Fidelity& fidelity, std::optional<double> FidelityPair::*figure) {
  int count = 0;
  for (const FidelityPair& pair : fidelity.pairs)
    count += pair.policy != "full" && pair.attention_loss && (pair.*figure);
  return count >= 2;
}

std::vector<std::string> FidelitySentences(const Fidelity& fidelity) {
  std::vector<std::string> sentences;
  const FidelityPair* farthest = nullptr;
  int exact = 0, measured = 0;
  for (const FidelityPair& pair : fidelity.pairs) {
    if (!pair.jaccard) continue;
    ++measured;
    exact += *pair.jaccard_lowest >= 1;
    if (!farthest || *pair.jaccard < *farthest->jaccard) farthest = &pair;
  }
  if (measured > 0) {
    std::string text =
        StrCat("Replay and live kept exactly the same entries in ", exact, " of ", measured, " policy-budget pairs");
    if (exact < measured) {
      text +=
          StrCat("; they part most for ", farthest->label, farthest->budget.empty() ? "" : " at " + farthest->budget,
                 ", where ", PercentText(*farthest->jaccard, 2), " of all entries that either keeps are kept by both");
    }
    sentences.push_back(text + ".");
  }
  for (const FidelityCorrelation& correlation : fidelity.correlations) {
    if (!correlation.budget.empty() || correlation.rank.low > 0) continue;
    sentences.push_back(
        StrCat("The interval of the correlation with live ", correlation.live_figure == "kl" ? "KL" : "answer NLL",
               " holds 0: these runs do not show that replay's ",
               correlation.replay_figure == "output_error" ? "output error" : "attention loss", " predicts it."));
  }
  if (fidelity.replay_without_live > 0) {
    sentences.push_back(StrCat(fidelity.replay_without_live, " replay rows have no live partner."));
  }
  return sentences;
}

// Rank correlations: one line per pair of figures, one column per budget.
void CorrelationTable(ReportPage& page, const Fidelity& fidelity) {
  std::vector<std::string> budgets;
  for (const FidelityCorrelation& correlation : fidelity.correlations) {
    if (std::find(budgets.begin(), budgets.end(), correlation.budget) == budgets.end())
      budgets.push_back(correlation.budget);
  }
  if (budgets.empty()) return;
  std::vector<ReportPage::Column> columns{{"replay", "", true}, {"live", "", true}};
  for (const std::string& budget : budgets)
    columns.push_back({budget.empty() ? "all budgets" : "keep " + budget, "", false});
  std::vector<ReportPage::TableRow> rows;
  for (const std::string replay : {"attention_loss", "output_error"}) {
    for (const std::string live : {"kl", "answer_nll"}) {
      ReportPage::TableRow row;
      row.cells = {replay == "output_error" ? "output error" : "attention loss", live == "kl" ? "KL" : "answer NLL"};
      bool any = false;
      for (const std::string& budget : budgets) {
        row.cells.push_back("–");
        for (const FidelityCorrelation& one : fidelity.correlations) {
          if (one.replay_figure != replay || one.live_figure != live || one.budget != budget) continue;
          row.cells.back() = StrCat(FixedText(one.rank.rho, 2), " (", FixedText(one.rank.low, 2), " to ",
                                    FixedText(one.rank.high, 2), "; n = ", one.rank.n, ")");
          any = true;
        }
      }
      if (any) rows.push_back(std::move(row));
    }
  }
  page.Table(
      {}, {}, columns, rows,
      "Spearman's rank correlation over policies, 95\u00a0% bootstrap interval, number of pairs; the full cache is not "
      "counted. 1: replay puts policies in the very order that live does.");
}

void FidelityRows(ReportPage& page, const Fidelity& fidelity) {
  std::vector<ReportPage::TableRow> rows;
  const auto text = [](const std::optional<double>& value) { return value ? NumberText(*value) : std::string("–"); };
  const auto share = [](const std::optional<double>& value) {
    return !value ? std::string("–") : *value == 1 ? std::string("1") : FixedText(*value, 4);
  };
  for (const FidelityPair& pair : fidelity.pairs) {
    std::string accuracy = "–";
    if (pair.n && *pair.n > 0) {
      accuracy = StrCat(CountText(*pair.successes), " of ", CountText(*pair.n));
    }
    rows.push_back(
        {{pair.label, pair.budget.empty() ? "–" : pair.budget, StrCat(pair.runs), share(pair.jaccard),
          share(pair.jaccard_lowest), text(pair.attention_loss), text(pair.kl), text(pair.answer_nll), accuracy},
         {},
         false,
         false});
  }
  page.Table({"", "replay against live", "replay", "live"}, {3, 2, 1, 3},
             {{"policy", "", true},
              {"keep", "", false},
              {"runs", "traces replayed and run live", false},
              {"same entries", "Jaccard index of the entries kept right after the decision, mean", false},
              {"lowest", "lowest Jaccard index of any run", false},
              {"attention loss", "", false},
              {"KL", "nats per token", false},
              {"answer NLL", "nats per token", false},
              {"right answers", "", false}},
             rows, "Same entries: 1 means the very same cache entries were kept in every layer and KV head.");
}

}  // namespace

void WriteFidelity(ReportPage& page, const SectionContext& context, const Fidelity& fidelity) {
  if (fidelity.pairs.empty()) {
    page.Paragraph(
        "No policy was both replayed and run live on the same runs, so there is nothing to set side by side.");
    return;
  }
  page.Paragraph(
      "Replay evaluates every policy on the queries, keys and values of the full-cache run. It cannot see hidden-state "
      "drift: once an "
      "entry is gone, later layers and later tokens of the live model compute other queries, keys and values than "
      "those in the trace. "
      "Policies that decide once, from the same statistics, should keep the same entries in both; policies that decide "
      "at "
      "every step may part. "
      "What follows is how far replay and live agree here.");
  page.List(FidelitySentences(fidelity));
  CorrelationTable(page, fidelity);
  page.BeginRow();
  if (Any(fidelity, &FidelityPair::kl)) {
    page.Figure(context.slug_prefix + "fidelity_kl",
                FidelityScatter(context.data, fidelity, &FidelityPair::kl, "live KL, nats per token"),
                "Each mark is a policy at a budget, marks of one policy are joined. A rising cloud means replay "
                "predicts live. (0) beside a name: a figure of 0, drawn at the edge.");
  }
  if (Any(fidelity, &FidelityPair::answer_nll)) {
    page.Figure(context.slug_prefix + "fidelity_answer_nll",
                FidelityScatter(context.data, fidelity, &FidelityPair::answer_nll, "live answer NLL, nats per token"),
                "The same against how surprised the live model is by the right answer. A policy far above the cloud "
                "lost little "
                "attention, but the little that mattered.");
  }
  page.EndRow();
  FidelityRows(page, fidelity);
}

}  // namespace kvscope
