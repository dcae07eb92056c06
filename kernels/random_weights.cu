// SPDX-License-Identifier: Apache-2.0
// A thread per value.
#include "core/error.h"
#include "kernels/ceil_divide.h"
#include "kernels/dense.cuh"
#include "kernels/launch.cuh"
#include "kernels/random_weights.h"

namespace kvscope::KVSCOPE_TWIN {
namespace {

constexpr int kThreads = 256;

template <DenseType kType>
__global__ void __launch_bounds__(kThreads) FillRandomKernel(uint16_t* data, int64_t count, uint64_t seed, float unit) {
  const int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (i < count) data[i] = DenseFromFloat<kType>(RandomStep(seed, i) * unit);
}

}  // namespace

void FillRandom(void* data, int64_t count, DenseType type, uint64_t seed, float deviation, const Workspace& workspace) {
  if (count == 0) return;
  const int64_t blocks = CeilDivide(count, kThreads);
  KVSCOPE_CHECK_LE(blocks, INT32_MAX);
  const auto kernel = type == DenseType::kF16 ? FillRandomKernel<DenseType::kF16> : FillRandomKernel<DenseType::kBF16>;
  Launch("FillRandomKernel", kernel, dim3(static_cast<unsigned>(blocks)), kThreads, 0, workspace.stream,
         static_cast<uint16_t*>(data), count, seed, RandomUnit(deviation));
}

}  // namespace kvscope::KVSCOPE_TWIN
