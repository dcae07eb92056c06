// SPDX-License-Identifier: Apache-2.0
// Small multiples of grids on one colour scale: needle retention by layer and head, AUC, length by depth, mass by
// distance. More is darker; a cell without a value is left open with a stroke through it.
#pragma once

#include <string>
#include <vector>

#include "replay/chart_axis.h"
#include "replay/svg.h"

namespace kvscope {

struct MatrixPanel {
  std::string title, note;  // note: a figure beside or above the panel, such as the mean
  int rows = 0, columns = 0;
  std::vector<double> values;      // [rows, columns], NaN: no value
  std::vector<std::string> texts;  // in the cells; empty: none
};

struct MatrixChartSpec {
  std::string alt;
  std::vector<MatrixPanel> panels;  // row by row
  int panels_across = 1;
  std::vector<std::string> headers;                  // over each column of panels; may be empty
  bool titles_left = false;                          // title before the first panel of a row instead of above each
  std::string row_label, column_label;               // what rows and columns are: "KV head", "layer"
  std::vector<std::string> row_names, column_names;  // of the largest panel; drawn where they fit
  double cell_width = 12, cell_height = 12;
  double low = 0, high = 1;  // of the colour scale
  bool diverging = false;    // around the middle of low and high
  Unit unit = Unit::kPlain;
  std::string scale_label;  // "share of needle tokens kept"
};
Svg MatrixChart(const MatrixChartSpec& spec);

// Pieces for figures made of several charts.
uint32_t CellRgb(double value, double low, double high, bool diverging);
void DrawCells(Svg& svg, double x, double y, const MatrixPanel& panel, const MatrixChartSpec& spec);
// A horizontal colour key, right-aligned at `right`.
void DrawColorKey(Svg& svg, double right, double y, const MatrixChartSpec& spec);

}  // namespace kvscope
