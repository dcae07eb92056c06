// SPDX-License-Identifier: Apache-2.0
#include "replay/chart_strips.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "replay/png.h"

namespace kvscope {
namespace {

const TextStyle kSoft{.size = 10, .color = std::string(kSoftInk)};

TextStyle With(TextStyle style, Anchor anchor) {
  style.anchor = anchor;
  return style;
}

const Stroke kThin{.color = std::string(kHairline), .width = 0.7};
const Stroke kAxis{.color = std::string(kSoftInk), .width = 0.8};

}  // namespace

Svg IntervalChart(const IntervalChartSpec& spec) {
  constexpr double kRow = 19, kPanel = 230, kTop = 44;
  double left = 0, gap = 74;
  for (const auto& row : spec.rows) {
    left = std::max(left, TextWidth(row.name, 11, row.marks.empty()) + 12);
    for (const auto& mark : row.marks) gap = std::max(gap, mark ? TextWidth(mark->text, 10) + 28 : 0);
  }
  const double height = kTop + kRow * static_cast<double>(spec.rows.size());
  const double width = left + static_cast<double>(spec.panels.size()) * (kPanel + gap);
  Svg svg(width, height + 42, spec.x_label + " with 95 % intervals");
  const bool is_share = spec.unit == Unit::kPercent && spec.low == 0 && spec.high == 1;
  const std::vector<double> ticks =
      is_share ? std::vector<double>{0.0, 0.25, 0.5, 0.75, 1.0} : RoundTicks(spec.low, spec.high, 5);
  const std::vector<std::string> texts = TickTexts(ticks, spec.unit);
  for (size_t panel = 0; panel < spec.panels.size(); ++panel) {
    const double x0 = left + static_cast<double>(panel) * (kPanel + gap);
    const Scale scale{spec.low, spec.high, x0, x0 + kPanel, false, spec.unit};
    const auto pixel = [&](double value) { return scale.Pixel(std::clamp(value, spec.low, spec.high)); };
    svg.Text(x0, 14, spec.panels[panel], {.size = 11, .bold = true});
    for (size_t i = 0; i < ticks.size(); ++i) {
      svg.Line(pixel(ticks[i]), kTop - 12, pixel(ticks[i]), height, kThin);
      svg.Text(pixel(ticks[i]), height + 16, texts[i], With(kSoft, Anchor::kMiddle));
    }
    if (spec.level) svg.Line(pixel(*spec.level), kTop - 12, pixel(*spec.level), height, {.width = 1.1});
    svg.Text(x0 + kPanel / 2, height + 34, spec.x_label, {.size = 11, .anchor = Anchor::kMiddle});
    for (size_t i = 0; i < spec.rows.size(); ++i) {
      const auto& row = spec.rows[i];
      const double y = kTop + kRow * (static_cast<double>(i) + 0.25);
      if (panel == 0)
        svg.Text(left - 10, y + 4, row.name, {.size = 11, .anchor = Anchor::kEnd, .bold = row.marks.empty()});
      if (panel >= row.marks.size() || !row.marks[panel]) continue;
      const auto& mark = *row.marks[panel];
      svg.Line(pixel(mark.low), y, pixel(mark.high), y, {.color = row.look.color, .width = 1.6});
      svg.DrawMarker(row.look.marker, pixel(mark.value), y, 4, row.look.color, row.look.filled,
                     StrCat(row.name, ": ", mark.text, ", 95 % interval ", Formatted(mark.low, spec.unit), " to ",
                            Formatted(mark.high, spec.unit)));
      svg.Text(x0 + kPanel + 12, y + 4, mark.text, kSoft);
    }
  }
  return svg;
}

namespace {

// Each name stands where its own curve rises most above the other; where they would meet, each moves to its side.
void NameCurves(Svg& svg, const HistogramPairSpec& spec, const Scale& x, const Scale& y,
                const std::vector<double>& front, const std::vector<double>& back) {
  const auto summit = [&](const std::vector<double>& own, const std::vector<double>& other) {
    size_t best = 0;
    for (size_t bin = 0; bin < own.size(); ++bin) {
      if (own[bin] - other[bin] > own[best] - other[best]) best = bin;
    }
    return Point{x.Pixel(spec.low + spec.bin_width * (static_cast<double>(best) + 0.5)), y.Pixel(own[best])};
  };
  const Point at_front = summit(front, back), at_back = summit(back, front);
  const double need = (TextWidth(spec.front_name, 11.5) + TextWidth(spec.back_name, 11.5)) / 2 + 8;
  const bool apart = std::fabs(at_front.x - at_back.x) > need || std::fabs(at_front.y - at_back.y) > 18;
  const bool front_right = at_front.x >= at_back.x;
  const Anchor front_anchor = apart ? Anchor::kMiddle : front_right ? Anchor::kStart : Anchor::kEnd;
  const Anchor back_anchor = apart ? Anchor::kMiddle : front_right ? Anchor::kEnd : Anchor::kStart;
  svg.Text(at_front.x + (apart         ? 0
                         : front_right ? 6
                                       : -6),
           at_front.y - 6, spec.front_name, {.size = 11.5, .anchor = front_anchor, .color = "#b34700", .halo = true});
  svg.Text(at_back.x + (apart         ? 0
                        : front_right ? -6
                                      : 6),
           at_back.y - 6, spec.back_name,
           {.size = 11.5, .anchor = back_anchor, .color = std::string(kSoftInk), .halo = true});
}

}  // namespace

Svg HistogramPair(const HistogramPairSpec& spec) {
  KVSCOPE_CHECK_EQ(spec.front.size(), spec.back.size());
  constexpr double kWidth = 640, kTop = 40, kPlot = 190, kLeft = 44;
  Svg svg(kWidth, kTop + kPlot + 44, StrCat(spec.front_name, " against ", spec.back_name));
  const size_t bins = spec.front.size();
  const auto shares = [](const std::vector<double>& counts) {
    const double total = std::accumulate(counts.begin(), counts.end(), 0.0);
    std::vector<double> share(counts);
    for (double& value : share) value = total > 0 ? value / total : 0;
    return share;
  };
  const std::vector<double> front = shares(spec.front), back = shares(spec.back);
  // Only the bins that hold anything.
  size_t first = 0, last = bins;
  while (first + 1 < last && front[first] + back[first] == 0) ++first;
  while (last > first + 1 && front[last - 1] + back[last - 1] == 0) --last;
  double most = 1e-9;
  for (size_t bin = 0; bin < bins; ++bin) most = std::max({most, front[bin], back[bin]});
  const double bin_low = spec.low + spec.bin_width * static_cast<double>(first);
  const Scale x{bin_low,     spec.low + spec.bin_width * static_cast<double>(last), kLeft, kWidth - 10, false,
                Unit::kPlain};
  Scale y = NiceScale(0, most, false, Unit::kPercent);
  y.first = kTop + kPlot;
  y.last = kTop;
  svg.Text(2, 14, "share of each group's (token, head) pairs", {.size = 11.5, .bold = true});
  const auto y_ticks = y.Ticks(4);
  const auto y_texts = TickTexts(y_ticks, Unit::kPercent);
  for (size_t i = 0; i < y_ticks.size(); ++i) {
    svg.Line(kLeft, y.Pixel(y_ticks[i]), kWidth - 10, y.Pixel(y_ticks[i]), kThin);
    svg.Text(kLeft - 6, y.Pixel(y_ticks[i]) + 3.6, y_texts[i], With(kSoft, Anchor::kEnd));
  }
  const auto outline = [&](const std::vector<double>& share) {
    std::vector<Point> points{{x.Pixel(bin_low), y.first}};
    for (size_t bin = first; bin < last; ++bin) {
      const double left = x.Pixel(spec.low + spec.bin_width * static_cast<double>(bin));
      const double right = x.Pixel(spec.low + spec.bin_width * static_cast<double>(bin + 1));
      points.push_back({left, y.Pixel(share[bin])});
      points.push_back({right, y.Pixel(share[bin])});
    }
    points.push_back({points.back().x, y.first});
    return points;
  };
  svg.Polygon(outline(back), "#9a9a9a", 0.35, {.color = "#8a8a8a", .width = 1});
  svg.Polygon(outline(front), "#d55e00", 0.22, {.color = "#d55e00", .width = 1.8});
  const auto x_ticks = x.Ticks(8);
  const auto x_texts = TickTexts(x_ticks, Unit::kPlain);
  svg.Line(kLeft, y.first, kWidth - 10, y.first, kAxis);
  for (size_t i = 0; i < x_ticks.size(); ++i) {
    svg.Line(x.Pixel(x_ticks[i]), y.first, x.Pixel(x_ticks[i]), y.first + 4, kAxis);
    const Anchor anchor = x.Pixel(x_ticks[i]) > kWidth - 20 ? Anchor::kEnd : Anchor::kMiddle;
    svg.Text(x.Pixel(x_ticks[i]), y.first + 16, x_texts[i], With(kSoft, anchor));
  }
  svg.Text(kWidth / 2, y.first + 34, spec.x_label, {.size = 11, .anchor = Anchor::kMiddle});
  NameCurves(svg, spec, x, y, front, back);
  return svg;
}

Svg KeptChart(const KeptChartSpec& spec) {
  KVSCOPE_CHECK(spec.layers > 0 && spec.bins > 0 && spec.num_tokens > 0);
  const double plot = 640, strip = std::clamp(spec.layers * 1.6, 14.0, 64.0), gap = 9, top = 30;
  double left = 0, right = 0;
  for (const auto& panel : spec.panels) {
    left = std::max(left, TextWidth(panel.name, 11) + 12);
    right = std::max(right, TextWidth(panel.note, 10) + 12);
  }
  const double bottom = top + static_cast<double>(spec.panels.size()) * (strip + gap);
  Svg svg(left + plot + right, bottom + 40, "tokens kept by each policy, layers down, tokens across");
  const Scale x{0, static_cast<double>(spec.num_tokens), left, left + plot, false, Unit::kPlain};
  for (size_t i = 0; i < spec.panels.size(); ++i) {
    const auto& panel = spec.panels[i];
    KVSCOPE_CHECK_EQ(panel.share.size(), static_cast<size_t>(spec.layers) * spec.bins);
    std::vector<uint32_t> pixels;
    for (const double share : panel.share) pixels.push_back(SequentialRgb(share));
    const double y = top + static_cast<double>(i) * (strip + gap);
    svg.Image(left, y, plot, strip, PngFromPixels(pixels, spec.bins, spec.layers));
    svg.Frame(left, y, plot, strip, kThin);
    svg.Text(left - 10, y + strip / 2 + 4, panel.name, {.size = 11, .anchor = Anchor::kEnd});
    svg.Text(left + plot + 8, y + strip / 2 + 4, panel.note, kSoft);
  }
  if (spec.needle_begin && spec.needle_end) {
    const double from = x.Pixel(*spec.needle_begin), to = std::max(x.Pixel(*spec.needle_end), from + 1.2);
    for (size_t i = 0; i < spec.panels.size(); ++i) {
      const double y = top + static_cast<double>(i) * (strip + gap);
      svg.Line(from - 1, y - 3, from - 1, y + strip + 3, {.color = "#d55e00", .width = 1.1});
      svg.Line(to + 1, y - 3, to + 1, y + strip + 3, {.color = "#d55e00", .width = 1.1});
    }
    const double half = TextWidth("needle", 11) / 2;
    svg.Text(std::clamp((from + to) / 2, left + half, left + plot - half), top - 10, "needle",
             {.size = 11, .anchor = Anchor::kMiddle, .color = "#b34700"});
  }
  const auto ticks = x.Ticks(8);
  const auto texts = TickTexts(ticks, Unit::kPlain);
  for (size_t i = 0; i < ticks.size(); ++i) {
    svg.Line(x.Pixel(ticks[i]), bottom - gap + 3, x.Pixel(ticks[i]), bottom - gap + 7, kAxis);
    svg.Text(x.Pixel(ticks[i]), bottom + 9, texts[i], With(kSoft, Anchor::kMiddle));
  }
  svg.Text(left + plot / 2, bottom + 27, "token (position in the prompt); in each strip the first layer is at the top",
           {.size = 11, .anchor = Anchor::kMiddle});
  return svg;
}

}  // namespace kvscope
