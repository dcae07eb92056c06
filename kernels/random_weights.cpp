// SPDX-License-Identifier: Apache-2.0
#include "kernels/random_weights.h"

#include "core/error.h"

namespace kvscope {

void cpu::FillRandom(void* data, int64_t count, DenseType type, uint64_t seed, float deviation) {
  const float unit = RandomUnit(deviation);
  for (int64_t i = 0; i < count; ++i) {
    static_cast<uint16_t*>(data)[i] = DenseBits(RandomStep(seed, i) * unit, type);
  }
}

#ifndef KVSCOPE_HAVE_CUDA
void cuda::FillRandom(void*, int64_t, DenseType, uint64_t, float, const Workspace&) {
  throw Error("random_weights on cuda: this build has no CUDA; rebuild with nvcc on PATH and -DKVSCOPE_CUDA=ON");
}
#endif

}  // namespace kvscope
