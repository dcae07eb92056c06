// SPDX-License-Identifier: Apache-2.0
// Smoothing along tokens, as torch pools: stride 1, padding pool / 2.
#pragma once

#include <algorithm>
#include <span>
#include <string>
#include <vector>

#include "core/error.h"

namespace kvscope {

// An average divides by `pool` at the borders too, a maximum ignores what lies outside. pool: odd.
inline std::vector<float> Pool(std::span<const float> values, int pool, bool by_max) {
  const int size = static_cast<int>(values.size());
  std::vector<float> pooled(size);
  for (int i = 0; i < size; ++i) {
    const int begin = std::max(0, i - pool / 2), end = std::min(size, i + pool / 2 + 1);
    float result = values[begin];
    for (int j = begin + 1; j < end; ++j) result = by_max ? std::max(result, values[j]) : result + values[j];
    pooled[i] = by_max ? result : result / static_cast<float>(pool);
  }
  return pooled;
}

// where: starts the message.
inline void CheckPool(int pool, const std::string& where) {
  if (pool % 2 == 0) throw Error(StrCat(where, ": pool: expected an odd number, found ", pool));
}

}  // namespace kvscope
