// SPDX-License-Identifier: Apache-2.0
// The prompts that the full cache answers and the method does not: what was left of the needle, head by head, and how
// far its best token was from being kept.
#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "core/error.h"
#include "replay/chart_axis.h"
#include "replay/chart_matrix.h"
#include "replay/report_sections.h"
#include "replay/study_sections.h"

namespace kvscope {
namespace {

constexpr size_t kMostDrawn = 4;  // failures drawn per protocol

struct Case {
  double fraction = 0;
  const Results::Row *mine = nullptr, *full = nullptr;
  const Results::Row* arrays = nullptr;  // the row that says what became of the needle, live or replayed
  double Loss() const {
    return mine->figures.Number("answer_nll").value_or(0) - full->figures.Number("answer_nll").value_or(0);
  }
};

const Results::Row* RowOf(const Cell* cell, const std::string& prompt) {
  if (!cell) return nullptr;
  for (const Results::Row* row : cell->rows) {
    if (PromptKey(row->figures) == prompt) return row;
  }
  return nullptr;
}

bool SaysWhatIsLeft(const Results::Row* row) {
  return row && (row->Find("needle_bits") || row->Find("needle_retention"));
}

// All prompts of a size that the full cache answers, the worst for the method first.
std::vector<Case> CasesAt(const StudyTable& table, const std::string& method, double fraction) {
  std::vector<Case> cases;
  const Cell *cell = table.At(method, fraction), *full = table.Fixed(table.LabelOf("full"));
  if (!cell) return cases;
  for (const Results::Row* row : cell->rows) {
    const std::string prompt = PromptKey(row->figures);
    const Results::Row* reference = RowOf(full, prompt);
    if (!reference || reference->figures.Number("metric_value").value_or(0) < 1) continue;
    Case one{fraction, row, reference, SaysWhatIsLeft(row) ? row : nullptr};
    const Results::Row* replayed = RowOf(table.At(method, fraction, "replay"), prompt);
    if (!one.arrays && SaysWhatIsLeft(replayed)) one.arrays = replayed;
    cases.push_back(one);
  }
  std::stable_sort(cases.begin(), cases.end(), [](const auto& a, const auto& b) { return a.Loss() > b.Loss(); });
  return cases;
}

std::string Prompts(size_t count) {
  return StrCat(count, count == 1 ? " prompt" : " prompts");
}

bool Failed(const Case& one) {
  return one.mine->figures.Number("metric_value").value_or(1) < 1;
}

std::string CaseName(const Case& one) {
  const ResultRow& row = one.mine->figures;
  std::string name = row.Text("trace");
  name.erase(0, name.rfind('/') + 1);
  name.resize(std::min(name.find(".kvtrace"), name.size()));
  return StrCat(name, ", ", FractionText(one.fraction));
}

// Best rank of any needle token over the entries kept, by layer and KV head; below 1 it was kept.
std::optional<NamedArray> BestRank(const Case& one) {
  const NamedArray* rank = one.arrays ? one.arrays->Find("needle_rank") : nullptr;
  if (!rank && one.mine) rank = one.mine->Find("needle_rank");
  const auto kept = one.mine->figures.Number("kept_tokens");
  if (!rank || rank->shape.size() != 3 || rank->shape[2] == 0 || !kept || *kept <= 0) return std::nullopt;
  NamedArray best{"best_rank", {"layer", "kv_head"}, {rank->shape[0], rank->shape[1]}, {}};
  const auto count = static_cast<size_t>(rank->shape[2]);
  for (size_t head = 0; head < rank->values.size() / count; ++head) {
    float lowest = std::numeric_limits<float>::quiet_NaN();
    for (size_t i = 0; i < count; ++i) {
      const float value = rank->values[head * count + i];
      if (std::isfinite(value) && !(lowest <= value)) lowest = value;
    }
    best.values.push_back(lowest / static_cast<float>(*kept));
  }
  return best;
}

std::string RankNote(const NamedArray& best, double kept) {
  double lowest = std::numeric_limits<double>::infinity();
  int inside = 0, heads = 0;
  for (const float value : best.values) {
    if (!std::isfinite(value)) continue;
    lowest = std::min(lowest, static_cast<double>(value));
    inside += value < 1;
    ++heads;
  }
  if (heads == 0) return "";
  return StrCat("best rank ", CountText(std::round(lowest * kept)), " where ", CountText(std::round(kept)),
                " are kept; inside in ", inside, " of ", heads, " heads");
}

void DrawCases(ReportPage& page, const StudyTable& table, const std::vector<Case>& cases, const std::string& slug,
               const std::string& words) {
  MatrixChartSpec left, rank;
  const auto has = [](const Case& one, const char* name) { return one.arrays->Find(name) != nullptr; };
  const bool bits = std::all_of(cases.begin(), cases.end(), [&](const Case& one) { return has(one, "needle_bits"); });
  for (const Case& one : cases) {
    const NamedArray* array = one.arrays->Find(bits ? "needle_bits" : "needle_retention");
    if (!array || array->shape.size() != 2) continue;
    MatrixPanel panel = HeadPanel(*array);
    panel.title = CaseName(one);
    if (const double mean = MeanOf(*array); std::isfinite(mean))
      panel.note = "mean " + (bits ? FixedText(mean, 1) : PercentText(mean));
    left.panels.push_back(std::move(panel));
    const auto best = BestRank(one);
    if (!best) continue;
    panel = HeadPanel(*best);
    panel.title = CaseName(one);
    panel.note = RankNote(*best, *one.mine->figures.Number("kept_tokens"));
    rank.panels.push_back(std::move(panel));
  }
  for (MatrixChartSpec* spec : {&left, &rank}) {
    spec->panels_across = 1;
    NameAxes(table.data, HeadAxis::kKvHeads, 420, *spec);
  }
  if (left.panels.empty()) return;
  left.alt = "what was left of the needle, by layer and KV head";
  left.high = bits ? 16 : 1;
  left.unit = bits ? Unit::kPlain : Unit::kPercent;
  left.scale_label = bits ? "bits of the needle's entries, 0: dropped" : "share of the needle's entries kept";
  page.BeginRow();
  page.Figure(slug + "_left", MatrixChart(left),
              StrCat(words,
                     bits ? ": mean bits per channel of the needle's entries right after the decision"
                          : ": share of the needle's entries that were kept",
                     ". Pale cells have lost it."));
  if (!rank.panels.empty()) {
    rank.alt = "rank of the needle's best token over the entries kept, by layer and KV head";
    rank.high = 2;
    rank.diverging = true;
    rank.scale_label = "rank of the best needle token / entries kept";
    page.Figure(
        slug + "_rank", MatrixChart(rank),
        "Where the needle's best token stood in the policy's order, over the entries kept. Below 1 (blue, with a "
        "dot) it was inside; above 1 (orange) that many times too far down.");
  }
  page.EndRow();
}

std::string CaseLine(const Case& one) {
  const auto nll = [](const Results::Row* row) {
    const auto value = row->figures.Number("answer_nll");
    return value ? NumberText(*value) : "–";
  };
  const auto best = BestRank(one);
  const auto kept = one.mine->figures.Number("kept_tokens");
  std::string text =
      StrCat(CaseName(one), ": answer NLL ", nll(one.mine), " nats against the full cache's ", nll(one.full));
  if (const auto prefix = one.mine->figures.Number("answer_prefix"))
    text += StrCat(", ", CountText(*prefix), *prefix == 1 ? " right leading digit" : " right leading digits");
  if (best) text += "; of the needle, " + RankNote(*best, *kept);
  return text;
}

// What happened at each size: failures in full, else the nearest to one.
void WriteProtocol(ReportPage& page, const StudyContext& context, const StudyTable& table) {
  const std::string method = table.LabelOf(context.method());
  std::vector<std::string> lines;
  std::vector<Case> failures, nearest;
  for (const double fraction : table.fractions) {
    const auto cases = CasesAt(table, method, fraction);
    if (cases.empty()) continue;
    std::vector<Case> failed;
    std::copy_if(cases.begin(), cases.end(), std::back_inserter(failed), Failed);
    const std::string title = FractionText(fraction);
    if (failed.empty()) {
      lines.push_back(StrCat(title, ": ", method, " answers all ", Prompts(cases.size()),
                             " that the full cache answers; nearest to failing is ", CaseLine(cases[0])));
      nearest.push_back(cases[0]);
      continue;
    }
    lines.push_back(StrCat(title, ": ", method, " fails on ", failed.size(), " of the ", Prompts(cases.size()),
                           " that the full cache answers. Worst is ", CaseLine(failed[0])));
    failures.insert(failures.end(), failed.begin(), failed.end());
  }
  if (lines.empty()) {
    page.Paragraph(StrCat("No prompt was answered by the full cache and tried with ", context.method(), "."));
    return;
  }
  page.List(lines);
  const std::string suffix = table.protocol.empty() ? "" : "_" + table.protocol;
  for (const bool is_failure : {true, false}) {
    std::vector<Case>& cases = is_failure ? failures : nearest;
    std::erase_if(cases, [](const Case& one) { return !one.arrays; });
    // The mildest sizes first: a failure at a large size tells most.
    std::stable_sort(cases.begin(), cases.end(), [&](const auto& a, const auto& b) {
      return is_failure ? a.fraction > b.fraction : a.fraction < b.fraction;
    });
    const size_t all = cases.size();
    if (cases.empty() || (!is_failure && !failures.empty())) continue;
    cases.resize(std::min(cases.size(), is_failure ? kMostDrawn : size_t{1}));
    DrawCases(page, table, cases, (is_failure ? "failures" : "nearest") + suffix,
              is_failure
                  ? StrCat("Failures of ", method, ", ", cases.size(), " of ", all, " shown, largest sizes first")
                  : "The prompt nearest to failing, at the smallest size without a failure");
  }
  if (failures.empty() && nearest.empty()) {
    page.Paragraph("No row of these prompts says what was left of the needle, so there is nothing to draw.");
  }
}

}  // namespace

void WriteStudyFailures(ReportPage& page, const StudyContext& context) {
  if (!SayIfMissing(page, context.study, "main", context.main)) return;
  for (const StudyTable& table : context.main) {
    if (const std::string title = table.Title(); context.main.size() > 1 || !title.empty()) {
      page.Subheading(title.empty() ? "All prompts" : static_cast<char>(std::toupper(title[0])) + title.substr(1));
    }
    if (table.LabelOf("full").empty()) {
      page.Paragraph("The full cache was not run: a failure of the policy cannot be told from one of the model.");
      continue;
    }
    WriteProtocol(page, context, table);
  }
}

}  // namespace kvscope
