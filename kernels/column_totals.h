// SPDX-License-Identifier: Apache-2.0
// Running column statistics of a capture that records relevance only: what each call of ColumnStats found is added up.
#pragma once

#include <cstdint>

#include "kernels/tensor.h"

namespace kvscope {

// Everything lies on one device; nothing overlaps.
struct ColumnTotals {
  const float* sums = nullptr;    // [rows, num_tokens]: what a call of ColumnStats found
  const float* maxima = nullptr;  // [rows, num_tokens]
  int rows = 0, num_tokens = 0;
  double* total = nullptr;   // [rows, stride], added to
  float* highest = nullptr;  // [rows, stride], raised to; a NaN raises nothing
  int64_t stride = 0;        // >= num_tokens
};

namespace cpu {
void AddColumns(const ColumnTotals& columns);
}
namespace cuda {
void AddColumns(const ColumnTotals& columns, const Workspace& workspace);
}

}  // namespace kvscope
