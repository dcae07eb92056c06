// SPDX-License-Identifier: Apache-2.0
#include "kernels/column_totals.h"

#include "core/error.h"

namespace kvscope {

void cpu::AddColumns(const ColumnTotals& columns) {
  KVSCOPE_CHECK_LE(columns.num_tokens, columns.stride);
  for (int64_t row = 0; row < columns.rows; ++row) {
    for (int token = 0; token < columns.num_tokens; ++token) {
      const int64_t from = row * columns.num_tokens + token, to = row * columns.stride + token;
      columns.total[to] += columns.sums[from];
      if (columns.maxima[from] > columns.highest[to]) columns.highest[to] = columns.maxima[from];
    }
  }
}

#ifndef KVSCOPE_HAVE_CUDA
void cuda::AddColumns(const ColumnTotals&, const Workspace&) {
  throw Error("column_totals on cuda: this build has no CUDA; rebuild with nvcc on PATH and -DKVSCOPE_CUDA=ON");
}
#endif

}  // namespace kvscope
