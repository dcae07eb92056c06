// SPDX-License-Identifier: Apache-2.0
#include "replay/chart_color.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

namespace kvscope {
namespace {

double Encode(double linear) {
  return linear <= 0.0031308 ? 12.92 * linear : 1.055 * std::pow(linear, 1 / 2.4) - 0.055;
}
double Decode(double encoded) {
  return encoded <= 0.04045 ? encoded / 12.92 : std::pow((encoded + 0.055) / 1.055, 2.4);
}

// OKLab polar coordinates to sRGB; false when the colour is outside.
bool RgbFromOklch(double lightness, double chroma, double hue_degrees, std::array<double, 3>& rgb) {
  const double hue = hue_degrees * std::acos(-1.0) / 180, a = chroma * std::cos(hue), b = chroma * std::sin(hue);
  const double l = std::pow(lightness + 0.3963377774 * a + 0.2158037573 * b, 3);
  const double m = std::pow(lightness - 0.1055613458 * a - 0.0638541728 * b, 3);
  const double s = std::pow(lightness - 0.0894841775 * a - 1.2914855480 * b, 3);
  rgb = {4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
         -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
         -0.0041960863 * l - 0.7034186147 * m + 1.7076147010 * s};
  bool inside = true;
  for (double& channel : rgb) {
    inside = inside && channel >= -1e-4 && channel <= 1 + 1e-4;
    channel = Encode(std::clamp(channel, 0.0, 1.0));
  }
  return inside;
}

// Gives up chroma, never lightness, where sRGB ends.
uint32_t Pack(double lightness, double chroma, double hue_degrees) {
  std::array<double, 3> rgb;
  while (!RgbFromOklch(lightness, chroma, hue_degrees, rgb) && chroma > 0) chroma -= 0.002;
  uint32_t packed = 0;
  for (const double channel : rgb) packed = packed << 8 | static_cast<uint32_t>(std::lround(channel * 255));
  return packed;
}

// "snapkv+ada@int4:window=32" -> "snapkv"; "int8" -> "int"; "full@int8" -> "full@".
std::string FamilyOf(const std::string& policy) {
  const size_t end = std::min(policy.find_first_of("+/@&:"), policy.size());
  std::string family = policy.substr(0, end);
  if (family == "full" && end < policy.size()) return "full@";
  while (!family.empty() && family.back() >= '0' && family.back() <= '9' && family != "h2o") family.pop_back();
  return family;
}

}  // namespace

uint32_t SequentialRgb(double t) {
  t = std::isnan(t) ? 0 : std::clamp(t, 0.0, 1.0);
  return Pack(0.97 - 0.68 * t, 0.022 + 0.078 * std::sin(std::acos(-1.0) * std::pow(t, 0.9)),
              100 + 160 * std::pow(t, 0.75));
}

uint32_t DivergingRgb(double t) {
  t = std::isnan(t) ? 0 : std::clamp(t, -1.0, 1.0);
  const double amount = std::fabs(t);
  return Pack(0.965 - 0.50 * amount, 0.15 * amount, t < 0 ? 255 : 50);
}

std::string ColorText(uint32_t rgb) {
  char text[16];
  std::snprintf(text, sizeof text, "#%06x", rgb & 0xffffff);
  return text;
}

double Lightness(uint32_t rgb) {
  const double r = Decode((rgb >> 16 & 255) / 255.0), g = Decode((rgb >> 8 & 255) / 255.0),
               b = Decode((rgb & 255) / 255.0);
  const double l = std::cbrt(0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b);
  const double m = std::cbrt(0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b);
  const double s = std::cbrt(0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b);
  return 0.2104542553 * l + 0.7936177850 * m - 0.0040720468 * s;
}

std::string InkOver(uint32_t rgb) {
  return Lightness(rgb) < 0.62 ? "#ffffff" : std::string(kInk);
}

std::map<std::string, PolicyLook> LooksOf(const std::vector<PolicyName>& names) {
  constexpr std::array kGreys = {"#222222", "#8a8a8a", "#6e6e6e", "#555555"};
  constexpr std::array kDashes = {"", "6 3", "2 2.5", "8 3 2 3", "10 4", "1 3"};
  // The diamond is the full cache's, the star the oracle's.
  constexpr std::array kMarkers = {Marker::kCircle, Marker::kSquare, Marker::kTriangle, Marker::kTriangleDown,
                                   Marker::kBowtie, Marker::kPlus,   Marker::kCross};
  std::map<std::string, int> hue_of_family, members_of_family;
  int greys = 0;
  std::map<std::string, PolicyLook> looks;
  for (const PolicyName& name : names) {
    PolicyLook look;
    const bool is_oracle = name.kind == "oracle" || name.policy.find("oracle") != std::string::npos;
    const std::string family = FamilyOf(name.policy);
    if (is_oracle || name.kind == "baseline" || family == "full" || family == "random") {
      look.reference = true;
      if (is_oracle)
        look = {kGreys[0], "5 3", Marker::kStar, true, true};
      else if (family == "full")
        look = {kGreys[0], "", Marker::kDiamond, true, true};
      else if (family == "random")
        look = {kGreys[1], "2 2.5", Marker::kCross, true, true};
      else
        look = {kGreys[2 + greys++ % 2], "8 3 2 3", greys % 2 ? Marker::kPlus : Marker::kSquare, false, true};
    } else {
      const int hue = hue_of_family.emplace(family, static_cast<int>(hue_of_family.size())).first->second;
      const int member = members_of_family[family]++;
      look.color = kPolicyHues[static_cast<size_t>(hue) % kPolicyHues.size()];
      look.marker = kMarkers[static_cast<size_t>(hue + hue / 7 + member) % kMarkers.size()];
      look.filled = member % 2 == 0;
      look.dash = kDashes[static_cast<size_t>(member) % kDashes.size()];
    }
    looks[name.label] = look;
  }
  return looks;
}

}  // namespace kvscope
