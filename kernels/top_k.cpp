// SPDX-License-Identifier: Apache-2.0
// Value and index are packed into one 64-bit key whose ascending order is the wanted one. The k-th smallest key is
// found in linear time; one more sweep lists what is not above it, ascending by itself.
#include "kernels/top_k.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

#include "core/error.h"

namespace kvscope::cpu {
namespace {

// Ascending keys are descending values; +0 and -0 are equal.
uint32_t DescendingKey(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value + 0.0f);
  const uint32_t ascending = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return ~ascending;
}

// Caches that evict after every query drop one entry of thousands: cheaper found by what goes than by what stays.
constexpr int kFewDropped = 4;

std::vector<int> AllButTheWorst(std::span<const float> values, int dropped) {
  const int size = static_cast<int>(values.size());
  std::vector<int> kept(size);
  for (int i = 0; i < size; ++i) kept[i] = i;
  for (; dropped > 0; --dropped) {
    size_t worst = kept.size() - 1;
    for (size_t i = kept.size() - 1; i-- > 0;) {
      if (values[kept[i]] < values[kept[worst]]) worst = i;
    }
    kept.erase(kept.begin() + static_cast<std::ptrdiff_t>(worst));
  }
  return kept;
}

}  // namespace

std::vector<int> TopK(std::span<const float> values, int k) {
  const int size = static_cast<int>(values.size());
  k = std::clamp(k, 0, size);
  std::vector<int> best;
  best.reserve(k);
  if (k == 0) return best;
  bool has_nan = false;
  if (size - k <= kFewDropped) {
    for (const float value : values) has_nan |= std::isnan(value);
    KVSCOPE_CHECK(!has_nan);
    return AllButTheWorst(values, size - k);
  }
  std::vector<uint64_t> keys(size);
  for (int i = 0; i < size; ++i) {
    has_nan |= std::isnan(values[i]);
    keys[i] = static_cast<uint64_t>(DescendingKey(values[i])) << 32 | static_cast<uint32_t>(i);
  }
  KVSCOPE_CHECK(!has_nan);
  std::vector<uint64_t> order = keys;
  std::nth_element(order.begin(), order.begin() + (k - 1), order.end());
  const uint64_t last = order[k - 1];
  for (int i = 0; i < size; ++i) {
    if (keys[i] <= last) best.push_back(i);
  }
  return best;
}

}  // namespace kvscope::cpu
