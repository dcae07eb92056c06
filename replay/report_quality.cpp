// SPDX-License-Identifier: Apache-2.0
// Quality against memory, accuracies, and the grid of length by depth.
#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "core/error.h"
#include "replay/chart_lines.h"
#include "replay/chart_matrix.h"
#include "replay/chart_strips.h"
#include "replay/report_sections.h"

namespace kvscope {
namespace {

constexpr double kMinSamples = 5;
constexpr double kNoValue = std::numeric_limits<double>::quiet_NaN();

struct Plot {
  const char *mode, *column, *label, *slug, *words;
  Unit unit;
};

std::optional<ChartPoint> PointOf(const ReportData& data, const Cell& cell, const Plot& plot) {
  const auto bytes = data.Bytes(cell);
  if (!bytes) return std::nullopt;
  if (std::string_view(plot.column) == "metric_value") {
    const auto accuracy = cell.PooledAccuracy();
    if (!accuracy || accuracy->n < kMinSamples) return std::nullopt;
    return ChartPoint{*bytes, accuracy->Share(), {}, {}};
  }
  const auto pooled = cell.Pool(plot.column);
  if (!pooled) return std::nullopt;
  ChartPoint point{*bytes, pooled->mean, {}, {}};
  if (pooled->rows > 1) {
    point.low = std::max(0.0, pooled->mean - pooled->standard_error);
    point.high = pooled->mean + pooled->standard_error;
  }
  return point;
}

// Values over powers of ten are drawn on a logarithmic axis, which has no place for 0: those are named in the caption.
struct QualityPicture {
  Svg svg;
  std::vector<std::string> at_zero;
};

std::optional<QualityPicture> QualityChart(const ReportData& data, const Plot& plot) {
  LineChartSpec spec;
  spec.x_label = "KV cache bytes held or read (smaller to the right)";
  spec.y_label = plot.label;
  spec.x_unit = Unit::kBytes;
  spec.y_unit = plot.unit;
  spec.reverse_x = true;
  if (plot.unit == Unit::kPercent) {
    spec.y_low = 0;
    spec.y_high = 1;
  }
  double lowest = 1e300, highest = 0;
  for (const PolicyName& name : data.policies) {
    ChartSeries series{name.label, data.looks.at(name.label), {}};
    for (const Budget& budget : data.budgets) {
      const Cell* cell = data.Find(name.label, plot.mode, budget);
      const auto point = cell ? PointOf(data, *cell, plot) : std::nullopt;
      if (!point) continue;
      series.points.push_back(*point);
      if (point->y > 0) lowest = std::min(lowest, point->y);
      highest = std::max(highest, point->y);
    }
    if (!series.points.empty()) spec.series.push_back(std::move(series));
  }
  QualityPicture picture{Svg(1, 1, ""), {}};
  spec.y_log = plot.unit == Unit::kPlain && highest > 12 * lowest;
  if (spec.y_log) {
    spec.y_label += " (logarithmic)";
    for (ChartSeries& series : spec.series) {
      const size_t before = series.points.size();
      std::erase_if(series.points, [](const ChartPoint& point) { return point.y <= 0; });
      if (series.points.size() < before) picture.at_zero.push_back(series.name);
    }
    std::erase_if(spec.series, [](const ChartSeries& series) { return series.points.empty(); });
  }
  if (spec.series.size() < 2) return std::nullopt;
  for (const ChartSeries& series : spec.series) {
    const auto name = std::find_if(data.policies.begin(), data.policies.end(),
                                   [&](const auto& one) { return one.label == series.name; });
    if (name->policy == "full") spec.reference = LineChartSpec::Reference{series.points[0].y, ""};
  }
  picture.svg = LineChart(spec);
  return picture;
}

// What the cells of a grid show.
struct GridFigure {
  std::string mode, column, label;
  double low = 0, high = 1;
  Unit unit = Unit::kPlain;
};

std::optional<GridFigure> ChooseLiveGrid(const ReportData& data) {
  std::map<std::tuple<std::string, std::string, double, double>, double> samples;
  bool has_nll = false;
  for (const Cell& cell : data.cells) {
    if (cell.mode != "live") continue;
    for (const Results::Row* row : cell.rows) {
      has_nll = has_nll || row->figures.Has("answer_nll");
      if (!row->figures.Has("metric_value")) continue;
      samples[{cell.label, cell.budget.label, row->figures.Number("context").value_or(0),
               row->figures.Number("depth").value_or(0)}] += row->figures.Number("n").value_or(1);
    }
  }
  double fewest = samples.empty() ? 0 : 1e300;
  for (const auto& [key, n] : samples) fewest = std::min(fewest, n);
  if (fewest >= kMinSamples)
    return GridFigure{"live", "metric_value", "share of answers that are right", 0, 1, Unit::kPercent};
  if (has_nll) return GridFigure{"live", "answer_nll", "answer NLL, nats (less is better)", 0, 1, Unit::kPlain};
  return std::nullopt;
}

// Mean over the rows of one (context, depth); accuracies are weighted by their samples.
double GridValue(const Cell& cell, const GridFigure& figure, double context, double depth) {
  double sum = 0, weight = 0;
  for (const Results::Row* row : cell.rows) {
    const auto value = row->figures.Number(figure.column);
    if (!value || row->figures.Number("context") != context || row->figures.Number("depth") != depth) continue;
    const double n = figure.column == "metric_value" ? row->figures.Number("n").value_or(1) : 1;
    sum += *value * n;
    weight += n;
  }
  return weight > 0 ? sum / weight : kNoValue;
}

std::string CellText(double value, Unit unit) {
  if (!std::isfinite(value)) return "";
  if (unit == Unit::kPercent) return CountText(std::round(value * 100));
  return value >= 9.95 ? CountText(std::round(value)) : NumberText(value, value < 1 ? 1 : 2).substr(0, 4);
}

MatrixPanel GridPanel(const ReportData& data, const Cell* cell, const GridFigure& figure, bool depth_across) {
  MatrixPanel panel;
  if (!cell) return panel;
  const size_t contexts = data.contexts.size(), depths = data.depths.size();
  panel.rows = static_cast<int>(depth_across ? contexts : depths);
  panel.columns = static_cast<int>(depth_across ? depths : contexts);
  for (int row = 0; row < panel.rows; ++row) {
    for (int column = 0; column < panel.columns; ++column) {
      const double context = data.contexts[static_cast<size_t>(depth_across ? row : column)];
      const double depth = data.depths[static_cast<size_t>(depth_across ? column : row)];
      panel.values.push_back(GridValue(*cell, figure, context, depth));
      panel.texts.push_back(CellText(panel.values.back(), figure.unit));
    }
  }
  return panel;
}

std::optional<Svg> GridChart(const ReportData& data, GridFigure figure) {
  MatrixChartSpec spec;
  spec.alt = figure.label + " by context length and depth of the needle";
  spec.titles_left = true;
  spec.unit = figure.unit;
  spec.scale_label = figure.label;
  const bool depth_across = data.contexts.size() == 1;
  for (const double depth : data.depths)
    (depth_across ? spec.column_names : spec.row_names).push_back(PercentText(depth));
  for (const double context : data.contexts)
    (depth_across ? spec.row_names : spec.column_names).push_back(CountText(context));
  if (depth_across) spec.row_names.clear();
  spec.row_label = depth_across ? "" : "depth";
  spec.column_label = depth_across ? "depth of the needle" : "context, tokens";
  spec.cell_width = 38;
  spec.cell_height = 17;
  std::vector<Budget> budgets;
  for (const Budget& budget : data.budgets) {
    if (!budget.label.empty() || data.budgets.size() == 1) budgets.push_back(budget);
  }
  double largest = 0;
  bool any = false;
  for (const PolicyName& name : data.policies) {
    const bool fixed = data.Find(name.label, figure.mode, {std::nullopt, ""}) != nullptr;
    std::vector<MatrixPanel> line;
    bool has_cell = false;
    for (const Budget& budget : budgets) {
      const Cell* cell = data.Find(name.label, figure.mode, budget);
      if (!cell && fixed && budget == budgets[0]) cell = data.Find(name.label, figure.mode, {std::nullopt, ""});
      has_cell = has_cell || cell;
      line.push_back(GridPanel(data, cell, figure, depth_across));
      line.back().title = fixed ? name.label + " (own size)" : name.label;
      for (const double value : line.back().values) {
        if (!std::isfinite(value)) continue;
        largest = std::max(largest, value);
        any = true;
      }
    }
    if (has_cell) spec.panels.insert(spec.panels.end(), line.begin(), line.end());
  }
  if (!any) return std::nullopt;
  if (figure.unit == Unit::kPlain) figure.high = std::max(std::ceil(largest), 1e-6);
  spec.low = figure.low;
  spec.high = figure.high;
  spec.panels_across = static_cast<int>(budgets.size());
  for (const Budget& budget : budgets) spec.headers.push_back(BudgetTitle(budget));
  return MatrixChart(spec);
}

// No samples where none were taken.
Accuracy SamplesOf(const Cell* cell) {
  return cell ? cell->PooledAccuracy().value_or(Accuracy{}) : Accuracy{};
}

std::optional<Svg> AccuracyChart(const ReportData& data) {
  IntervalChartSpec spec;
  spec.x_label = "share of answers that are right";
  std::vector<Budget> budgets;
  for (const Budget& budget : data.budgets) {
    bool any = false;
    for (const Cell& cell : data.cells) {
      any = any || (cell.mode == "live" && cell.budget == budget && SamplesOf(&cell).n >= kMinSamples);
    }
    if (any && !budget.label.empty()) budgets.push_back(budget);
  }
  if (budgets.empty()) return std::nullopt;
  for (const Budget& budget : budgets) spec.panels.push_back(BudgetTitle(budget));
  for (const PolicyName& name : data.policies) {
    IntervalChartSpec::Row row{name.label, data.looks.at(name.label), {}};
    bool any = false;
    const Cell* fixed = data.Find(name.label, "live", {std::nullopt, ""});
    for (const Budget& budget : budgets) {
      const Cell* cell = data.Find(name.label, "live", budget);
      if (!cell && fixed && budget == budgets[0]) cell = fixed;
      const Accuracy accuracy = SamplesOf(cell);
      row.marks.emplace_back();
      if (accuracy.n < kMinSamples) continue;
      const Interval interval = WilsonInterval(accuracy.successes, accuracy.n);
      row.marks.back() = IntervalChartSpec::Mark{accuracy.Share(), interval.low, interval.high,
                                                 StrCat(CountText(accuracy.successes), " of ", CountText(accuracy.n))};
      any = true;
    }
    if (fixed) row.name += " (own size)";
    if (any) spec.rows.push_back(std::move(row));
  }
  const auto merit = [](const IntervalChartSpec::Row& row) {
    double sum = 0, count = 0;
    for (const auto& mark : row.marks) {
      sum += mark ? mark->value : 0;
      count += mark.has_value();
    }
    return sum / std::max(count, 1.0);
  };
  std::stable_sort(spec.rows.begin(), spec.rows.end(), [&](const auto& a, const auto& b) {
    if (a.look.reference != b.look.reference) return a.look.reference;
    return !a.look.reference && merit(a) > merit(b);
  });
  return IntervalChart(spec);
}

}  // namespace

void WriteQuality(ReportPage& page, const SectionContext& context) {
  const ReportData& data = context.data;
  const Plot plots[] = {
      {"live", "metric_value", "live accuracy", "accuracy",
       "Share of right answers. How far each can be believed is in the intervals below: with few needles they are "
       "wide.",
       Unit::kPercent},
      {"live", "answer_nll", "live answer NLL, nats per token", "answer_nll",
       "How surprised the model is by the right answer; it still ranks policies where accuracy has fallen to the "
       "floor. Bars are "
       "one standard error over traces.",
       Unit::kPlain},
      {"live", "perplexity", "live perplexity", "perplexity",
       "Perplexity of the continuation, with the policy active while it is read.", Unit::kPlain},
      {"live", "kl", "live KL to the full cache, nats per token", "kl",
       "How far the policy moves the next-token distribution, word for word along the full cache's own continuation.",
       Unit::kPlain},
      {"replay", "output_error", "replay output error", "output_error",
       "How far a head's output moves, relative to its length. Unlike attention loss it also sees the rounding of a "
       "quantised cache.",
       Unit::kPlain},
      {"replay", "attention_loss", "replay attention loss", "attention_loss",
       "The share of the full cache's attention that falls on dropped entries. It needs no model run, only the trace.",
       Unit::kPlain},
  };
  page.Paragraph(
      "Each line is a policy; memory shrinks to the right. The full cache is the black diamond at the left, where the "
      "axis "
      "has a place for it. A policy that is worth its bytes stays level for longer. References are grey.");
  page.BeginRow();
  int drawn = 0;
  for (const Plot& plot : plots) {
    const auto chart = QualityChart(data, plot);
    if (!chart) continue;
    const std::string zeros =
        chart->at_zero.empty() ? "" : StrCat(" At 0, below this axis: ", Listed(chart->at_zero), ".");
    page.Figure(context.slug_prefix + "quality_" + plot.slug, chart->svg, plot.words + zeros);
    ++drawn;
  }
  page.EndRow();
  if (drawn == 0) page.Paragraph("Fewer than two policies have a figure and a size; nothing to draw.");
  if (const auto chart = AccuracyChart(data)) {
    page.Figure(context.slug_prefix + "accuracy_intervals", *chart,
                "Right answers of those tried, with 95 % Wilson intervals. A long line says: try more needles before "
                "believing it.");
  }
}

void WriteGrids(ReportPage& page, const SectionContext& context) {
  const ReportData& data = context.data;
  if (data.depths.empty() || data.contexts.empty()) {
    page.Paragraph("These runs have no needle depth, so there is no grid.");
    return;
  }
  int drawn = 0;
  page.BeginRow();
  if (const auto figure = ChooseLiveGrid(data)) {
    if (const auto chart = GridChart(data, *figure)) {
      const bool is_accuracy = figure->column == "metric_value";
      page.Figure(
          context.slug_prefix + "grid_live", *chart,
          is_accuracy
              ? "Live: right answers, percent, by where the needle lies."
              : "Live: answer NLL by where the needle lies. A cell holds fewer than 5 answers, too few for a rate, "
                "so the figure that has a value for each single answer is shown; pale is good.");
      ++drawn;
    }
  }
  const GridFigure retention{"replay", "needle_retention", "share of needle entries kept", 0, 1, Unit::kPercent};
  if (const auto chart = GridChart(data, retention)) {
    page.Figure(context.slug_prefix + "grid_replay", *chart,
                "Replay: percent of the needle's entries kept, mean over layers and KV heads; pale means lost.");
    ++drawn;
  }
  page.EndRow();
  if (drawn == 0) page.Paragraph("No figure was measured by length and depth.");
}

}  // namespace kvscope
