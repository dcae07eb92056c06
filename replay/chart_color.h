// SPDX-License-Identifier: Apache-2.0
// Colours that survive colour blindness and a black-and-white printer. Amounts are inks: more is darker, evenly so in
// OKLab lightness (B. Ottosson, 2020). Policies have the hues of M. Okabe and K. Ito (2008), and each its own marker
// and dash pattern as well; baselines and oracles are grey, so that the eye compares the rest with them.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "replay/svg.h"

namespace kvscope {

// t in [0, 1], clamped: pale to dark.
uint32_t SequentialRgb(double t);
// t in [-1, 1], clamped: blue, pale, orange.
uint32_t DivergingRgb(double t);
std::string ColorText(uint32_t rgb);  // "#rrggbb"
double Lightness(uint32_t rgb);       // OKLab L in [0, 1]
std::string InkOver(uint32_t rgb);    // readable text colour on that background

struct PolicyLook {
  std::string color, dash;
  Marker marker = Marker::kCircle;
  bool filled = true;
  bool reference = false;  // full, random, oracle: drawn behind, in grey
};

// What LooksOf gives in turn, one a family, to those that are not references.
inline constexpr std::array<std::string_view, 7> kPolicyHues{"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                                             "#e69f00", "#56b4e9", "#7a4f9a"};

struct PolicyName {
  std::string label;   // unique, as shown
  std::string policy;  // spec
  std::string kind;    // class column
};
// One look per label. Policies of one family (snapkv, snapkv+ada, snapkv@int4) share a hue.
std::map<std::string, PolicyLook> LooksOf(const std::vector<PolicyName>& names);

}  // namespace kvscope
