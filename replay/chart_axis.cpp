// SPDX-License-Identifier: Apache-2.0
#include "replay/chart_axis.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <numeric>

#include "core/error.h"

namespace kvscope {
namespace {

// 1, 2 or 5 times a power of ten, not below `step`.
double RoundStep(double step) {
  const double power = std::pow(10, std::floor(std::log10(step)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (step <= factor * power * (1 + 1e-9)) return factor * power;
  }
  return 10 * power;
}

// Fewest decimals that write every tick exactly, six at most.
int DecimalsOf(const std::vector<double>& ticks, double factor) {
  for (int decimals = 0; decimals < 6; ++decimals) {
    const double scale = factor * std::pow(10, decimals);
    const auto exact = [&](double tick) {
      return std::fabs(tick * scale - std::round(tick * scale)) < 1e-6 * std::max(1.0, std::fabs(tick * scale));
    };
    if (std::all_of(ticks.begin(), ticks.end(), exact)) return decimals;
  }
  return 6;
}

}  // namespace

std::string FixedText(double value, int decimals) {
  char buffer[64];
  std::snprintf(buffer, sizeof buffer, "%.*f", decimals, value);
  std::string text = buffer;
  if (text.find_first_not_of("-0.") == std::string::npos && text[0] == '-') text.erase(0, 1);
  const size_t point = std::min(text.find('.'), text.size()), begin = text[0] == '-' ? 1 : 0;
  for (size_t at = point; at > begin + 3; at -= 3) text.insert(at - 3, 1, ',');
  return text[0] == '-' ? StrCat("\u2212", text.substr(1)) : text;
}

std::vector<double> RoundTicks(double low, double high, int wanted) {
  KVSCOPE_CHECK(low < high && wanted > 0);
  const double step = RoundStep((high - low) / wanted);
  std::vector<double> ticks;
  for (double index = std::ceil(low / step - 1e-9); index * step <= high + step * 1e-9; ++index)
    ticks.push_back(index * step + 0.0);
  return ticks;
}

std::vector<double> LogTicks(double low, double high) {
  KVSCOPE_CHECK(0 < low && low < high);
  const double decades = std::log10(high / low);
  const double every = std::ceil(decades / 6);
  std::vector<double> ticks;
  for (double exponent = std::floor(std::log10(low)); exponent <= std::log10(high) + 1e-9; exponent += every) {
    for (const double factor : {1.0, 2.0, 5.0}) {
      const double tick = factor * std::pow(10, exponent);
      if (factor > 1 && decades > 2.2) continue;
      if (tick >= low * (1 - 1e-9) && tick <= high * (1 + 1e-9)) ticks.push_back(tick);
    }
  }
  return ticks;
}

std::string NumberText(double value, int digits) {
  if (!std::isfinite(value)) return "–";
  if (value == 0) return "0";
  if (value == std::round(value) && std::fabs(value) < 1e9 && std::fabs(value) >= std::pow(10, digits - 1))
    return FixedText(value, 0);
  const double magnitude = std::fabs(value);
  if (magnitude >= 1e9 || magnitude < 1e-4) {
    char buffer[64];
    std::snprintf(buffer, sizeof buffer, "%.*e", std::max(0, digits - 2), value);
    std::string text = buffer;
    const size_t e = text.find('e');
    return StrCat(text.substr(0, e), "e", std::stoi(text.substr(e + 1)));
  }
  const int leading = static_cast<int>(std::floor(std::log10(magnitude) + 1e-12)) + 1;
  return FixedText(value, std::clamp(digits - leading, 0, 8));
}

std::string PercentText(double fraction, int decimals) {
  return StrCat(FixedText(fraction * 100, decimals), "\u00a0%");
}

std::string BytesText(double bytes) {
  constexpr std::array kUnits = {"B", "kB", "MB", "GB", "TB"};
  size_t unit = 0;
  for (; std::fabs(bytes) >= 999.5 && unit + 1 < kUnits.size(); ++unit) bytes /= 1000;
  return (unit == 0 ? FixedText(bytes, 0) : NumberText(bytes)) + " " + kUnits[unit];
}

std::string Formatted(double value, Unit unit) {
  if (unit == Unit::kPercent) return PercentText(value, std::fabs(value) < 0.0995 && value != 0 ? 1 : 0);
  return unit == Unit::kBytes ? BytesText(value) : NumberText(value);
}

double Scale::Pixel(double value) const {
  const double t = log ? std::log(value / low) / std::log(high / low) : (value - low) / (high - low);
  return first + t * (last - first);
}

std::vector<double> Scale::Ticks(int wanted) const {
  return log ? LogTicks(low, high) : RoundTicks(low, high, wanted);
}

Scale NiceScale(double low, double high, bool log, Unit unit) {
  if (low > high) std::swap(low, high);
  if (log && low > 0) {
    const double room = std::pow(high / low, 0.06) * 1.03;
    return {low / room, high * room, 0, 1, true, unit};
  }
  if (high - low < 1e-12 * std::max(std::fabs(low), std::fabs(high)) || high == low) {
    const double room = std::max(std::fabs(high) * 0.1, 1e-9);
    low -= room;
    high += room;
  }
  const double step = RoundStep((high - low) / 8);
  const double round_low = std::floor(low / step + 1e-9) * step, round_high = std::ceil(high / step - 1e-9) * step;
  return {round_low, round_high, 0, 1, false, unit};
}

std::vector<std::string> TickTexts(const std::vector<double>& ticks, Unit unit, bool log) {
  std::vector<std::string> texts;
  if (unit == Unit::kBytes) {
    for (const double tick : ticks) {
      std::string text = BytesText(tick);
      if (const size_t point = text.find('.'); point != std::string::npos) {  // 10.0 MB -> 10 MB
        size_t end = text.find(' ');
        size_t last = end;
        while (text[last - 1] == '0') --last;
        if (text[last - 1] == '.') --last;
        text.erase(last, end - last);
      }
      texts.push_back(text);
    }
    return texts;
  }
  if (log && unit == Unit::kPlain) {
    for (const double tick : ticks) texts.push_back(NumberText(tick, 1));
    return texts;
  }
  const double largest = ticks.empty() ? 0 : std::max(std::fabs(ticks.front()), std::fabs(ticks.back()));
  const int decimals = DecimalsOf(ticks, unit == Unit::kPercent ? 100 : 1);
  for (const double tick : ticks) {
    if (unit == Unit::kPercent) {
      texts.push_back(PercentText(tick, decimals));
    } else {
      texts.push_back(largest < 1e7 && decimals < 6 ? FixedText(tick, decimals) : NumberText(tick, 2));
    }
  }
  return texts;
}

std::vector<double> SpreadLabels(const std::vector<double>& wanted, double gap, double low, double high) {
  const size_t count = wanted.size();
  if (count > 1) gap = std::min(gap, (high - low) / static_cast<double>(count - 1));
  std::vector<size_t> order(count);
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return wanted[a] < wanted[b]; });
  // Runs of touching labels, each centred on the mean of what its members want; runs that meet are joined.
  struct Run {
    size_t begin, size;
    double sum;  // of wanted position minus offset inside the run
  };
  const auto start = [&](const Run& run) {
    const double length = gap * static_cast<double>(run.size - 1);
    return std::clamp(run.sum / static_cast<double>(run.size), low, std::max(low, high - length));
  };
  std::vector<Run> runs;
  for (size_t rank = 0; rank < count; ++rank) {
    runs.push_back({rank, 1, wanted[order[rank]]});
    while (runs.size() > 1) {
      Run& previous = runs[runs.size() - 2];
      const Run& last = runs.back();
      if (start(previous) + gap * static_cast<double>(previous.size) <= start(last) + 1e-9) break;
      previous.sum += last.sum - gap * static_cast<double>(previous.size * last.size);
      previous.size += last.size;
      runs.pop_back();
    }
  }
  std::vector<double> placed(count);
  for (const Run& run : runs) {
    for (size_t i = 0; i < run.size; ++i) placed[order[run.begin + i]] = start(run) + gap * static_cast<double>(i);
  }
  return placed;
}

