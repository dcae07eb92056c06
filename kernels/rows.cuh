// SPDX-License-Identifier: Apache-2.0
// Element-wise kernels over [rows, columns]: a thread per column, and per row a y of the grid, which goes on with the
// rows y + gridDim.y, y + 2 gridDim.y ...
#pragma once

#include <algorithm>

#include "core/error.h"
#include "kernels/ceil_divide.h"
#include "kernels/launch.cuh"

namespace kvscope::KVSCOPE_TWIN {

inline dim3 RowGrid(int64_t rows, int64_t columns, int threads) {
  constexpr int64_t kMaxGridRows = 512;
  const int64_t blocks = CeilDivide(columns, threads);
  KVSCOPE_CHECK_LE(blocks, INT32_MAX);
  return dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(std::min(rows, kMaxGridRows)));
}

}  // namespace kvscope::KVSCOPE_TWIN
