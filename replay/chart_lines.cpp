// SPDX-License-Identifier: Apache-2.0
#include "replay/chart_lines.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace kvscope {
namespace {

constexpr double kLabelSize = 11, kLabelGap = 13.5, kTickSize = 10.5, kTop = 34, kBottom = 44;

struct Frame {
  Box box;
  Scale x, y;
};

std::string Tooltip(const ChartSeries& series, const ChartPoint& point, Unit x_unit, Unit y_unit) {
  return StrCat(series.name, ": ", Formatted(point.y, y_unit), " at ", Formatted(point.x, x_unit));
}

void DrawAxes(Svg& svg, const Frame& frame, const std::string& x_label, const std::string& y_label) {
  const Box& box = frame.box;
  svg.Text(2, 14, y_label, {.size = 11.5, .bold = true});
  const auto y_ticks = frame.y.Ticks(5);
  const auto y_texts = TickTexts(y_ticks, frame.y.unit, frame.y.log);
  for (size_t i = 0; i < y_ticks.size(); ++i) {
    const double y = frame.y.Pixel(y_ticks[i]);
    svg.Line(box.left, y, box.right, y, {.color = std::string(kHairline), .width = 0.7});
    svg.Text(box.left - 6, y + 3.7, y_texts[i],
             {.size = kTickSize, .anchor = Anchor::kEnd, .color = std::string(kSoftInk)});
  }
  const auto x_ticks = frame.x.Ticks(5);
  const auto x_texts = TickTexts(x_ticks, frame.x.unit, frame.x.log);
  svg.Line(box.left, box.bottom, box.right, box.bottom, {.color = std::string(kSoftInk), .width = 0.8});
  double last_right = -1e9, last_left = 1e9;
  for (size_t i = 0; i < x_ticks.size(); ++i) {
    const double x = frame.x.Pixel(x_ticks[i]), half = TextWidth(x_texts[i], kTickSize) / 2 + 4;
    svg.Line(x, box.bottom, x, box.bottom + 4, {.color = std::string(kSoftInk), .width = 0.8});
    if (x - half < last_right && x + half > last_left) continue;  // would touch the label before it
    svg.Text(x, box.bottom + 16, x_texts[i],
             {.size = kTickSize, .anchor = Anchor::kMiddle, .color = std::string(kSoftInk)});
    last_right = x + half;
    last_left = x - half;
  }
  svg.Text((box.left + box.right) / 2, box.bottom + 34, x_label, {.size = 11, .anchor = Anchor::kMiddle});
}

void DrawSeries(Svg& svg, const Frame& frame, const ChartSeries& series, double shift) {
  std::vector<Point> line;
  for (const ChartPoint& point : series.points)
    line.push_back({frame.x.Pixel(point.x) + shift, frame.y.Pixel(point.y)});
  PolicyLook look = series.look;
  if (series.is_quiet) {
    look.color = "#c4c1b8";
    look.dash.clear();
  }
  for (size_t i = 0; i < line.size(); ++i) {
    const ChartPoint& point = series.points[i];
    if (!point.low || !point.high || series.is_quiet) continue;
    const double low = frame.y.Pixel(std::max(*point.low, std::min(frame.y.low, frame.y.high)));
    const double high = frame.y.Pixel(std::min(*point.high, std::max(frame.y.low, frame.y.high)));
    svg.Line(line[i].x, low, line[i].x, high, {.color = look.color, .width = 1, .opacity = 0.45});
  }
  const double width = series.is_strong ? 2.8 : look.reference || series.is_quiet ? 1.1 : 1.7;
  if (line.size() > 1 && !series.is_scattered)
    svg.Polyline(line, {.color = look.color, .width = width, .dash = look.dash});
  for (size_t i = 0; i < line.size(); ++i) {
    svg.DrawMarker(look.marker, line[i].x, line[i].y,
                   series.is_strong  ? 4.4
                   : series.is_quiet ? 2.4
                                     : 3.4,
                   look.color, look.filled, Tooltip(series, series.points[i], frame.x.unit, frame.y.unit));
  }
}

struct Range {
  double low = 1e300, high = -1e300;
  void Add(double value) {
    low = std::min(low, value);
    high = std::max(high, value);
  }
};

double TickColumn(const Scale& y) {
  double width = 0;
  for (const std::string& text : TickTexts(y.Ticks(5), y.unit, y.log))
    width = std::max(width, TextWidth(text, kTickSize));
  return width + 10;
}

// Small boxes along a line, for labels to keep off.
void AddAlong(std::vector<Box>& boxes, Point a, Point b) {
  const double length = std::hypot(b.x - a.x, b.y - a.y);
  for (double at = 0; at <= length; at += 6) {
    const double x = a.x + (b.x - a.x) * at / std::max(length, 1e-9),
                 y = a.y + (b.y - a.y) * at / std::max(length, 1e-9);
    boxes.push_back({x - 1, y - 1, x + 1, y + 1});
  }
}

void AddAlong(std::vector<Box>& boxes, const ChartSeries& series, const Frame& frame, double shift) {
  for (size_t i = 1; i < series.points.size(); ++i) {
    const ChartPoint &a = series.points[i - 1], &b = series.points[i];
    AddAlong(boxes, {frame.x.Pixel(a.x) + shift, frame.y.Pixel(a.y)}, {frame.x.Pixel(b.x) + shift, frame.y.Pixel(b.y)});
  }
}

int DrawingRank(const ChartSeries& series) {
  return series.is_quiet ? 0 : series.look.reference ? 1 : series.is_strong ? 3 : 2;
}

// Quiet ones first, then references, so that they lie behind; the strong one last.
std::vector<const ChartSeries*> BackToFront(const std::vector<ChartSeries>& series) {
  std::vector<const ChartSeries*> sorted;
  for (const ChartSeries& one : series) sorted.push_back(&one);
  std::stable_sort(sorted.begin(), sorted.end(), [](auto a, auto b) { return DrawingRank(*a) < DrawingRank(*b); });
  return sorted;
}

double HorizontalEnd(const ChartSeries& series, const Frame& frame) {
  return frame.x.Pixel(series.points.back().x);
}

// Labels in a column at the right for lines and for points near it, beside their point for the others.
void DrawEndLabels(Svg& svg, const Frame& frame, const std::vector<const ChartSeries*>& series,
                   const std::vector<double>& shifts, double label_left, std::vector<Box> lines) {
  std::vector<double> wanted;
  std::vector<size_t> in_column;
  std::vector<Point> lone_points;
  std::vector<std::string> lone_names;
  std::vector<Box> obstacles;
  for (size_t i = 0; i < series.size(); ++i) {
    const double end = HorizontalEnd(*series[i], frame);
    AddAlong(lines, *series[i], frame, shifts[i]);
    for (const ChartPoint& point : series[i]->points) {
      const double x = frame.x.Pixel(point.x) + shifts[i], y = frame.y.Pixel(point.y);
      obstacles.push_back({x - 5, y - 5, x + 5, y + 5});
    }
    if (series[i]->is_quiet) continue;
    const bool ends_late = end > frame.box.right - 0.16 * (frame.box.right - frame.box.left);
    if (ends_late || series[i]->points.size() > 1) {
      in_column.push_back(i);
      wanted.push_back(frame.y.Pixel(series[i]->points.back().y));
    } else {
      lone_points.push_back({end + shifts[i], frame.y.Pixel(series[i]->points.back().y)});
      lone_names.push_back(series[i]->name);
    }
  }
  const auto placed = SpreadLabels(wanted, kLabelGap, frame.box.top - 8, frame.box.bottom - 4);
  for (size_t k = 0; k < in_column.size(); ++k) {
    const ChartSeries& one = *series[in_column[k]];
    const double x = HorizontalEnd(one, frame) + shifts[in_column[k]] + 5;
    svg.Line(x, wanted[k], label_left - 3, placed[k], {.color = one.look.color, .width = 0.6, .opacity = 0.6});
    svg.DrawMarker(one.look.marker, label_left + 3, placed[k], 2.8, one.look.color, one.look.filled);
    svg.Text(label_left + 10, placed[k] + 3.9, one.name, {.size = kLabelSize});
  }
  const auto lone = PlaceLabels(lone_points, lone_names, kLabelSize, frame.box, obstacles, lines);
  for (size_t k = 0; k < lone.size(); ++k)
    svg.Text(lone[k].x, lone[k].y, lone_names[k], {.size = kLabelSize, .halo = true});
}

}  // namespace

