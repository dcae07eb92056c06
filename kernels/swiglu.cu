// SPDX-License-Identifier: Apache-2.0
// A thread per element. expf, not __expf: the CPU's result within its rounding.
#include "core/error.h"
#include "kernels/launch.cuh"
#include "kernels/swiglu.h"

namespace kvscope::KVSCOPE_TWIN {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads)
    SwiGluKernel(const float* gate, const float* up, float* out, int64_t count) {
  const int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (i < count) out[i] = gate[i] / (1 + expf(-gate[i])) * up[i];
}

}  // namespace

void SwiGlu(const TensorView& gate, const TensorView& up, const TensorView& out, const Workspace& workspace) {
  KVSCOPE_CHECK(gate.device == kTwinDevice && up.device == kTwinDevice && out.device == kTwinDevice);
  const int64_t count = gate.shape[0];
  KVSCOPE_CHECK_EQ(up.shape[0], count);
  KVSCOPE_CHECK_EQ(out.shape[0], count);
  if (count == 0) return;
  const int64_t blocks = (count + kThreads - 1) / kThreads;
  KVSCOPE_CHECK_LE(blocks, INT32_MAX);
  Launch("SwiGluKernel", SwiGluKernel, dim3(static_cast<unsigned>(blocks)), kThreads, 0, workspace.stream,
         gate.floats(), up.floats(), out.floats(), count);
}

}  // namespace kvscope::KVSCOPE_TWIN
