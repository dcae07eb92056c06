// SPDX-License-Identifier: Apache-2.0
// One row out of several query heads' rows: the mean, maximum or sum over the heads of a group or of a layer. Heads
// are taken in ascending order, so that results do not depend on who calls.
#pragma once

#include <algorithm>
#include <span>

#include "core/error.h"

namespace kvscope {

enum class Reduction { kMean, kMax, kSum };

// result[i] = reduction of row_from_head(head)[i] over head_begin <= head < head_end.
template <typename RowFromHead>
void ReduceHeads(Reduction reduction, int head_begin, int head_end, const RowFromHead& row_from_head,
                 std::span<float> result) {
  for (int head = head_begin; head < head_end; ++head) {
    const std::span<const float> row = row_from_head(head);
    KVSCOPE_CHECK_LE(result.size(), row.size());
    for (size_t i = 0; i < result.size(); ++i) {
      if (head == head_begin) {
        result[i] = row[i];
      } else {
        result[i] = reduction == Reduction::kMax ? std::max(result[i], row[i]) : result[i] + row[i];
      }
    }
  }
  if (reduction == Reduction::kMean) {
    const float num_heads = static_cast<float>(head_end - head_begin);
    for (float& value : result) value /= num_heads;
  }
}

}  // namespace kvscope
