// SPDX-License-Identifier: Apache-2.0
// Quality against memory: one line per policy, labelled at its end, and labelled scatter plots. The y axis has its name
// above it, written horizontally; where x is reversed, the full cache is at the left and lines fan out as memory
// shrinks.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "replay/chart_axis.h"
#include "replay/chart_color.h"
#include "replay/svg.h"

namespace kvscope {

struct ChartPoint {
  double x = 0, y = 0;
  std::optional<double> low, high;  // of the error bar
};

struct ChartSeries {
  std::string name;
  PolicyLook look;
  std::vector<ChartPoint> points;
  // Among many lines: the one the chart is about, and those that only show the crowd (pale, without a label).
  bool is_strong = false, is_quiet = false;
  bool is_scattered = false;  // points without a line
};

struct LineChartSpec {
  std::string x_label, y_label;
  std::vector<ChartSeries> series;
  struct Reference {
    double y;
    std::string label;
  };
  std::optional<Reference> reference;  // a level to compare with: the full cache
  Unit x_unit = Unit::kPlain, y_unit = Unit::kPlain;
  bool reverse_x = false;
  bool y_log = false;                   // every y is then above 0
  std::optional<double> y_low, y_high;  // ends of the y axis; from the data where absent
  double width = 520;
};
Svg LineChart(const LineChartSpec& spec);

struct ScatterSpec {
  std::string x_label, y_label;
  std::vector<ChartSeries> series;  // one label each, at its first point; points of a series are joined
  Unit x_unit = Unit::kPlain, y_unit = Unit::kPlain;
  bool x_log = false, y_log = false;
  double width = 520, height = 380;
};
Svg ScatterChart(const ScatterSpec& spec);

}  // namespace kvscope
