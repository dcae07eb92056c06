// SPDX-License-Identifier: Apache-2.0
// A thread per element.
#include "core/error.h"
#include "kernels/cap_logits.h"
#include "kernels/launch.cuh"
#include "kernels/rows.cuh"

namespace kvscope::KVSCOPE_TWIN {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads)
    CapLogitsKernel(float cap, float* x, int64_t rows, int64_t width, int64_t stride) {
  const int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (i >= width) return;
  for (int64_t row = blockIdx.y; row < rows; row += gridDim.y)
    x[row * stride + i] = cap * tanhf(x[row * stride + i] / cap);
}

}  // namespace

void CapLogits(float cap, const TensorView& x, const Workspace& workspace) {
  KVSCOPE_CHECK(x.device == kTwinDevice && x.dtype == DType::kF32 && cap > 0);
  if (x.shape[0] == 0 || x.shape[1] == 0) return;
  Launch("CapLogitsKernel", CapLogitsKernel, RowGrid(x.shape[0], x.shape[1], kThreads), kThreads, 0, workspace.stream,
         cap, x.floats(), x.shape[0], x.shape[1], x.strides[0]);
}

}  // namespace kvscope::KVSCOPE_TWIN
