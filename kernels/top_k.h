// SPDX-License-Identifier: Apache-2.0
// Selection by a total order: higher value first, and of equal values the lower index. Everywhere, CPU and GPU.
#pragma once

#include <span>
#include <vector>

namespace kvscope::cpu {

// Indices of the k best values, ascending. k is clamped to [0, values.size()]; NaN is a bug of the caller.
std::vector<int> TopK(std::span<const float> values, int k);

}  // namespace kvscope::cpu
