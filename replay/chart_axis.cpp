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

std::string Fixed(double value, int decimals) {
  char buffer[64];
  std::snprintf(buffer, sizeof buffer, "%.*f", decimals, value);
  std::string text = buffer;
  if (text.find_first_not_of("-0.") == std::string::npos && text[0] == '-') text.erase(0, 1);
  const size_t point = std::min(text.find('.'), text.size()), begin = text[0] == '-' ? 1 : 0;
  for (size_t at = point; at > begin + 3; at -= 3) text.insert(at - 3, 1, ',');
  return text[0] == '-' ? StrCat("\u2212", text.substr(1)) : text;
}

// 1, 2 or 5 times a power of ten, not below `step`.
double RoundStep(double step) {
  const double power = std::pow(10, std::floor(std::log10(step)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (step <= factor * power * (1 + 1e-9)) return factor * power;
  }
  return 10 * power;
}

int DecimalsOf(double step) {
  return std::clamp(static_cast<int>(std::ceil(-std::log10(step) - 1e-9)), 0, 12);
}

}  // namespace

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
  if (value == 0) return "0";
  const double magnitude = std::fabs(value);
  if (magnitude >= 1e9 || magnitude < 1e-4) {
    char buffer[64];
    std::snprintf(buffer, sizeof buffer, "%.*e", std::max(0, digits - 2), value);
    std::string text = buffer;
    const size_t e = text.find('e');
    return StrCat(text.substr(0, e), "e", std::stoi(text.substr(e + 1)));
  }
  const int leading = static_cast<int>(std::floor(std::log10(magnitude) + 1e-12)) + 1;
  return Fixed(value, std::clamp(digits - leading, 0, 8));
}

std::string PercentText(double fraction, int decimals) {
  return Fixed(fraction * 100, decimals) + " %";
}

std::string BytesText(double bytes) {
  constexpr std::array kUnits = {"B", "kB", "MB", "GB", "TB"};
  size_t unit = 0;
  for (; std::fabs(bytes) >= 999.5 && unit + 1 < kUnits.size(); ++unit) bytes /= 1000;
  return (unit == 0 ? Fixed(bytes, 0) : NumberText(bytes)) + " " + kUnits[unit];
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
  const double step = RoundStep((high - low) / 5);
  const double round_low = std::floor(low / step + 1e-9) * step, round_high = std::ceil(high / step - 1e-9) * step;
  return {round_low, round_high, 0, 1, false, unit};
}

std::vector<std::string> TickTexts(const std::vector<double>& ticks, Unit unit) {
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
  double step = ticks.size() > 1 ? ticks[1] - ticks[0] : ticks.empty() ? 1 : std::max(1e-12, std::fabs(ticks[0]));
  for (size_t i = 1; i < ticks.size(); ++i) step = std::min(step, ticks[i] - ticks[i - 1]);
  const bool even = ticks.size() < 3 || std::fabs((ticks[2] - ticks[1]) - (ticks[1] - ticks[0])) < 1e-9 * step;
  for (const double tick : ticks) {
    if (unit == Unit::kPercent)
      texts.push_back(PercentText(tick, DecimalsOf(step * 100)));
    else
      texts.push_back(even && std::fabs(tick) < 1e7 && step > 1e-5 ? Fixed(tick, DecimalsOf(step))
                                                                   : NumberText(tick, 1));
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

std::vector<PlacedLabel> PlaceLabels(const std::vector<Point>& points, const std::vector<std::string>& labels,
                                     double size, const Box& frame, std::vector<Box> obstacles) {
  KVSCOPE_CHECK_EQ(points.size(), labels.size());
  constexpr double kMarker = 5;
  for (const Point& p : points) obstacles.push_back({p.x - kMarker, p.y - kMarker, p.x + kMarker, p.y + kMarker});
  std::vector<PlacedLabel> placed;
  for (size_t i = 0; i < points.size(); ++i) {
    const double width = TextWidth(labels[i], size);
    PlacedLabel best;
    double best_cost = 1e30;
    for (double radius = 8; radius <= 72; radius += 8) {
      for (int direction = 0; direction < 16; ++direction) {
        const double angle = direction * std::acos(-1.0) / 8;
        const double dx = std::cos(angle), dy = std::sin(angle);
        const double x = points[i].x + dx * radius - (dx < -0.1 ? width : dx > 0.1 ? 0 : width / 2);
        const double y = points[i].y + dy * radius + size * 0.28;
        const Box box{x - 1, y - size * 0.78, x + width + 1, y + size * 0.22};
        double cost = radius + (dx > 0.9 ? 0 : dx < -0.9 ? 2 : 4);
        if (box.left < frame.left || box.right > frame.right || box.top < frame.top || box.bottom > frame.bottom)
          cost += 1e6;
        for (const Box& obstacle : obstacles) cost += box.Overlaps(obstacle) ? 1e3 : 0;
        if (cost < best_cost) {
          best_cost = cost;
          best = {x, y, radius > 12};
        }
      }
    }
    obstacles.push_back({best.x - 1, best.y - size * 0.78, best.x + width + 1, best.y + size * 0.22});
    placed.push_back(best);
  }
  return placed;
}

}  // namespace kvscope