namespace {

struct Ranges {
  Range x, y;
};

// What the axes must hold: points, error bars, the reference and the ends asked for.
Ranges RangesOf(const LineChartSpec& spec) {
  Ranges ranges;
  for (const ChartSeries& series : spec.series) {
    KVSCOPE_CHECK(!series.points.empty());
    for (const ChartPoint& point : series.points) {
      ranges.x.Add(point.x);
      ranges.y.Add(point.y);
      if (point.low && (!spec.y_log || *point.low > 0)) ranges.y.Add(*point.low);
      if (point.high) ranges.y.Add(*point.high);
    }
  }
  if (spec.reference) ranges.y.Add(spec.reference->y);
  if (spec.y_low) ranges.y.Add(*spec.y_low);
  if (spec.y_high) ranges.y.Add(*spec.y_high);
  return ranges;
}

}  // namespace

Svg LineChart(const LineChartSpec& spec) {
  KVSCOPE_CHECK(!spec.series.empty());
  const auto [x_range, y_range] = RangesOf(spec);
  double label_width = 0, label_rows = 0;
  for (const ChartSeries& series : spec.series) {
    if (series.is_quiet) continue;
    label_width = std::max(label_width, TextWidth(series.name, kLabelSize));
    ++label_rows;
  }
  const bool log_x = x_range.low > 0 && x_range.high / x_range.low > 8;
  const double plot_height = std::max(230.0, kLabelGap * label_rows);
  Svg svg(spec.width, kTop + plot_height + kBottom, StrCat(spec.y_label, " against ", spec.x_label));

  Frame frame{{},
              NiceScale(x_range.low, x_range.high, log_x, spec.x_unit),
              NiceScale(y_range.low, y_range.high, spec.y_log, spec.y_unit)};
  const double left = TickColumn(frame.y), label_left = spec.width - label_width - 14;
  frame.box = {left, kTop, label_left - 18, kTop + plot_height};
  const double dodge = 1.6 * std::min(label_rows, 12.0);
  frame.x.first = spec.reverse_x ? frame.box.right - 10 : frame.box.left + 10;
  frame.x.last = spec.reverse_x ? frame.box.left + 10 : frame.box.right - 10;
  frame.y.first = frame.box.bottom;
  frame.y.last = frame.box.top;
  DrawAxes(svg, frame, spec.x_label, spec.y_label);
  if (spec.reference) {
    const double y = frame.y.Pixel(spec.reference->y);
    svg.Line(frame.box.left, y, frame.box.right, y, {.color = std::string(kInk), .width = 1.1});
  }
  const auto order = BackToFront(spec.series);
  std::vector<double> shifts;
  std::vector<ChartSeries> sorted;
  double named = 0;  // beside each other; the pale ones stay where they are
  for (const ChartSeries* one : order) {
    const double t = label_rows < 2 || one->is_quiet ? 0 : named++ / (label_rows - 1) - 0.5;
    shifts.push_back(t * dodge);
  }
  for (size_t i = 0; i < order.size(); ++i) {
    ChartSeries one = *order[i];
    std::sort(one.points.begin(), one.points.end(),
              [&](const auto& a, const auto& b) { return spec.reverse_x ? a.x > b.x : a.x < b.x; });
    DrawSeries(svg, frame, one, shifts[i]);
    sorted.push_back(std::move(one));
  }
  std::vector<const ChartSeries*> pointers;
  for (const ChartSeries& one : sorted) pointers.push_back(&one);
  std::vector<Box> lines;
  if (spec.reference) {
    const double y = frame.y.Pixel(spec.reference->y);
    AddAlong(lines, {frame.box.left, y}, {frame.box.right, y});
  }
  DrawEndLabels(svg, frame, pointers, shifts, label_left, lines);
  if (spec.reference) {
    const double y = frame.y.Pixel(spec.reference->y);
    const bool above = y - frame.box.top > 16;
    svg.Text(frame.box.left + 4, above ? y - 4 : y + 13, spec.reference->label, {.size = 10.5, .halo = true});
  }
  return svg;
}

