// SPDX-License-Identifier: Apache-2.0
// Does relevance know where the needle is? Its distribution on needle tokens against the rest, and AUC by layer and
// head.
#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "replay/chart_matrix.h"
#include "replay/chart_strips.h"
#include "replay/report_sections.h"

namespace kvscope {

namespace {

void DrawRelevanceHistogram(ReportPage& page, const SectionContext& context) {
  const auto histogram = SumRelevance(context.data.traces);
  if (!histogram) return;
  HistogramPairSpec spec;
  spec.front = histogram->needle;
  spec.back = histogram->rest;
  spec.low = histogram->low;
  spec.bin_width = histogram->bin_width;
  spec.front_name = "needle tokens";
  spec.back_name = "all other tokens";
  spec.x_label = "log10 of " + histogram->statistic;
  page.Figure(context.slug_prefix + "relevance_histogram", HistogramPair(spec),
              "How much attention needle tokens receive, against all others, over every layer and head. Where the two "
              "overlap, no "
              "threshold on relevance can keep the needle alone.");
}

}  // namespace

std::vector<AucStat> AucStats(const ReportData& data) {
  std::vector<AucStat> stats;
  for (const Results::Trace* trace : data.traces) {
    for (const NamedArray& array : trace->arrays) {
      if (!array.name.starts_with("needle_auc_") || array.shape.size() != 2 || array.values.empty()) continue;
      const auto known =
          std::any_of(stats.begin(), stats.end(), [&](const AucStat& stat) { return stat.mean.name == array.name; });
      if (known) continue;
      const auto mean = MeanTraceArray(data, array.name);
      if (mean) stats.push_back({array.name.substr(11), *mean});
    }
  }
  return stats;
}

MatrixPanel HeadPanel(const NamedArray& array) {
  MatrixPanel panel;
  panel.columns = static_cast<int>(array.shape[0]);
  panel.rows = static_cast<int>(array.shape[1]);
  for (int head = 0; head < panel.rows; ++head) {
    for (int layer = 0; layer < panel.columns; ++layer) {
      panel.values.push_back(array.values[static_cast<size_t>(layer) * panel.rows + head]);
    }
  }
  return panel;
}

void NameAxes(const ReportData& data, HeadAxis axis, double panel_width, MatrixChartSpec& spec) {
  int layers = 1, heads = 1;
  for (const MatrixPanel& panel : spec.panels) {
    layers = std::max(layers, panel.columns);
    heads = std::max(heads, panel.rows);
  }
  const bool is_kv = axis == HeadAxis::kKvHeads;
  spec.row_label = is_kv ? "KV head" : "head";
  spec.column_label = "layer";
  spec.row_names = AxisNames(data, is_kv ? "kv_head_numbers" : "head_numbers", static_cast<size_t>(heads));
  spec.column_names = AxisNames(data, "layer_numbers", static_cast<size_t>(layers));
  spec.cell_width = std::clamp(panel_width / layers, 5.0, 26.0);
  spec.cell_height = heads > (is_kv ? 4 : 16) ? 8 : 11;
}

namespace {

// "last32_before_question" -> "last32 before question".
std::string StatTitle(const AucStat& stat) {
  std::string title = stat.name;
  std::replace(title.begin(), title.end(), '_', ' ');
  return title;
}

std::optional<ReportPage::TableRow> AucRow(const ReportData& data, const AucStat& stat) {
  std::vector<double> values;
  size_t best = 0;
  int high = 0, below = 0;
  for (size_t i = 0; i < stat.mean.values.size(); ++i) {
    const double value = stat.mean.values[i];
    if (!std::isfinite(value)) continue;
    if (values.empty() || value > stat.mean.values[best]) best = i;
    values.push_back(value);
    high += value >= 0.9;
    below += value < 0.5;
  }
  if (values.empty()) return std::nullopt;
  std::nth_element(values.begin(), values.begin() + static_cast<int64_t>(values.size() / 2), values.end());
  const auto columns = static_cast<size_t>(stat.mean.shape[1]);
  const std::string layer = AxisNames(data, "layer_numbers", static_cast<size_t>(stat.mean.shape[0]))[best / columns];
  const std::string head = AxisNames(data, "head_numbers", columns)[best % columns];
  ReportPage::TableRow row;
  row.cells = {StatTitle(stat), FixedText(values[values.size() / 2], 2), StrCat(high, " of ", values.size()),
               StrCat(below),   FixedText(stat.mean.values[best], 2),    StrCat("layer ", layer, ", head ", head)};
  return row;
}

}  // namespace

void WriteRelevance(ReportPage& page, const SectionContext& context) {
  const ReportData& data = context.data;
  const std::vector<AucStat> stats = AucStats(data);
  DrawRelevanceHistogram(page, context);
  if (stats.empty()) {
    page.Paragraph("No relevance of needle tokens was measured; replay a trace that has a needle.");
    return;
  }
  MatrixChartSpec spec;
  spec.alt = "AUC of relevance for needle tokens, by layer and head";
  for (const AucStat& stat : stats) {
    MatrixPanel panel = HeadPanel(stat.mean);
    panel.title = StatTitle(stat);
    panel.note = "mean " + NumberText(MeanOf(stat.mean), 2);
    spec.panels.push_back(std::move(panel));
  }
  NameAxes(data, HeadAxis::kHeads, 400, spec);
  spec.panels_across = spec.column_names.size() > 40 ? 1 : 2;
  spec.diverging = true;
  spec.scale_label = "AUC: needle tokens ranked above the rest";
  page.Figure(context.slug_prefix + "needle_auc", MatrixChart(spec),
              "Does relevance know the needle? AUC 1: every needle token ranks above every other token of the context; "
              "0.5: chance; cells "
              "with a dot are below chance. A policy that ranks by this statistic keeps the needle where the cell is "
              "dark orange.");
  std::vector<ReportPage::TableRow> rows;
  for (const AucStat& stat : stats) {
    if (const auto row = AucRow(data, stat)) rows.push_back(*row);
  }
  page.Table({}, {},
             {{"relevance by", "", true},
              {"median AUC", "over layers and heads", false},
              {"0.9 or more in", "heads", false},
              {"below chance in", "heads", false},
              {"highest", "", false},
              {"where", "", true}},
             rows, "Means over traces.");
}

}  // namespace kvscope
