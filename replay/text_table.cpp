// SPDX-License-Identifier: Apache-2.0
#include "replay/text_table.h"

#include <algorithm>

#include "core/error.h"
#include "replay/chart_axis.h"
#include "replay/fidelity.h"
#include "replay/report_data.h"

namespace kvscope {
namespace {

// Columns of a monospaced terminal: one per code point.
size_t Columns(const std::string& text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

std::string OrDash(const std::optional<double>& value, std::string (*format)(double)) {
  return value ? format(*value) : "–";
}
std::string Plain(double value) {
  return NumberText(value);
}
std::string Percent(double value) {
  return PercentText(value);
}

std::string AccuracyText(const std::optional<Accuracy>& accuracy) {
  if (!accuracy) return "–";
  const std::string count = StrCat(CountText(accuracy->successes), "/", CountText(accuracy->n));
  return accuracy->n < 5 ? count : StrCat(PercentText(accuracy->Share()), " (", count, ")");
}

std::vector<std::string> SummaryLine(const ReportData& data, const std::string& label, const Budget& budget) {
  const Cell *replay = data.Find(label, "replay", budget), *live = data.Find(label, "live", budget);
  if (!replay && !live) return {};
  const auto mean = [](const Cell* cell, std::string_view column) { return cell ? cell->Mean(column) : std::nullopt; };
  auto retention = mean(replay, "needle_retention");
  if (!retention) retention = mean(live, "needle_retention");
  auto bytes = live ? live->Bytes() : std::nullopt;
  if (!bytes && replay) bytes = replay->Bytes();
  const auto kept = mean(replay ? replay : live, "kept_fraction");
  return {label,
          OrDash(kept, Percent),
          AccuracyText(live ? live->PooledAccuracy() : std::nullopt),
          OrDash(mean(live, "answer_nll"), Plain),
          OrDash(mean(live, "perplexity"), Plain),
          OrDash(mean(live, "kl"), Plain),
          OrDash(mean(replay, "attention_loss"), Plain),
          OrDash(retention, Percent),
          bytes ? BytesText(*bytes) : "–"};
}

// Leaves out columns in which no row but the first says anything.
std::vector<std::vector<std::string>> WithoutEmptyColumns(const std::vector<std::vector<std::string>>& rows) {
  std::vector<std::vector<std::string>> filled(rows.size());
  for (size_t column = 0; column < rows[0].size(); ++column) {
    if (std::all_of(rows.begin() + 1, rows.end(), [&](const auto& row) { return row[column] == "–"; })) continue;
    for (size_t row = 0; row < rows.size(); ++row) filled[row].push_back(rows[row][column]);
  }
  return filled;
}

}  // namespace

std::string AlignedTable(const std::vector<std::vector<std::string>>& rows, size_t left_columns) {
  std::vector<size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()), 0);
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], Columns(row[i]));
  }
  std::string text;
  for (size_t r = 0; r < rows.size(); ++r) {
    std::string line;
    for (size_t i = 0; i < rows[r].size(); ++i) {
      const std::string pad(widths[i] - Columns(rows[r][i]), ' ');
      if (i > 0) line += "  ";
      line += i < left_columns ? rows[r][i] + pad : pad + rows[r][i];
    }
    while (!line.empty() && line.back() == ' ') line.pop_back();
    text += line + "\n";
    if (r == 0) {
      size_t width = 0;
      for (const size_t column : widths) width += column + 2;
      for (size_t i = 0; i + 2 < width; ++i) text += "─";
      text += "\n";
    }
  }
  return text;
}

std::string SummaryTable(const Results& results) {
  std::string text;
  const std::vector<ReportData> groups = GatherReportData(results);
  for (const ReportData& data : groups) {
    if (groups.size() > 1) text += StrCat(text.empty() ? "" : "\n", data.model, ", ", data.task, "\n");
    std::vector<std::vector<std::string>> rows{{"policy", "kept", "live accuracy", "answer NLL", "perplexity",
                                                "live KL", "attention loss", "needle kept", "KV cache"}};
    for (const Budget& budget : data.budgets) {
      for (const PolicyName& policy : data.policies) {
        if (auto line = SummaryLine(data, policy.label, budget); !line.empty()) rows.push_back(std::move(line));
      }
    }
    if (rows.size() > 1) text += AlignedTable(WithoutEmptyColumns(rows));
  }
  return text;
}

std::string FidelityTable(const Fidelity& fidelity) {
  std::vector<std::vector<std::string>> rows{
      {"policy", "keep", "runs", "same entries", "lowest", "attention loss", "live KL", "live answer NLL"}};
  for (const FidelityPair& pair : fidelity.pairs) {
    rows.push_back({pair.label, pair.budget.empty() ? "–" : pair.budget, StrCat(pair.runs), OrDash(pair.jaccard, Plain),
                    OrDash(pair.jaccard_lowest, Plain), OrDash(pair.attention_loss, Plain), OrDash(pair.kl, Plain),
                    OrDash(pair.answer_nll, Plain)});
  }
  std::string text = AlignedTable(rows);
  for (const FidelityCorrelation& correlation : fidelity.correlations) {
    text += StrCat("rank correlation of replay's ",
                   correlation.replay_figure == "output_error" ? "output error" : "attention loss", " with live ",
                   correlation.live_figure == "kl" ? "KL" : "answer NLL",
                   correlation.budget.empty() ? ", all budgets" : StrCat(", keep ", correlation.budget), ": ",
                   FixedText(correlation.rank.rho, 2), " (95 % ", FixedText(correlation.rank.low, 2), " to ",
                   FixedText(correlation.rank.high, 2), ", n = ", correlation.rank.n, ")\n");
  }
  return text;
}

std::string RefusalText(const Results& results) {
  const auto is_refused = [](const Results::Row& row) { return row.figures.Has("refused_reason"); };
  const auto first = std::ranges::find_if(results.rows, is_refused);
  if (first == results.rows.end()) return "";
  return StrCat(std::ranges::count_if(results.rows, is_refused), " of ", results.rows.size(),
                " rows were refused, the first: ", first->figures.Text("policy"), ": ",
                first->figures.Text("refused_reason"));
}

}  // namespace kvscope