namespace {

Box LabelBox(double x, double y, double width, double size) {
  return {x - 1, y - size * 0.78, x + width + 1, y + size * 0.22};
}

// How many boxes a straight leader from a to b runs through; the ends do not count.
int Crossings(Point a, Point b, const std::vector<Box>& boxes) {
  int crossed = 0;
  for (const Box& box : boxes) {
    bool inside = false;
    for (double t = 0.15; t < 0.9 && !inside; t += 0.05) {
      const double x = a.x + t * (b.x - a.x), y = a.y + t * (b.y - a.y);
      inside = x > box.left && x < box.right && y > box.top && y < box.bottom;
    }
    crossed += inside;
  }
  return crossed;
}

}  // namespace

std::vector<PlacedLabel> PlaceLabels(const std::vector<Point>& points, const std::vector<std::string>& labels,
                                     double size, const Box& frame, std::vector<Box> obstacles,
                                     const std::vector<Box>& lines) {
  KVSCOPE_CHECK_EQ(points.size(), labels.size());
  constexpr double kMarker = 5;
  for (const Point& p : points) obstacles.push_back({p.x - kMarker, p.y - kMarker, p.x + kMarker, p.y + kMarker});
  std::vector<PlacedLabel> placed;
  std::vector<Box> label_boxes;
  for (size_t i = 0; i < points.size(); ++i) {
    const double width = TextWidth(labels[i], size);
    PlacedLabel best;
    double best_cost = 1e30;
    for (double radius = 8; radius <= 104; radius += 8) {
      for (int direction = 0; direction < 16; ++direction) {
        const double angle = direction * std::acos(-1.0) / 8;
        const double dx = std::cos(angle), dy = std::sin(angle);
        const double x = points[i].x + dx * radius - (dx < -0.1 ? width : dx > 0.1 ? 0 : width / 2);
        const double y = points[i].y + dy * radius + size * 0.28;
        const Box box = LabelBox(x, y, width, size);
        double cost = radius + (dx > 0.9 ? 0 : dx < -0.9 ? 2 : 4);
        const bool cut =
            box.left < frame.left || box.right > frame.right || box.top < frame.top || box.bottom > frame.bottom;
        if (cut) cost += 1e6;
        for (const Box& obstacle : obstacles) cost += box.Overlaps(obstacle) ? 1e3 : 0;
        double over_lines = 0;
        for (const Box& line : lines) over_lines += box.Overlaps(line) ? 8 : 0;
        cost += std::min(over_lines, 90.0);
        if (radius > 12) {
          const Point end{std::clamp(points[i].x, box.left, box.right), (box.top + box.bottom) / 2};
          cost += 120 * Crossings(points[i], end, label_boxes);
        }
        if (cost < best_cost) {
          best_cost = cost;
          best = {x, y, radius > 12, cost < 1e3};
        }
      }
    }
    label_boxes.push_back(LabelBox(best.x, best.y, width, size));
    obstacles.push_back(label_boxes.back());
    if (best.needs_leader) {  // later labels stay off this leader
      const Box& box = label_boxes.back();
      const Point end{std::clamp(points[i].x, box.left, box.right), (box.top + box.bottom) / 2};
      for (double t = 0.2; t < 0.95; t += 0.1) {
        const double x = points[i].x + t * (end.x - points[i].x), y = points[i].y + t * (end.y - points[i].y);
        obstacles.push_back({x - 1, y - 1, x + 1, y + 1});
      }
    }
    placed.push_back(best);
  }
  return placed;
}

}  // namespace kvscope
