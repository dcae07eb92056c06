// SPDX-License-Identifier: Apache-2.0
// Random rows as a cache gets them, and comparison to the bit.
#pragma once

#include <cstring>
#include <random>
#include <vector>

#include "core/half.h"

namespace kvscope {

inline std::vector<float> RandomHalves(size_t count, std::mt19937& random) {
  std::normal_distribution<float> normal(0, 3);
  std::vector<float> values(count);
  for (float& value : values) value = FloatFromHalf(HalfFromFloat(normal(random)));
  return values;
}

inline bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

}  // namespace kvscope
