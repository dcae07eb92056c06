// SPDX-License-Identifier: Apache-2.0
// The table of everything, and sentences about it.
#include <algorithm>
#include <cctype>
#include <cmath>
#include <functional>

#include "core/error.h"
#include "replay/chart_axis.h"
#include "replay/report_sections.h"

namespace kvscope {
namespace {

constexpr double kMinSamples = 5;  // an accuracy of fewer is not printed

enum class Better { kNone, kLow, kHigh };

struct Figure {
  const char *name, *column, *help;
  Better better;
  std::function<std::string(double)> text;
};

std::string Plain(double value) {
  return NumberText(value);
}
std::string Short(double value) {
  return NumberText(value, 2);
}
std::string Percent(double value) {
  return PercentText(value);
}

const std::vector<Figure>& ReplayFigures() {
  static const std::vector<Figure> figures = {
      {"attention loss", "attention_loss", "1 - full-cache weight on what was kept", Better::kLow, Plain},
      {"output error", "output_error", "relative error of head outputs", Better::kLow, Plain},
      {"needle kept", "needle_retention", "share of needle entries kept", Better::kHigh, Percent},
      {"needle weight", "needle_weight_ratio", "weight on the needle, of the full cache's", Better::kHigh, Plain}};
  return figures;
}

const std::vector<Figure>& LiveFigures() {
  static const std::vector<Figure> figures = {
      {"answer NLL", "answer_nll", "nats per answer token, teacher-forced", Better::kLow, Plain},
      {"rank", "answer_rank", "of the answer's first token; 1 is best", Better::kLow, Short},
      {"prefix", "answer_prefix", "right leading digits", Better::kHigh, Short},
      {"perplexity", "perplexity", "of the continuation", Better::kLow, Plain},
      {"KL", "kl", "nats per token, to the full cache", Better::kLow, Plain},
      {"needle kept", "needle_retention", "share of needle entries kept", Better::kHigh, Percent},
      {"tokens/s", "tokens_per_s", "decoding speed", Better::kHigh, Short}};
  return figures;
}

bool AnyHas(const ReportData& data, std::string_view mode, std::string_view column) {
  return std::any_of(data.cells.begin(), data.cells.end(),
                     [&](const Cell& cell) { return cell.mode == mode && cell.Mean(column); });
}

std::vector<Figure> Measured(const ReportData& data, std::string_view mode, const std::vector<Figure>& figures) {
  std::vector<Figure> measured;
  for (const Figure& figure : figures) {
    // The needle is shown live only where replay did not measure it.
    if (mode == "live" && std::string_view(figure.column) == "needle_retention" &&
        AnyHas(data, "replay", figure.column))
      continue;
    if (AnyHas(data, mode, figure.column)) measured.push_back(figure);
  }
  return measured;
}

// Lower is better; policies without any figure come last.
double Merit(const ReportData& data, const std::string& label, const Budget& budget) {
  const std::pair<const char*, const char*> figures[] = {{"live", "answer_nll"},
                                                         {"live", "kl"},
                                                         {"live", "perplexity"},
                                                         {"replay", "output_error"},
                                                         {"replay", "attention_loss"}};
  for (const auto& [mode, column] : figures) {
    if (!AnyHas(data, mode, column)) continue;
    const Cell* cell = data.Find(label, mode, budget);
    const auto mean = cell ? cell->Mean(column) : std::nullopt;
    return mean ? *mean : 1e300;
  }
  return 1e300;
}

// Policies that were run at this budget: references first in their order, the rest from best to worst.
std::vector<PolicyName> Ordered(const ReportData& data, const Budget& budget) {
  std::vector<PolicyName> names;
  for (const PolicyName& name : data.policies) {
    if (data.Find(name.label, "replay", budget) || data.Find(name.label, "live", budget)) names.push_back(name);
  }
  std::stable_sort(names.begin(), names.end(), [&](const PolicyName& a, const PolicyName& b) {
    const bool reference_a = data.IsReference(a.label), reference_b = data.IsReference(b.label);
    if (reference_a != reference_b) return reference_a;
    return !reference_a && Merit(data, a.label, budget) < Merit(data, b.label, budget);
  });
  return names;
}

std::string AccuracyText(const Cell* live) {
  const auto accuracy = live ? live->PooledAccuracy() : std::nullopt;
  if (!accuracy) return "–";
  const std::string count = StrCat(CountText(accuracy->successes), " of ", CountText(accuracy->n));
  if (accuracy->n < kMinSamples) return count;
  const Interval interval = WilsonInterval(accuracy->successes, accuracy->n);
  return StrCat(PercentText(accuracy->Share()), " (", CountText(accuracy->successes), "/", CountText(accuracy->n), "; ",
                NumberText(interval.low * 100, 2), "–", NumberText(interval.high * 100, 2), ")");
}

struct TableMaker {
  const ReportData& data;
  std::vector<Figure> replay, live;
  bool has_accuracy = false;

