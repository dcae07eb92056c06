// SPDX-License-Identifier: Apache-2.0
// A thread per element.
#include "core/error.h"
#include "kernels/add_rows.h"
#include "kernels/launch.cuh"
#include "kernels/rows.cuh"

namespace kvscope::KVSCOPE_TWIN {
namespace {

constexpr int kThreads = 256;

struct Rows {
  const float* x;
  float* out;
  int64_t rows, width, x_stride, out_stride;
};

__global__ void __launch_bounds__(kThreads) AddRowsKernel(Rows r) {
  const int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (i >= r.width) return;
  for (int64_t row = blockIdx.y; row < r.rows; row += gridDim.y)
    r.out[row * r.out_stride + i] += r.x[row * r.x_stride + i];
}

}  // namespace

void AddRows(const TensorView& x, const TensorView& out, const Workspace& workspace) {
  KVSCOPE_CHECK(x.device == kTwinDevice && out.device == kTwinDevice);
  KVSCOPE_CHECK(x.dtype == DType::kF32 && out.dtype == DType::kF32);
  KVSCOPE_CHECK_EQ(x.shape[x.rank - 1], out.shape[1]);
  if (x.rank == 2) KVSCOPE_CHECK_EQ(x.shape[0], out.shape[0]);
  const Rows rows{x.floats(), out.floats(), out.shape[0], out.shape[1], x.rank == 2 ? x.strides[0] : 0, out.strides[0]};
  if (rows.rows == 0 || rows.width == 0) return;
  Launch("AddRowsKernel", AddRowsKernel, RowGrid(rows.rows, rows.width, kThreads), kThreads, 0, workspace.stream, rows);
}

}  // namespace kvscope::KVSCOPE_TWIN
