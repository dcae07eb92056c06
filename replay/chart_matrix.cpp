// SPDX-License-Identifier: Apache-2.0
#include "replay/chart_matrix.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "replay/chart_color.h"

namespace kvscope {
namespace {

constexpr double kTitleSize = 11, kTickSize = 9.5, kNoteSize = 10.5, kKeyWidth = 132;

const TextStyle kSoft{.size = kTickSize, .color = std::string(kSoftInk)};

double WidestText(const std::vector<std::string>& texts, double size) {
  double width = 0;
  for (const std::string& text : texts) width = std::max(width, TextWidth(text, size));
  return width;
}

// Every how many names must be drawn so that they do not touch.
size_t NameStride(const std::vector<std::string>& names, double cell, bool horizontal) {
  const double need = horizontal ? WidestText(names, kTickSize) + 5 : kTickSize + 1;
  for (const size_t stride : {1, 2, 5, 10, 20, 50, 100}) {
    if (static_cast<double>(stride) * cell >= need) return stride;
  }
  return 1000;
}

struct Layout {
  double title_right = 0, left = 0, top = 0, panel_width = 0, panel_height = 0, step_x = 0, step_y = 0;
  double X(size_t column) const { return left + static_cast<double>(column) * step_x; }
  double Y(size_t row) const { return top + static_cast<double>(row) * step_y; }
};

Layout LayoutOf(const MatrixChartSpec& spec) {
  Layout layout;
  int rows = 1, columns = 1;
  double title_width = 0, note_width = 0, header_width = 0;
  for (const MatrixPanel& panel : spec.panels) {
    rows = std::max(rows, panel.rows);
    columns = std::max(columns, panel.columns);
    title_width = std::max(title_width, TextWidth(panel.title, kTitleSize));
    note_width = std::max(note_width, TextWidth(panel.note, kNoteSize));
  }
  header_width = WidestText(spec.headers, kTitleSize);
  layout.panel_width = columns * spec.cell_width;
  layout.panel_height = rows * spec.cell_height;
  const double names = spec.row_names.empty() ? 0 : WidestText(spec.row_names, kTickSize) + 6;
  const double row_label = spec.row_label.empty() ? 0 : TextWidth(spec.row_label, kTickSize);
  layout.left = spec.titles_left ? std::max(title_width + 10 + names, row_label + 8) : names;
  layout.title_right = layout.left - names - 10;
  const double key_space = spec.scale_label.empty() ? 8 : 40;
  layout.top = key_space + (spec.headers.empty() ? 0 : 18) + (spec.titles_left ? 12 : 18);
  if (spec.titles_left) {
    layout.step_x = std::max(layout.panel_width + (note_width > 0 ? note_width + 10 : 0), header_width) + 18;
    layout.step_y = layout.panel_height + 7;
  } else {
    layout.step_x = std::max(layout.panel_width, title_width + (note_width > 0 ? note_width + 8 : 0)) + 22;
    layout.step_y = layout.panel_height + 40;
  }
  return layout;
}

// "layer →", or "layer →   head ↓" where rows have no place of their own for it.
std::string AxisText(const MatrixChartSpec& spec, bool both) {
  if (spec.column_label.empty()) return both ? spec.row_label + " ↓" : "";
  return spec.column_label + " →" + (both ? ",  " + spec.row_label + " ↓" : "");
}

void DrawRowNames(Svg& svg, double x, double y, const MatrixChartSpec& spec, int rows) {
  const size_t stride = NameStride(spec.row_names, spec.cell_height, false);
  for (size_t row = 0; row < spec.row_names.size() && static_cast<int>(row) < rows; row += stride) {
    TextStyle style = kSoft;
    style.anchor = Anchor::kEnd;
    svg.Text(x - 4, y + (static_cast<double>(row) + 0.5) * spec.cell_height + 3.4, spec.row_names[row], style);
  }
}

void DrawColumnNames(Svg& svg, double x, double y, const MatrixChartSpec& spec) {
  const size_t stride = NameStride(spec.column_names, spec.cell_width, true);
  TextStyle style = kSoft;
  style.anchor = Anchor::kMiddle;
  for (size_t column = 0; column < spec.column_names.size(); column += stride) {
    svg.Text(x + (static_cast<double>(column) + 0.5) * spec.cell_width, y + 11, spec.column_names[column], style);
  }
}

}  // namespace

uint32_t CellRgb(double value, double low, double high, bool diverging) {
  const double t = (value - low) / (high - low);
  return diverging ? DivergingRgb(2 * t - 1) : SequentialRgb(t);
}

void DrawCells(Svg& svg, double x, double y, const MatrixPanel& panel, const MatrixChartSpec& spec) {
  KVSCOPE_CHECK_EQ(panel.values.size(), static_cast<size_t>(panel.rows) * panel.columns);
  const double gap = std::min(spec.cell_width, spec.cell_height) >= 8 ? 1 : 0;
  for (int row = 0; row < panel.rows; ++row) {
    for (int column = 0; column < panel.columns; ++column) {
      const size_t cell = static_cast<size_t>(row) * panel.columns + column;
      const double value = panel.values[cell], left = x + column * spec.cell_width, top = y + row * spec.cell_height;
      if (!std::isfinite(value)) {
        svg.Line(left + 1, top + spec.cell_height - 1, left + spec.cell_width - 1, top + 1,
                 {.color = std::string(kHairline), .width = 0.8});
        continue;
      }
      const uint32_t rgb = CellRgb(value, spec.low, spec.high, spec.diverging);
      const std::string row_name =
          static_cast<size_t>(row) < spec.row_names.size() ? spec.row_names[row] : std::to_string(row);
      const std::string column_name =
          static_cast<size_t>(column) < spec.column_names.size() ? spec.column_names[column] : std::to_string(column);
      svg.Rect(left, top, spec.cell_width - gap, spec.cell_height - gap, ColorText(rgb),
               StrCat(panel.title, panel.title.empty() ? "" : ", ", spec.column_label, " ", column_name, ", ",
                      spec.row_label, " ", row_name, ": ", Formatted(value, spec.unit)));
      if (cell < panel.texts.size() && !panel.texts[cell].empty()) {
        svg.Text(left + (spec.cell_width - gap) / 2, top + spec.cell_height / 2 + 3.2, panel.texts[cell],
                 {.size = 9.5, .anchor = Anchor::kMiddle, .color = InkOver(rgb)});
      } else if (spec.diverging && value < (spec.low + spec.high) / 2) {
        // Readable without colour: cells below the middle carry a dot.
        svg.DrawMarker(Marker::kCircle, left + (spec.cell_width - gap) / 2, top + (spec.cell_height - gap) / 2, 0.7,
                       InkOver(rgb), true);
      }
    }
  }
}

void DrawColorKey(Svg& svg, double right, double y, const MatrixChartSpec& spec) {
  constexpr int kSteps = 44;
  const double left = right - kKeyWidth;
  for (int step = 0; step < kSteps; ++step) {
    const double value = spec.low + (spec.high - spec.low) * (step + 0.5) / kSteps;
    svg.Rect(left + step * kKeyWidth / kSteps, y, kKeyWidth / kSteps + 0.3, 8,
             ColorText(CellRgb(value, spec.low, spec.high, spec.diverging)));
  }
  svg.Frame(left, y, kKeyWidth, 8, {.color = std::string(kHairline), .width = 0.6});
  const std::vector<double> values{spec.low, (spec.low + spec.high) / 2, spec.high};
  const std::vector<std::string> texts = TickTexts(values, spec.unit);
  const Anchor anchors[] = {Anchor::kStart, Anchor::kMiddle, Anchor::kEnd};
  for (size_t i = 0; i < 3; ++i) {
    svg.Text(left + kKeyWidth * static_cast<double>(i) / 2, y + 18, texts[i],
             {.size = kTickSize, .anchor = anchors[i], .color = std::string(kSoftInk)});
  }
  svg.Text(left - 8, y + 8, spec.scale_label, {.size = 10.5, .anchor = Anchor::kEnd});
}

Svg MatrixChart(const MatrixChartSpec& spec) {
  KVSCOPE_CHECK(!spec.panels.empty() && spec.panels_across > 0);
  const Layout layout = LayoutOf(spec);
  const size_t across = static_cast<size_t>(spec.panels_across);
  const size_t down = (spec.panels.size() + across - 1) / across;
  const double key_need = spec.scale_label.empty() ? 0 : TextWidth(spec.scale_label, 10.5) + kKeyWidth + 16;
  const double column_label_need = layout.left + TextWidth(AxisText(spec, !spec.titles_left), kTickSize) + 8;
  const double width = std::max({layout.X(std::min(across, spec.panels.size())), key_need, column_label_need});
  const double height = layout.Y(down - 1) + layout.panel_height + 32;
  Svg svg(width, height, spec.alt);
  if (!spec.scale_label.empty()) DrawColorKey(svg, width - 6, 4, spec);
  for (size_t column = 0; column < spec.headers.size() && column < across; ++column) {
    svg.Text(layout.X(column), layout.top - (spec.titles_left ? 10 : 22), spec.headers[column],
             {.size = kTitleSize, .bold = true});
  }
  for (size_t i = 0; i < spec.panels.size(); ++i) {
    const MatrixPanel& panel = spec.panels[i];
    const size_t row = i / across, column = i % across;
    const double x = layout.X(column), y = layout.Y(row);
    if (spec.titles_left) {
      if (column == 0) {
        svg.Text(layout.title_right, y + layout.panel_height / 2 + 4, panel.title,
                 {.size = kTitleSize, .anchor = Anchor::kEnd});
      }
      svg.Text(x + layout.panel_width + 6, y + layout.panel_height / 2 + 4, panel.note, {.size = kNoteSize});
    } else {
      svg.Text(x, y - 5, panel.title, {.size = kTitleSize});
      svg.Text(x + TextWidth(panel.title, kTitleSize) + 7, y - 5, panel.note,
               {.size = kNoteSize, .color = std::string(kSoftInk)});
    }
    if (column == 0 && (row == 0 || !spec.titles_left)) DrawRowNames(svg, x, y, spec, panel.rows);
    DrawCells(svg, x, y, panel, spec);
    const bool last_in_column = i + across >= spec.panels.size();
    if (last_in_column || !spec.titles_left) DrawColumnNames(svg, x, y + panel.rows * spec.cell_height, spec);
    if (last_in_column && column == 0) {
      const bool both = !spec.titles_left && !spec.row_label.empty();
      svg.Text(x, y + panel.rows * spec.cell_height + 25, AxisText(spec, both), kSoft);
    }
  }
  if (spec.titles_left && !spec.row_names.empty()) {
    TextStyle style = kSoft;
    style.anchor = TextWidth(spec.row_label, kTickSize) + 4 > layout.left ? Anchor::kStart : Anchor::kEnd;
    svg.Text(style.anchor == Anchor::kEnd ? layout.left - 4 : 0, layout.top - 4, spec.row_label, style);
  }
  return svg;
}

}  // namespace kvscope