  explicit TableMaker(const ReportData& all)
      : data(all), replay(Measured(all, "replay", ReplayFigures())), live(Measured(all, "live", LiveFigures())) {
    for (const Cell& cell : data.cells) has_accuracy = has_accuracy || (cell.mode == "live" && cell.PooledAccuracy());
  }

  std::vector<ReportPage::Column> Columns() const {
    std::vector<ReportPage::Column> columns{{"policy", "", true},
                                            {"kept", "bytes kept over the full cache's", false},
                                            {"KV cache", "mean bytes of the cache", false}};
    for (const Figure& figure : replay) columns.push_back({figure.name, figure.help, false});
    if (has_accuracy) columns.push_back({"accuracy", "share of right answers, n, 95 % Wilson interval", false});
    for (const Figure& figure : live) columns.push_back({figure.name, figure.help, false});
    return columns;
  }

  std::vector<ReportPage::TableRow> Block(const Budget& budget) const {
    const std::vector<PolicyName> names = Ordered(data, budget);
    std::vector<ReportPage::TableRow> rows;
    for (const PolicyName& name : names) rows.push_back(Row(name, budget));
    MarkBest(rows, names, budget);
    if (!rows.empty()) rows[0].starts_block = true;
    return rows;
  }

  ReportPage::TableRow Row(const PolicyName& name, const Budget& budget) const {
    const Cell *from_replay = data.Find(name.label, "replay", budget),
               *from_live = data.Find(name.label, "live", budget);
    const Cell* either = from_live ? from_live : from_replay;
    ReportPage::TableRow row;
    row.quiet = data.IsReference(name.label);
    row.cells.push_back(name.label);
    const auto kept = either->Mean("kept_fraction");
    row.cells.push_back(kept ? PercentText(*kept, *kept < 0.1 ? 1 : 0) : "–");
    const auto bytes = data.Bytes(*either);
    row.cells.push_back(bytes ? BytesText(*bytes) + (data.ReadsLessThanItHolds(*either) ? " read" : "") : "–");
    AddFigures(row, from_replay, replay);
    if (has_accuracy) row.cells.push_back(AccuracyText(from_live));
    AddFigures(row, from_live, live);
    return row;
  }

  static void AddFigures(ReportPage::TableRow& row, const Cell* cell, const std::vector<Figure>& figures) {
    for (const Figure& figure : figures) {
      const auto mean = cell ? cell->Mean(figure.column) : std::nullopt;
      row.cells.push_back(mean ? figure.text(*mean) : "–");
    }
  }