namespace {

struct ScatterLabels {
  std::vector<Point> anchors;
  std::vector<std::string> names;
  std::vector<PlacedLabel> placed;
  bool are_clear = true;
};

ScatterLabels LabelScatter(const std::vector<const ChartSeries*>& order, const Frame& frame) {
  ScatterLabels labels;
  std::vector<Box> obstacles, lines;
  for (const ChartSeries* series : order) {
    AddAlong(lines, *series, frame, 0);
    for (const ChartPoint& point : series->points) {
      const double x = frame.x.Pixel(point.x), y = frame.y.Pixel(point.y);
      obstacles.push_back({x - 5, y - 5, x + 5, y + 5});
    }
    labels.anchors.push_back({frame.x.Pixel(series->points[0].x), frame.y.Pixel(series->points[0].y)});
    labels.names.push_back(series->name);
  }
  labels.placed = PlaceLabels(labels.anchors, labels.names, kLabelSize, frame.box, obstacles, lines);
  for (const PlacedLabel& label : labels.placed) labels.are_clear = labels.are_clear && label.is_clear;
  return labels;
}

void DrawLabelsBeside(Svg& svg, const ScatterLabels& labels) {
  for (size_t i = 0; i < labels.placed.size(); ++i) {
    const PlacedLabel& label = labels.placed[i];
    const Point& anchor = labels.anchors[i];
    if (label.needs_leader) {
      const double y = label.y - 4, x = std::clamp(anchor.x, label.x, label.x + TextWidth(labels.names[i], kLabelSize));
      svg.Line(anchor.x, anchor.y, x, y + (y < anchor.y ? 5 : -5), {.color = std::string(kSoftInk), .width = 0.6});
    }
    svg.Text(label.x, label.y, labels.names[i], {.size = kLabelSize, .halo = true});
  }
}

// Where there is no room beside the points: a column at the right.
void DrawLabelColumn(Svg& svg, const std::vector<const ChartSeries*>& order, const ScatterLabels& labels,
                     const Frame& frame, double label_left) {
  std::vector<double> wanted;
  for (const Point& anchor : labels.anchors) wanted.push_back(anchor.y);
  const auto placed = SpreadLabels(wanted, kLabelGap, frame.box.top - 8, frame.box.bottom - 4);
  for (size_t i = 0; i < order.size(); ++i) {
    const PolicyLook& look = order[i]->look;
    svg.Line(labels.anchors[i].x + 5, labels.anchors[i].y, label_left - 3, placed[i],
             {.color = look.color, .width = 0.5, .opacity = 0.6});
    svg.DrawMarker(look.marker, label_left + 3, placed[i], 2.8, look.color, look.filled);
    svg.Text(label_left + 10, placed[i] + 3.9, labels.names[i], {.size = kLabelSize});
  }
}

Frame ScatterFrame(const ScatterSpec& spec, double right, double bottom) {
  Range x_range, y_range;
  for (const ChartSeries& series : spec.series) {
    for (const ChartPoint& point : series.points) {
      x_range.Add(point.x);
      y_range.Add(point.y);
    }
  }
  Frame frame{{},
              NiceScale(x_range.low, x_range.high, spec.x_log && x_range.low > 0, spec.x_unit),
              NiceScale(y_range.low, y_range.high, spec.y_log && y_range.low > 0, spec.y_unit)};
  frame.box = {TickColumn(frame.y), kTop, right, bottom};
  frame.x.first = frame.box.left + 6;
  frame.x.last = frame.box.right - 6;
  frame.y.first = frame.box.bottom - 6;
  frame.y.last = frame.box.top + 6;
  return frame;
}

}  // namespace

