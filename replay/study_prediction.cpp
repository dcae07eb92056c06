// SPDX-License-Identifier: Apache-2.0
// Where replay's figures stop predicting live ones: rank correlations over policies, by what a policy does to entries
// (drops them, packs them, both) and by size.
#include <algorithm>
#include <cmath>
#include <set>

#include "core/error.h"
#include "replay/chart_axis.h"
#include "replay/chart_lines.h"
#include "replay/fidelity.h"
#include "replay/report_sections.h"
#include "replay/study_sections.h"

namespace kvscope {
namespace {

enum class Treatment { kDrops, kPacks, kBoth };

const char* Words(Treatment treatment) {
  switch (treatment) {
    case Treatment::kDrops:
      return "only drop entries";
    case Treatment::kPacks:
      return "only pack entries";
    case Treatment::kBoth:
      return "drop and pack";
  }
  return "";
}

Treatment TreatmentOf(const FidelityPair& pair) {
  const bool packs = pair.kind.find("quanti") != std::string::npos;
  if (!packs) return Treatment::kDrops;
  return pair.kind.starts_with("quanti") ? Treatment::kPacks : Treatment::kBoth;
}

struct LiveFigure {
  const char* name;
  std::optional<double> (*value)(const FidelityPair&);
};

// All of them grow as a policy gets worse.
const std::vector<LiveFigure>& LiveFigures() {
  static const std::vector<LiveFigure> figures = {
      {"KL", [](const FidelityPair& pair) { return pair.kl; }},
      {"answer NLL", [](const FidelityPair& pair) { return pair.answer_nll; }},
      {"wrong answers", [](const FidelityPair& pair) -> std::optional<double> {
         if (!pair.n || !pair.successes || *pair.n <= 0) return std::nullopt;
         return 1 - *pair.successes / *pair.n;
       }}};
  return figures;
}

struct ReplayFigure {
  const char* name;
  std::optional<double> FidelityPair::*value;
};
constexpr ReplayFigure kReplayFigures[] = {{"attention loss", &FidelityPair::attention_loss},
                                           {"output error", &FidelityPair::output_error}};

using Chosen = std::vector<const FidelityPair*>;

std::optional<RankCorrelation> Correlation(const Chosen& pairs, const ReplayFigure& replay, const LiveFigure& live) {
  std::vector<double> x, y;
  for (const FidelityPair* pair : pairs) {
    const auto predicted = pair->*replay.value, seen = live.value(*pair);
    if (!predicted || !seen) continue;
    x.push_back(*predicted);
    y.push_back(*seen);
  }
  return SpearmanCorrelation(x, y);
}

std::string CorrelationText(const std::optional<RankCorrelation>& rank) {
  if (!rank) return "–";
  return StrCat(SignedText(rank->rho, {.decimals = 2, .has_sign = false}), " (",
                SignedText(rank->low, {.decimals = 2, .has_sign = false}), " to ",
                SignedText(rank->high, {.decimals = 2, .has_sign = false}), "; ", rank->n, ")");
}

struct Choice {
  std::string name;
  Chosen pairs;
};

// All pairs, then by treatment, then by size.
std::vector<Choice> Choices(const Fidelity& fidelity) {
  std::vector<Choice> choices{{"all policies and sizes", {}}};
  std::vector<std::string> budgets;
  for (const Treatment treatment : {Treatment::kDrops, Treatment::kPacks, Treatment::kBoth})
    choices.push_back({StrCat("policies that ", Words(treatment)), {}});
  for (const FidelityPair& pair : fidelity.pairs) {
    if (pair.policy == "full") continue;
    choices[0].pairs.push_back(&pair);
    choices[1 + static_cast<size_t>(TreatmentOf(pair))].pairs.push_back(&pair);
    if (!pair.budget.empty() && std::find(budgets.begin(), budgets.end(), pair.budget) == budgets.end())
      budgets.push_back(pair.budget);
  }
  for (const std::string& budget : budgets) {
    choices.push_back({"all policies at " + budget, {}});
    for (const FidelityPair& pair : fidelity.pairs) {
      if (pair.budget == budget && pair.policy != "full") choices.back().pairs.push_back(&pair);
    }
  }
  return choices;
}

void CorrelationTable(ReportPage& page, const std::vector<Choice>& choices) {
  std::vector<ReportPage::Column> columns{{"over", "", true}};
  for (const ReplayFigure& replay : kReplayFigures) {
    for (const LiveFigure& live : LiveFigures())
      columns.push_back({live.name, StrCat("against replay's ", replay.name)});
  }
  std::vector<ReportPage::TableRow> rows;
  for (size_t i = 0; i < choices.size(); ++i) {
    ReportPage::TableRow row{{choices[i].name}, {}, i == 1 || i == 4, false};
    bool any = false;
    for (const ReplayFigure& replay : kReplayFigures) {
      for (const LiveFigure& live : LiveFigures()) {
        const auto rank = Correlation(choices[i].pairs, replay, live);
        any = any || rank;
        row.cells.push_back(CorrelationText(rank));
        row.strong.resize(row.cells.size(), false);
        row.strong.back() = rank && rank->low <= 0;
      }
    }
    if (any) rows.push_back(std::move(row));
  }
  if (rows.empty()) return;
  const int live = static_cast<int>(LiveFigures().size());
  page.Table(
      {"", "replay's attention loss against live", "replay's output error against live"}, {1, live, live}, columns,
      rows,
      "Spearman's rank correlation over policies and sizes, its 95 % bootstrap interval and the number of pairs. "
      "1: replay puts policies in the very order that live does. Bold: the interval holds 0, so replay is not "
      "shown to predict anything there. The full cache is not counted. A dash: fewer than three pairs or all "
      "alike.");
}

std::vector<std::string> Sentences(const std::vector<Choice>& choices) {
  std::vector<std::string> good, open;
  for (size_t i = 1; i < choices.size(); ++i) {
    for (const ReplayFigure& replay : kReplayFigures) {
      const auto rank = Correlation(choices[i].pairs, replay, LiveFigures()[1]);
      if (!rank) continue;
      (rank->low > 0 ? good : open)
          .push_back(StrCat(replay.name, " over ", choices[i].name, " (",
                            SignedText(rank->rho, {.decimals = 2, .has_sign = false}), ")"));
    }
  }
  std::vector<std::string> sentences;
  if (!good.empty()) sentences.push_back("Replay is shown to order live answer NLL by " + Listed(good) + ".");
  if (!open.empty()) sentences.push_back("It is not shown to by " + Listed(open) + ".");
  return sentences;
}

// One series per treatment: the clouds part where replay's figure means something else.
void TreatmentScatter(ReportPage& page, const Fidelity& fidelity, const ReplayFigure& replay, const std::string& slug) {
  ScatterSpec spec;
  spec.x_label = StrCat("replay ", replay.name);
  spec.y_label = "live answer NLL, nats per token";
  double x_low = 1e300, x_high = 0, y_low = 1e300, y_high = 0;
  const PolicyLook looks[] = {{"#d55e00", "", Marker::kTriangle, true, false},
                              {"#009e73", "", Marker::kSquare, true, false},
                              {"#0072b2", "", Marker::kCircle, true, false}};
  for (const Treatment treatment : {Treatment::kDrops, Treatment::kPacks, Treatment::kBoth}) {
    ChartSeries series{Words(treatment), looks[static_cast<size_t>(treatment)], {}};
    series.is_scattered = true;
    for (const FidelityPair& pair : fidelity.pairs) {
      const auto x = pair.*replay.value;
      if (pair.policy == "full" || TreatmentOf(pair) != treatment || !x || !pair.answer_nll) continue;
      if (*x <= 0 || *pair.answer_nll <= 0) continue;
      series.points.push_back({*x, *pair.answer_nll, {}, {}});
      x_low = std::min(x_low, *x);
      x_high = std::max(x_high, *x);
      y_low = std::min(y_low, *pair.answer_nll);
      y_high = std::max(y_high, *pair.answer_nll);
    }
    if (!series.points.empty()) spec.series.push_back(std::move(series));
  }
  if (spec.series.empty()) return;
  spec.x_log = x_high > 15 * x_low;
  spec.y_log = y_high > 15 * y_low;
  if (spec.x_log) spec.x_label += " (logarithmic)";
  if (spec.y_log) spec.y_label += " (logarithmic)";
  page.Figure(slug, ScatterChart(spec),
              StrCat("Each mark is a policy at a size. One rising cloud: ", replay.name,
                     " predicts the answer whatever a policy does to entries; clouds beside each other: only among "
                     "policies that do the same. Figures of 0 are not drawn."));
}

}  // namespace

void WriteStudyPrediction(ReportPage& page, const StudyContext& context) {
  if (!SayIfMissing(page, context.study, "main", context.main)) return;
  int shown = 0;
  for (const StudyTable& table : context.main) {
    const Fidelity fidelity = CompareFidelity(RowsOfMode(table.data, "replay"), RowsOfMode(table.data, "live"));
    if (fidelity.pairs.empty()) continue;
    ++shown;
    if (const std::string title = table.Title(); !title.empty())
      page.Subheading(static_cast<char>(std::toupper(title[0])) + title.substr(1));
    const std::vector<Choice> choices = Choices(fidelity);
    std::vector<std::string> sentences = Sentences(choices);
    std::set<std::string> prompts;
    for (const Results::Row* row : RowsOfMode(table.data, "replay")) prompts.insert(PromptKey(row->figures));
    sentences.push_back(StrCat("Prompts replayed: ", prompts.size(), "."));
    page.List(sentences);
    const std::string suffix = table.protocol.empty() ? "" : "_" + table.protocol;
    page.BeginRow();
    TreatmentScatter(page, fidelity, kReplayFigures[0], "prediction_loss" + suffix);
    TreatmentScatter(page, fidelity, kReplayFigures[1], "prediction_error" + suffix);
    page.EndRow();
    CorrelationTable(page, choices);
  }
  if (shown == 0) {
    page.Paragraph(
        "No prompt of the main arm was both replayed and run live, so there is nothing to set side by side.");
  }
}

}  // namespace kvscope
