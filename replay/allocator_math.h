// SPDX-License-Identifier: Apache-2.0
// What allocators share: how much of a head is not up for competition, and largest-remainder rounding.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

#include "replay/policy.h"

namespace kvscope {

// Entries of a head that its scorer or a guard protects: they are kept first, and only the rest of a budget is shared.
inline int CountProtected(std::span<const float> priority) {
  return static_cast<int>(
      std::count_if(priority.begin(), priority.end(), [](float value) { return value >= kProtectedPriority; }));
}

// Rounds shares (>= 0, their sum about `total`) to integers in [low[i], high[i]] that sum to `total`, or come as near
// as the bounds allow. Equal remainders: the lower index.
inline std::vector<int> Apportion(std::span<const double> shares, int64_t total, std::span<const int> low,
                                  std::span<const int> high) {
  const size_t size = shares.size();
  std::vector<int> result(size), order(size);
  std::vector<double> remainder(size);
  for (size_t i = 0; i < size; ++i) {
    const double whole = std::floor(shares[i] + 1e-9);
    result[i] = static_cast<int>(std::clamp<double>(whole, low[i], high[i]));
    remainder[i] = shares[i] - result[i];
    total -= result[i];
  }
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return remainder[a] > remainder[b] + 1e-9; });
  while (total != 0) {
    const int64_t before = total;
    for (size_t i = 0; i < size && total != 0; ++i) {
      const int index = total > 0 ? order[i] : order[size - 1 - i];
      const int changed = result[index] + (total > 0 ? 1 : -1);
      if (changed < low[index] || changed > high[index]) continue;
      total += result[index] - changed;
      result[index] = changed;
    }
    if (total == before) break;
  }
  return result;
}

}  // namespace kvscope
