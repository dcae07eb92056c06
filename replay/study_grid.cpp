// SPDX-License-Identifier: Apache-2.0
// The main grid: every policy at every size, decided before and after the question.
#include <algorithm>
#include <cmath>
#include <set>

#include "core/error.h"
#include "replay/chart_axis.h"
#include "replay/study_sections.h"

namespace kvscope {
namespace {

// More lines than this with names of their own cannot be told apart.
constexpr size_t kMostNamed = 12;
constexpr size_t kBestNamed = 4;

std::optional<double> FigureOf(const Cell* cell, std::string_view column) {
  if (!cell) return std::nullopt;
  if (column != "metric_value") return cell->Mean(column);
  const auto accuracy = cell->PooledAccuracy();
  return accuracy ? std::optional<double>(accuracy->Share()) : std::nullopt;
}

// Mean over the sizes that a policy was asked for; of its own size for one of a fixed rate.
std::optional<double> MeanOverSizes(const StudyTable& table, const std::string& label, std::string_view column) {
  double sum = 0;
  int count = 0;
  for (const double fraction : table.fractions) {
    if (const auto value = FigureOf(table.At(label, fraction), column)) {
      sum += *value;
      ++count;
    }
  }
  if (count > 0) return sum / count;
  return FigureOf(table.Fixed(label), column);
}

bool IsAlwaysNamed(const StudyContext& context, const PolicyName& name) {
  const auto strong = StrongBaselines();
  if (name.policy == context.method() || std::find(strong.begin(), strong.end(), name.policy) != strong.end())
    return true;
  return name.policy == "full" || name.label == "random" || name.policy == "top_k_oracle" || name.policy == "int4";
}

// The size where a policy stands on the axis: what it took, but as asked where it holds all and reads a part.
double SizeOf(const Cell& cell) {
  const double asked = cell.budget.fraction.value_or(1);
  const double kept = cell.Mean("kept_fraction").value_or(asked);
  return cell.kind == "oracle" ? asked : kept;
}

std::optional<ChartPoint> PointOf(const Cell& cell, std::string_view column) {
  if (column == "metric_value") {
    const auto accuracy = cell.PooledAccuracy();
    if (!accuracy) return std::nullopt;
    return ChartPoint{SizeOf(cell), accuracy->Share(), {}, {}};
  }
  const auto pooled = cell.Pool(column);
  if (!pooled) return std::nullopt;
  ChartPoint point{SizeOf(cell), pooled->mean, {}, {}};
  if (pooled->rows > 1) {
    point.low = std::max(0.0, pooled->mean - pooled->standard_error);
    point.high = pooled->mean + pooled->standard_error;
  }
  return point;
}

}  // namespace

std::vector<std::string> NamedLabels(const StudyContext& context, const StudyTable& table, std::string_view column) {
  std::vector<std::string> named;
  std::vector<std::pair<double, std::string>> rest;
  for (const PolicyName& name : table.data.policies) {
    const auto mean = MeanOverSizes(table, name.label, column);
    if (IsAlwaysNamed(context, name) || table.data.policies.size() <= kMostNamed) {
      named.push_back(name.label);
    } else if (mean) {
      rest.emplace_back(column == "metric_value" ? -*mean : *mean, name.label);
    }
  }
  std::sort(rest.begin(), rest.end());
  for (size_t i = 0; i < rest.size() && i < kBestNamed; ++i) named.push_back(rest[i].second);
  return named;
}

std::optional<LineChartSpec> FractionChart(const StudyContext& context, const StudyTable& table,
                                           const StudyPlot& plot) {
  LineChartSpec spec;
  spec.x_label = "share of the full cache's bytes kept (less to the right)";
  spec.y_label = plot.label;
  spec.y_unit = plot.unit;
  spec.reverse_x = true;
  spec.width = 560;
  if (plot.unit == Unit::kPercent) {
    spec.y_low = 0;
    spec.y_high = 1;
  }
  const auto named = NamedLabels(context, table, "answer_nll");
  double lowest = 1e300, highest = 0;
  for (const PolicyName& name : table.data.policies) {
    ChartSeries series{name.label, context.LookOf(name.label), {}};
    series.is_strong = name.label == table.LabelOf(context.method());
    series.is_quiet = std::find(named.begin(), named.end(), name.label) == named.end();
    std::set<std::pair<double, double>> seen;  // a policy that cannot use more bytes answers alike at all larger sizes
    for (const Cell& cell : table.data.cells) {
      if (cell.label != name.label || cell.mode != "live") continue;
      const auto point = PointOf(cell, plot.column);
      if (!point || !seen.emplace(point->x, point->y).second) continue;
      series.points.push_back(*point);
      if (point->y > 0) lowest = std::min(lowest, point->y);
      highest = std::max(highest, point->y);
    }
    if (!series.points.empty()) spec.series.push_back(std::move(series));
  }
  if (spec.series.size() < 2) return std::nullopt;
  spec.y_log = plot.unit == Unit::kPlain && highest > 12 * lowest;
  if (spec.y_log) {
    spec.y_label += " (logarithmic)";
    for (ChartSeries& series : spec.series) {
      std::erase_if(series.points, [](const ChartPoint& point) { return point.y <= 0; });
    }
    std::erase_if(spec.series, [](const ChartSeries& series) { return series.points.empty(); });
  }
  if (const Cell* full = table.Fixed(table.LabelOf("full"))) {
    const auto level = FigureOf(full, plot.column);
    if (level && (!spec.y_log || *level > 0)) spec.reference = LineChartSpec::Reference{*level, ""};
  }
  return spec;
}

std::vector<std::string> QuietNames(const LineChartSpec& spec, bool low_is_good) {
  std::vector<std::pair<double, std::string>> names;
  for (const ChartSeries& series : spec.series) {
    if (!series.is_quiet) continue;
    double sum = 0;
    for (const ChartPoint& point : series.points) sum += point.y / static_cast<double>(series.points.size());
    names.emplace_back(low_is_good ? sum : -sum, series.name);
  }
  std::sort(names.begin(), names.end());
  std::vector<std::string> sorted;
  for (const auto& [value, name] : names) sorted.push_back(name);
  return sorted;
}

namespace {

// The column of sizes in which a fixed-rate policy is shown: the smallest that it fits, else the largest there is.
double OwnColumn(const StudyTable& table, const std::string& label) {
  double column = table.fractions.empty() ? 1 : table.fractions[0];
  for (const double fraction : table.fractions) {
    if (table.At(label, fraction)) column = fraction;
  }
  return column;
}

ReportPage::TableRow GridRow(const StudyContext& context, const StudyTable& table, const PolicyName& name) {
  const Cell* fixed = table.Fixed(name.label);
  ReportPage::TableRow row;
  row.quiet = table.data.IsReference(name.label);
  const auto own = fixed ? fixed->Mean("kept_fraction") : std::nullopt;
  row.cells.push_back(name.label + (own ? StrCat(" (takes ", FixedText(*own, 2), ")") : ""));
  const bool is_method = name.policy == context.method();
  row.strong.push_back(is_method);
  const std::vector<double> fractions = table.fractions.empty() ? std::vector<double>{1} : table.fractions;
  for (const double fraction : fractions) {
    const Cell* cell =
        fixed ? (fraction == OwnColumn(table, name.label) ? fixed : nullptr) : table.At(name.label, fraction);
    const auto bytes = cell ? table.data.Bytes(*cell) : std::nullopt;
    row.cells.push_back(CountOf(cell));
    row.cells.push_back(MeanText(cell, "answer_nll"));
    row.cells.push_back(MeanText(cell, "answer_rank", 2));
    row.cells.push_back(MeanText(cell, "answer_prefix", 2));
    row.cells.push_back(bytes ? BytesText(*bytes) : "–");
    row.strong.resize(row.cells.size(), is_method);
  }
  return row;
}

void GridTable(ReportPage& page, const StudyContext& context, const StudyTable& table) {
  std::vector<std::string> groups{""};
  std::vector<int> spans{1};
  std::vector<ReportPage::Column> columns{{"policy", "", true}};
  const std::vector<double> fractions = table.fractions.empty() ? std::vector<double>{1} : table.fractions;
  for (const double fraction : fractions) {
    groups.push_back(FractionText(fraction));
    spans.push_back(5);
    columns.push_back({"right", "right answers of those tried"});
    columns.push_back({"NLL", "answer NLL, nats per token"});
    columns.push_back({"rank", "of the answer's first digit; 1 is best"});
    columns.push_back({"prefix", "right leading digits in the free answer"});
    columns.push_back({"bytes", "mean bytes held or read per step after the decision"});
  }
  std::vector<PolicyName> names;
  for (const PolicyName& name : table.data.policies) {
    const bool is_live = std::any_of(table.data.cells.begin(), table.data.cells.end(),
                                     [&](const Cell& cell) { return cell.label == name.label && cell.mode == "live"; });
    if (is_live) names.push_back(name);
  }
  const auto merit = [&](const PolicyName& name) {
    const bool is_top = name.policy == "full" || name.label == "random" || name.kind == "oracle";
    return std::pair(!is_top, is_top ? 0 : MeanOverSizes(table, name.label, "answer_nll").value_or(1e300));
  };
  std::stable_sort(names.begin(), names.end(), [&](const auto& a, const auto& b) { return merit(a) < merit(b); });
  std::vector<ReportPage::TableRow> rows;
  for (const PolicyName& name : names) rows.push_back(GridRow(context, table, name));
  page.Table(
      groups, spans, columns, rows,
      "Means over prompts; right: right answers of those tried. Full cache, random and the oracle come first, the "
      "rest from low to high mean answer NLL. A policy that takes a fixed size stands under the smallest asked "
      "size that it fits. Policies that store INT4 cannot use more than about 0.3 of the bytes: at larger sizes "
      "they keep everything and use less than they may.");
}

void GridCharts(ReportPage& page, const StudyContext& context, const StudyTable& table) {
  const StudyPlot plots[] = {{"metric_value", "right answers", Unit::kPercent},
                             {"answer_nll", "answer NLL, nats per token", Unit::kPlain}};
  const std::string suffix = table.protocol.empty() ? "" : "_" + table.protocol;
  page.BeginRow();
  for (const StudyPlot& plot : plots) {
    const auto spec = FractionChart(context, table, plot);
    if (!spec) continue;
    const bool is_nll = plot.unit == Unit::kPlain;
    const auto quiet = QuietNames(*spec, is_nll);
    std::string caption = StrCat(is_nll ? "Answer NLL" : "Right answers", " against the share of bytes kept, ",
                                 table.Title(), "; the black level is the full cache.");
    if (is_nll) caption += " Bars are one standard error over prompts.";
    if (!quiet.empty()) caption += StrCat(" Pale, from best to worst: ", Listed(quiet), ".");
    page.Figure((is_nll ? "grid_nll" : "grid_accuracy") + suffix, LineChart(*spec), caption);
  }
  page.EndRow();
}

}  // namespace

void WriteStudyDuels(ReportPage& page, const StudyContext& context, const StudyTable& table) {
  std::vector<ReportPage::Column> columns{{"ahead of", "", true}};
  std::vector<std::string> groups{""};
  std::vector<int> spans{1};
  for (const double fraction : table.fractions) {
    groups.push_back(FractionText(fraction));
    spans.push_back(3);
    columns.push_back({"", "ahead by answer NLL and accuracy", true});
    columns.push_back({"NLL", "mean difference and 95 % interval; minus is ahead"});
    columns.push_back({"points", "difference in accuracy and 95 % interval; plus is ahead"});
  }
  const std::string method = table.LabelOf(context.method());
  std::vector<ReportPage::TableRow> rows;
  for (const Rivals& rivals : AllRivals()) {
    bool first = true;
    for (const std::string& policy : rivals.policies) {
      for (const std::string& rival : table.Labels(policy)) {
        ReportPage::TableRow row;
        row.starts_block = first;
        first = false;
        row.cells = {rival};
        for (const double fraction : table.fractions) {
          const Duel duel = Fight(table, method, rival, fraction);
          row.cells.push_back(duel.nll ? VerdictText(duel.verdict) : "–");
          row.cells.push_back(duel.nll ? NatsText(*duel.nll) : "–");
          row.cells.push_back(duel.accuracy ? EstimateText(*duel.accuracy, {.decimals = 0, .factor = 100}) : "–");
        }
        rows.push_back(std::move(row));
      }
    }
  }
  if (rows.empty() || table.fractions.empty()) return;
  page.Table(
      groups, spans, columns, rows,
      StrCat("Is ", context.method(), " ahead of each rival, ", table.Title(),
             "? Differences over the same prompts: answer NLL in nats per token, accuracy in points. A dash: the "
             "rival does not fit this size or was not run."));
}

void WriteStudyGrid(ReportPage& page, const StudyContext& context) {
  if (!SayIfMissing(page, context.study, "main", context.main)) return;
  for (const char* protocol : {"context", "prompt"}) {
    if (!context.Main(protocol)) page.Paragraph(StrCat("No row of the main arm has the protocol ", protocol, "."));
  }
  for (const StudyTable& table : context.main) {
    const std::string title = table.Title();
    if (!title.empty()) page.Subheading(static_cast<char>(std::toupper(title[0])) + title.substr(1));
    std::vector<std::string> absent;
    for (const char* reference : {"full", "random", "top_k_oracle"}) {
      if (table.LabelOf(reference).empty()) absent.emplace_back(reference);
    }
    if (!absent.empty()) page.Paragraph("Not run, so that nothing can be set beside it: " + Listed(absent) + ".");
    GridCharts(page, context, table);
    GridTable(page, context, table);
    WriteStudyDuels(page, context, table);
  }
}

}  // namespace kvscope
