// SPDX-License-Identifier: Apache-2.0
// A thread per column.
#include "core/error.h"
#include "kernels/column_totals.h"
#include "kernels/launch.cuh"
#include "kernels/rows.cuh"

namespace kvscope::KVSCOPE_TWIN {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) AddColumnsKernel(ColumnTotals c) {
  const int64_t token = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (token >= c.num_tokens) return;
  for (int64_t row = blockIdx.y; row < c.rows; row += gridDim.y) {
    const int64_t from = row * c.num_tokens + token, to = row * c.stride + token;
    c.total[to] += c.sums[from];
    if (c.maxima[from] > c.highest[to]) c.highest[to] = c.maxima[from];
  }
}

}  // namespace

void AddColumns(const ColumnTotals& columns, const Workspace& workspace) {
  KVSCOPE_CHECK_LE(columns.num_tokens, columns.stride);
  if (columns.rows == 0 || columns.num_tokens == 0) return;
  Launch("AddColumnsKernel", AddColumnsKernel, RowGrid(columns.rows, columns.num_tokens, kThreads), kThreads, 0,
         workspace.stream, columns);
}

}  // namespace kvscope::KVSCOPE_TWIN
