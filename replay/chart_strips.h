// SPDX-License-Identifier: Apache-2.0
// Charts that are strips: accuracies with their intervals, two histograms over each other, which tokens a policy kept,
// and what attention did layer by layer.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "replay/chart_axis.h"
#include "replay/chart_color.h"
#include "replay/chart_matrix.h"
#include "replay/svg.h"

namespace kvscope {

// One dot per policy with its 95 % interval; one panel per budget. Marks outside the axis are drawn at its edge.
struct IntervalChartSpec {
  std::string x_label;
  double low = 0, high = 1;  // of the axis
  Unit unit = Unit::kPercent;
  std::optional<double> level;  // a heavier line: no difference
  struct Mark {
    double value, low, high;
    std::string text;  // "4 of 5"
  };
  struct Row {
    std::string name;
    PolicyLook look;
    std::vector<std::optional<Mark>> marks;  // one per panel; none at all: the row is a heading
  };
  std::vector<std::string> panels;  // headers
  std::vector<Row> rows;            // top to bottom
};
Svg IntervalChart(const IntervalChartSpec& spec);

// Two distributions over the same bins, each scaled to shares of its own total.
struct HistogramPairSpec {
  std::string x_label;
  double low = 0, bin_width = 1;
  std::vector<double> front, back;  // counts
  std::string front_name, back_name;
};
Svg HistogramPair(const HistogramPairSpec& spec);

// Which tokens are kept: layers down, tokens across, darker where more of the KV heads keep them.
struct KeptChartSpec {
  struct Panel {
    std::string name, note;
    std::vector<double> share;  // [layer, bin] in [0, 1]
  };
  int layers = 0, bins = 0, num_tokens = 0;
  std::optional<double> needle_begin, needle_end;  // tokens
  std::vector<Panel> panels;
};
Svg KeptChart(const KeptChartSpec& spec);

// Over one layer axis: share of attention by distance, share on the first tokens per head, likeness of neighbours.
struct DynamicsSpec {
  std::vector<std::string> layer_names;
  int distance_bins = 0;
  std::vector<double> mass;  // [layer, bin]
  int heads = 0;
  std::vector<double> sink;  // [layer, head]; empty: not measured
  int sink_tokens = 4;
  std::vector<double> similarity;  // [layer - 1]; empty: not measured
};
Svg DynamicsChart(const DynamicsSpec& spec);

}  // namespace kvscope
