// SPDX-License-Identifier: Apache-2.0
// Three strips over one layer axis, so that the eye can run down a layer.
#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "replay/chart_strips.h"

namespace kvscope {
namespace {

constexpr double kCellHeight = 13;

// "0", "1", "2-3", "4-7", ...
std::string DistanceName(int bin) {
  if (bin < 2) return std::to_string(bin);
  const int64_t from = int64_t{1} << (bin - 1), to = 2 * from - 1;
  return StrCat(from, "\u2013", to);
}

MatrixPanel Transposed(const std::vector<double>& values, int rows, int columns, bool bottom_up) {
  MatrixPanel panel;
  panel.rows = columns;
  panel.columns = rows;
  panel.values.resize(values.size());
  for (int row = 0; row < rows; ++row) {
    for (int column = 0; column < columns; ++column) {
      const int target = bottom_up ? columns - 1 - column : column;
      panel.values[static_cast<size_t>(target) * rows + row] = values[static_cast<size_t>(row) * columns + column];
    }
  }
  return panel;
}

void RowNames(Svg& svg, double left, double top, const std::vector<std::string>& names) {
  for (size_t i = 0; i < names.size(); ++i) {
    svg.Text(left - 5, top + (static_cast<double>(i) + 0.5) * kCellHeight + 3.2, names[i],
             {.size = 9.5, .anchor = Anchor::kEnd, .color = std::string(kSoftInk)});
  }
}

void Similarity(Svg& svg, const DynamicsSpec& spec, double left, double top, double cell) {
  constexpr double kPlot = 70;
  double lowest = 1;
  for (const double value : spec.similarity) lowest = std::isfinite(value) ? std::min(lowest, value) : lowest;
  Scale y = NiceScale(std::min(lowest, 0.9), 1, false, Unit::kPlain);
  y.first = top + kPlot;
  y.last = top;
  const auto ticks = y.Ticks(3);
  const auto texts = TickTexts(ticks, Unit::kPlain);
  const double right = left + cell * static_cast<double>(spec.layer_names.size());
  for (size_t i = 0; i < ticks.size(); ++i) {
    svg.Line(left, y.Pixel(ticks[i]), right, y.Pixel(ticks[i]), {.color = std::string(kHairline), .width = 0.7});
    svg.Text(left - 5, y.Pixel(ticks[i]) + 3.4, texts[i],
             {.size = 9.5, .anchor = Anchor::kEnd, .color = std::string(kSoftInk)});
  }
  std::vector<Point> line;
  for (size_t i = 0; i < spec.similarity.size(); ++i) {
    if (std::isfinite(spec.similarity[i]))
      line.push_back({left + cell * static_cast<double>(i + 1), y.Pixel(spec.similarity[i])});
  }
  svg.Polyline(line, {.color = "#0072b2", .width = 1.6});
  for (const Point& point : line) svg.DrawMarker(Marker::kCircle, point.x, point.y, 2, "#0072b2", true);
}

}  // namespace

Svg DynamicsChart(const DynamicsSpec& spec) {
  const int layers = static_cast<int>(spec.layer_names.size());
  KVSCOPE_CHECK(layers > 0);
  KVSCOPE_CHECK_EQ(spec.mass.size(), static_cast<size_t>(layers) * spec.distance_bins);
  const double cell = std::clamp(600.0 / layers, 10.0, 26.0), left = 84,
               width = std::max(left + cell * layers + 16, 560.0);
  const double mass_top = 46, mass_bottom = mass_top + kCellHeight * spec.distance_bins;
  const double sink_top = mass_bottom + 46,
               sink_bottom = sink_top + (spec.sink.empty() ? -46 : kCellHeight * spec.heads);
  const double likeness_top = sink_bottom + 46;
  const double bottom = spec.similarity.empty() ? sink_bottom : likeness_top + 70;
  Svg svg(width, bottom + 36,
          "attention by distance, on the first tokens, and likeness of neighbouring layers, by layer");

  MatrixChartSpec scale;
  scale.cell_width = cell;
  scale.cell_height = kCellHeight;
  scale.unit = Unit::kPercent;
  scale.column_label = "layer";
  scale.column_names = spec.layer_names;
  const double most = *std::max_element(spec.mass.begin(), spec.mass.end());
  scale.high = std::clamp(std::ceil(most * 10) / 10, 0.1, 1.0);
  svg.Text(2, mass_top - 8, "attention by distance to the query", {.size = 11, .bold = true});
  DrawColorKey(svg, width - 10, 4, scale);
  scale.row_label = "distance";
  for (int bin = spec.distance_bins - 1; bin >= 0; --bin) scale.row_names.push_back(DistanceName(bin));
  RowNames(svg, left, mass_top, scale.row_names);
  DrawCells(svg, left, mass_top, Transposed(spec.mass, layers, spec.distance_bins, true), scale);
  if (!spec.sink.empty()) {
    scale.high = 1;
    scale.row_label = "head";
    scale.row_names.clear();
    for (int head = 0; head < spec.heads; ++head) scale.row_names.push_back(std::to_string(head));
    svg.Text(2, sink_top - 8, StrCat("attention on the first ", spec.sink_tokens, " tokens, by head"),
             {.size = 11, .bold = true});
    DrawColorKey(svg, width - 10, sink_top - 30, scale);
    RowNames(svg, left, sink_top, scale.row_names);
    DrawCells(svg, left, sink_top, Transposed(spec.sink, layers, spec.heads, false), scale);
  }
  if (!spec.similarity.empty()) {
    svg.Text(2, likeness_top - 12, "likeness of relevance between neighbouring layers (cosine)",
             {.size = 11, .bold = true});
    Similarity(svg, spec, left, likeness_top, cell);
  }
  for (int layer = 0; layer<layers; layer += layers> 16 ? 2 : 1) {
    svg.Text(left + (layer + 0.5) * cell, bottom + 14, spec.layer_names[layer],
             {.size = 9.5, .anchor = Anchor::kMiddle, .color = std::string(kSoftInk)});
  }
  svg.Text(left + layers * cell / 2, bottom + 30, "layer", {.size = 11, .anchor = Anchor::kMiddle});
  return svg;
}

}  // namespace kvscope