  // The best of a block is set strong, references left out.
  void MarkBest(std::vector<ReportPage::TableRow>& rows, const std::vector<PolicyName>& names,
                const Budget& budget) const {
    if (budget.label.empty()) return;
    size_t column = 3;
    const auto mark = [&](const std::vector<Figure>& figures, std::string_view mode) {
      for (const Figure& figure : figures) {
        std::vector<std::pair<double, size_t>> values;
        for (size_t i = 0; i < names.size(); ++i) {
          const Cell* cell = data.Find(names[i].label, mode, budget);
          const auto mean = cell && !data.IsReference(names[i].label) ? cell->Mean(figure.column) : std::nullopt;
          if (mean) values.emplace_back(figure.better == Better::kHigh ? -*mean : *mean, i);
        }
        if (values.size() > 1 && figure.better != Better::kNone && std::string_view(figure.column) != "tokens_per_s") {
          const double best = std::min_element(values.begin(), values.end())->first;
          for (const auto& [value, i] : values) {
            rows[i].strong.resize(rows[i].cells.size());
            if (value == best) rows[i].strong[column] = true;
          }
        }
        ++column;
      }
    };
    mark(replay, "replay");
    column += has_accuracy;
    mark(live, "live");
  }
};

// What every table should have: rows to compare with.
std::vector<std::string> MissingReferences(const ReportData& data) {
  std::vector<std::string> missing;
  const auto any = [&](const auto& test) { return std::any_of(data.policies.begin(), data.policies.end(), test); };
  if (!any([](const PolicyName& name) { return name.policy == "full"; })) missing.push_back("full");
  if (!any([](const PolicyName& name) { return name.policy.starts_with("random"); })) missing.push_back("random");
  if (!any([](const PolicyName& name) { return name.policy.find("oracle") != std::string::npos; }))
    missing.push_back("an oracle");
  return missing;
}

// The best and the worst non-reference policy at a budget by a figure, lower being better.
std::string BestAndWorst(const ReportData& data, const Budget& budget, const char* mode, const char* column,
                         const char* name, const char* unit) {
  const Cell *best = nullptr, *worst = nullptr, *random = nullptr;
  int count = 0;
  for (const Cell& cell : data.cells) {
    if (cell.mode != mode || !(cell.budget == budget) || !cell.Mean(column)) continue;
    if (cell.policy.starts_with("random")) random = &cell;
    if (data.IsReference(cell.label)) continue;
    ++count;
    if (!best || *cell.Mean(column) < *best->Mean(column)) best = &cell;
    if (!worst || *cell.Mean(column) > *worst->Mean(column)) worst = &cell;
  }
  if (count < 2) return "";
  const auto value = [&](const Cell* cell) { return NumberText(*cell->Mean(column)); };
  const Cell* full = data.Full(mode);
  std::vector<std::string> compared;
  if (full && full->Mean(column)) compared.push_back("full cache " + value(full));
  if (random) compared.push_back("random " + value(random));
  return StrCat(" of ", count, " policies ", best->label, " has the lowest ", name, " (", value(best), unit, "), ",
                worst->label, " the highest (", value(worst), unit, ")",
                compared.empty() ? "" : "; " + Listed(compared), ".");
}

std::string AccuracySentence(const ReportData& data, const Budget& budget) {
  std::vector<std::string> all, none;
  double n = 0;
  size_t count = 0;
  for (const Cell& cell : data.cells) {
    if (cell.mode != "live" || !(cell.budget == budget) || data.IsReference(cell.label)) continue;
    const Accuracy accuracy = cell.PooledAccuracy().value_or(Accuracy{});
    if (accuracy.n <= 0) continue;
    ++count;
    n = std::max(n, accuracy.n);
    if (accuracy.successes == accuracy.n) all.push_back(cell.label);
    if (accuracy.successes == 0) none.push_back(cell.label);
  }
  if (count == 0) return "";
  const std::string needles = StrCat(CountText(n), n == 1 ? " needle" : " needles");
  if (none.size() == count) return StrCat(" None of them answers any of ", needles, ".");
  if (all.size() == count) return StrCat(" All of them answer all of ", needles, ".");
  std::string text = StrCat(
      " Of ", needles, ", ",
      all.empty() ? "none of them answers all" : Listed(all) + (all.size() == 1 ? " answers all" : " answer all"));
  if (!none.empty()) text += StrCat("; ", Listed(none), none.size() == 1 ? " answers none" : " answer none");
  return text + ".";
}

std::string NeedleSentence(const ReportData& data, const Budget& budget) {
  std::vector<std::string> lost;
  for (const Cell& cell : data.cells) {
    if (!(cell.budget == budget) || data.IsReference(cell.label)) continue;
    if (cell.mode != (data.HasMode("replay") ? "replay" : "live")) continue;
    const auto retention = cell.Mean("needle_retention");
    if (retention && *retention < 0.5) lost.push_back(StrCat(cell.label, " (", PercentText(*retention), ")"));
  }
  if (lost.empty()) return "";
  return StrCat(" Less than half of the needle's entries survive under ", Listed(lost), ".");
}

}  // namespace

std::string BudgetTitle(const Budget& budget) {
  if (budget.label.empty()) return "own size";
  return budget.label.find_first_not_of("0123456789.") == std::string::npos ? "kept " + budget.label : budget.label;
}

std::vector<std::string> Findings(const ReportData& data, const Fidelity& fidelity) {
  std::vector<std::string> sentences;
  for (const Budget& budget : data.budgets) {
    if (budget.label.empty()) continue;
    std::string text = BestAndWorst(data, budget, "live", "answer_nll", "answer NLL", " nats");
    text += BestAndWorst(data, budget, "live", "perplexity", "perplexity", "");
    if (text.empty()) text = BestAndWorst(data, budget, "replay", "output_error", "output error", "");
    if (text.empty()) text = BestAndWorst(data, budget, "replay", "attention_loss", "attention loss", "");
    text += AccuracySentence(data, budget) + NeedleSentence(data, budget);
    const std::string title = BudgetTitle(budget);
    if (!text.empty())
      sentences.push_back(StrCat(static_cast<char>(std::toupper(title[0])), title.substr(1), ":", text));
  }
  for (const FidelityCorrelation& correlation : fidelity.correlations) {
    if (!correlation.budget.empty() || correlation.replay_figure != "attention_loss") continue;
    sentences.push_back(StrCat("Replay's attention loss orders ", correlation.rank.n, " policy-budget pairs as live ",
                               correlation.live_figure == "kl" ? "KL" : "answer NLL", " does with Spearman's ρ = ",
                               FixedText(correlation.rank.rho, 2), " (95\u00a0% interval ",
                               FixedText(correlation.rank.low, 2), " to ", FixedText(correlation.rank.high, 2), ")."));
  }
  return sentences;
}

void WriteHeadline(ReportPage& page, const SectionContext& context) {
  const ReportData& data = context.data;
  const TableMaker maker(data);
  std::vector<ReportPage::TableRow> rows;
  for (const Budget& budget : data.budgets) {
    std::vector<ReportPage::TableRow> block = maker.Block(budget);
    rows.insert(rows.end(), block.begin(), block.end());
  }
  const int live_columns = static_cast<int>(maker.live.size()) + maker.has_accuracy;
  std::string caption = "Means over traces; accuracies are pooled and carry their 95 % Wilson interval in percent.";
  caption += " The best of a block is bold; references (grey) are there to be compared with.";
  if (const auto missing = MissingReferences(data); !missing.empty()) caption += " Not run: " + Listed(missing) + ".";
  if (!data.HasMode("live")) caption += " No live results were given: nothing here says what the model would answer.";
  if (!data.HasMode("replay")) caption += " No replay results were given.";
  page.Table({"", "replay", "live"}, {3, static_cast<int>(maker.replay.size()), live_columns}, maker.Columns(), rows,
             caption);
  if (data.refusals.empty()) return;
  page.Subheading("Not run");
  std::vector<std::string> lines;
  for (const Refusal& refusal : data.refusals) {
    const std::string line = StrCat(refusal.label, refusal.budget.empty() ? "" : " at " + refusal.budget, ", ",
                                    refusal.mode, ", ", refusal.trace, ": ", refusal.reason);
    if (lines.size() < 20) lines.push_back(line);
  }
  if (data.refusals.size() > lines.size())
    lines.push_back(StrCat("and ", data.refusals.size() - lines.size(), " more"));
  page.List(lines);
}

}  // namespace kvscope