Svg ScatterChart(const ScatterSpec& spec) {
  KVSCOPE_CHECK(!spec.series.empty());
  const auto order = BackToFront(spec.series);
  double height = spec.height, label_left = 0;
  Frame frame = ScatterFrame(spec, spec.width - 12, height - kBottom);
  ScatterLabels labels = LabelScatter(order, frame);
  if (!labels.are_clear) {
    double widest = 0;
    for (const std::string& name : labels.names) widest = std::max(widest, TextWidth(name, kLabelSize));
    label_left = std::max(spec.width - widest - 14, spec.width * 0.4);
    height = std::max(height, kTop + kLabelGap * static_cast<double>(order.size()) + kBottom);
    frame = ScatterFrame(spec, label_left - 22, height - kBottom);
    labels = LabelScatter(order, frame);
  }
  Svg svg(spec.width, height, StrCat(spec.y_label, " against ", spec.x_label));
  DrawAxes(svg, frame, spec.x_label, spec.y_label);
  for (const ChartSeries* series : order) DrawSeries(svg, frame, *series, 0);
  if (label_left > 0) {
    DrawLabelColumn(svg, order, labels, frame, label_left);
  } else {
    DrawLabelsBeside(svg, labels);
  }
  return svg;
}

}  // namespace kvscope
