// SPDX-License-Identifier: Apache-2.0
// What every chart needs: scales with round ticks, numbers as people write them, labels that keep apart.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "replay/svg.h"

namespace kvscope {

enum class Unit { kPlain, kPercent, kBytes };

// Ascending values of the form {1, 2, 5} x 10^k, about `wanted` of them, inside [low, high].
std::vector<double> RoundTicks(double low, double high, int wanted);
// For a logarithmic axis: 1, 2, 5 x 10^k (fewer when many decades).
std::vector<double> LogTicks(double low, double high);

// `digits` significant digits without an exponent where that is readable: "0.0123", "1,240", "3.1e-9".
std::string NumberText(double value, int digits = 3);
std::string FixedText(double value, int decimals);           // "1,234.50"; never "-0"
std::string PercentText(double fraction, int decimals = 0);  // "25 %"
std::string BytesText(double bytes);                         // "1.4 MB", decimal prefixes
std::string Formatted(double value, Unit unit);

// A value axis mapped to pixels. Ticks are labelled in `unit`.
struct Scale {
  double low = 0, high = 1;    // data
  double first = 0, last = 1;  // pixels of low and high; last < first where the axis runs up or left
  bool log = false;
  Unit unit = Unit::kPlain;
  double Pixel(double value) const;
  std::vector<double> Ticks(int wanted) const;
};
// Widens [low, high] to round numbers, or by some room where `tight`; never empty.
Scale NiceScale(double low, double high, bool log, Unit unit);
// Texts of the ticks of one axis, all with the same number of decimals; on a logarithmic one each as short as it can
// be.
std::vector<std::string> TickTexts(const std::vector<double>& ticks, Unit unit, bool log = false);

// Moves label centres as little as possible so that neighbours are at least `gap` apart and all lie in [low, high].
// Order is kept. More labels than fit are spread evenly.
std::vector<double> SpreadLabels(const std::vector<double>& wanted, double gap, double low, double high);

// Places a label beside each point, avoiding points, other labels, the frame's edge and, where it can,
// `lines`, small boxes along what is drawn. Returns left-bottom corners.
struct PlacedLabel {
  double x = 0, y = 0;  // for Text with Anchor::kStart
  bool needs_leader = false;
  bool is_clear = true;  // touches nothing
};
std::vector<PlacedLabel> PlaceLabels(const std::vector<Point>& points, const std::vector<std::string>& labels,
                                     double size, const Box& frame, std::vector<Box> obstacles = {},
                                     const std::vector<Box>& lines = {});

}  // namespace kvscope
