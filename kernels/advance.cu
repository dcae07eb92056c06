// SPDX-License-Identifier: Apache-2.0
#include "kernels/advance.h"
#include "kernels/ceil_divide.h"
#include "kernels/launch.cuh"

namespace kvscope::KVSCOPE_TWIN {
namespace {

constexpr int kThreads = 64;  // there are a few counters

__global__ void __launch_bounds__(kThreads) AdvanceKernel(int* values, int count, int step) {
  const int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (i < count) values[i] += step;
}

}  // namespace

void Advance(int* values, int count, int step, const Workspace& workspace) {
  if (count == 0) return;
  Launch("AdvanceKernel", AdvanceKernel, dim3(CeilDivide(count, kThreads)), kThreads, 0, workspace.stream, values,
         count, step);
}

}  // namespace kvscope::KVSCOPE_TWIN
