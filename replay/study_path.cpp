// SPDX-License-Identifier: Apache-2.0
// Along the half-life the method's relevance passes from TOVA (only the newest query counts) by SnapKV (about a window
// of queries) to H2O (all queries since the start): answer NLL on that path, with the three beside it.
#include <algorithm>
#include <cmath>
#include <set>

#include "core/error.h"
#include "replay/chart_axis.h"
#include "replay/study_ablation.h"
#include "replay/study_sections.h"

namespace kvscope {
namespace {

struct PathPoint {
  double half_life;
  const Cell* cell;
};

// The method itself and its variants that change nothing but the half-life.
std::vector<PathPoint> PathAt(const StudyTable& table, const std::string& method, double fraction) {
  std::vector<PathPoint> points;
  for (const Cell& cell : table.data.cells) {
    if (cell.mode != "live" || table.At(cell.label, fraction) != &cell || !cell.Mean("answer_nll")) continue;
    const ResultRow& row = cell.rows[0]->figures;
    const Variant variant = VariantOf(row, method);
    if (!variant.is_base && variant.factor != "half_life") continue;
    if (const auto half_life = ParameterOf(row, "half_life")) points.push_back({*half_life, &cell});
  }
  std::sort(points.begin(), points.end(), [](const auto& a, const auto& b) { return a.half_life < b.half_life; });
  return points;
}

// The rows of a cell whose prompts another cell has too.
Cell OnPromptsOf(const Cell& cell, const Cell& other) {
  std::set<std::string> prompts;
  for (const Results::Row* row : other.rows) prompts.insert(PromptKey(row->figures));
  Cell shared = cell;
  std::erase_if(shared.rows, [&](const Results::Row* row) { return !prompts.count(PromptKey(row->figures)); });
  return shared;
}

std::optional<ChartPoint> NllPoint(const Cell& cell, double x) {
  const auto pooled = cell.Pool("answer_nll");
  if (!pooled) return std::nullopt;
  ChartPoint point{x, pooled->mean, {}, {}};
  if (pooled->rows > 1) {
    point.low = std::max(0.0, pooled->mean - pooled->standard_error);
    point.high = pooled->mean + pooled->standard_error;
  }
  return point;
}

struct Landmark {
  const char* policy;
  double half_life;
};

std::optional<Svg> PathChart(const StudyContext& context, const StudyTable& table, double fraction,
                             std::vector<std::string>& absent) {
  const auto path = PathAt(table, context.method(), fraction);
  if (path.size() < 2) return std::nullopt;
  LineChartSpec spec;
  spec.x_label = "half-life of relevance, queries";
  spec.y_label = StrCat("answer NLL, nats per token, ", FractionText(fraction));
  ChartSeries line{context.method(), context.LookOf(table.LabelOf(context.method())), {}};
  line.is_strong = true;
  for (const PathPoint& one : path) line.points.push_back(*NllPoint(*one.cell, one.half_life));
  const double shortest = path.front().half_life, longest = path.back().half_life;
  static constexpr double kWindow = 0;  // stands at the policy's window
  const Landmark landmarks[] = {
      {"tova", shortest / 2}, {"snapkv", kWindow}, {"observed_attention", longest * 2}, {"h2o", longest * 2}};
  for (const Landmark& landmark : landmarks) {
    const StudyTable* main = context.Main("prompt");
    const Cell* cell = table.At(table.LabelOf(landmark.policy), fraction);
    if (!cell && main) cell = main->At(main->LabelOf(landmark.policy), fraction);
    const auto look = context.looks.find(landmark.policy);
    if (!cell || look == context.looks.end()) {
      absent.emplace_back(landmark.policy);
      continue;
    }
    const Cell shared = OnPromptsOf(*cell, *path.front().cell);
    double x = landmark.half_life;
    if (x == kWindow) x = ParameterOf(cell->rows[0]->figures, "window").value_or(std::sqrt(shortest * longest));
    const auto point = NllPoint(shared, std::clamp(x, shortest / 2, longest * 2));
    if (!point) {
      absent.emplace_back(landmark.policy);
      continue;
    }
    spec.series.push_back({landmark.policy, look->second, {*point}});
  }
  spec.series.push_back(std::move(line));
  double low = 1e300, high = 0;
  for (const ChartSeries& series : spec.series) {
    for (const ChartPoint& point : series.points) {
      low = std::min(low, point.y);
      high = std::max(high, point.y);
    }
  }
  spec.y_log = low > 0 && high > 12 * low;
  if (spec.y_log) spec.y_label += " (logarithmic)";
  return LineChart(spec);
}

std::string BestSentence(const StudyContext& context, const StudyTable& table) {
  std::vector<std::string> parts;
  for (const double fraction : table.fractions) {
    const auto path = PathAt(table, context.method(), fraction);
    if (path.size() < 2) continue;
    const auto best = std::min_element(path.begin(), path.end(), [](const auto& a, const auto& b) {
      return *a.cell->Mean("answer_nll") < *b.cell->Mean("answer_nll");
    });
    parts.push_back(StrCat("at ", fraction, " of the bytes ", CountText(best->half_life),
                           best->half_life == 1 ? " query (" : " queries (", MeanText(best->cell, "answer_nll"),
                           " nats, of ", path.size(), " half-lives)"));
  }
  return parts.empty() ? "" : "The half-life with the lowest mean answer NLL: " + Listed(parts) + ".";
}

}  // namespace

void WriteHalfLifePath(ReportPage& page, const StudyContext& context, const StudyTable& table) {
  page.Subheading("From TOVA to H2O");
  std::set<std::string> missing;
  int drawn = 0;
  page.BeginRow();
  for (const double fraction : table.fractions) {
    std::vector<std::string> absent;
    const auto chart = PathChart(context, table, fraction, absent);
    if (!chart) continue;
    ++drawn;
    missing.insert(absent.begin(), absent.end());
    page.Figure(
        StrCat("half_life_", fraction), *chart,
        StrCat("Answer NLL of ", context.method(), " against the half-life of its relevance, ", FractionText(fraction),
               ". The policies that the path passes stand where they belong on it, on the same prompts: tova, which "
               "hears the newest query alone, at the short end, snapkv at its window, observed_attention and "
               "h2o, which never forget, at the long end. They only evict, so what lies between them and the "
               "line is also the packing. Bars are one "
               "standard error over prompts."));
  }
  page.EndRow();
  if (drawn == 0) {
    page.Paragraph("Fewer than two half-lives were run, so there is no path to draw.");
    return;
  }
  page.Paragraph(BestSentence(context, table));
  if (!missing.empty()) page.Paragraph("Not run on these prompts: " + Listed({missing.begin(), missing.end()}) + ".");
}

}  // namespace kvscope
