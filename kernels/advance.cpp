// SPDX-License-Identifier: Apache-2.0
#include "kernels/advance.h"

#include "core/error.h"

namespace kvscope {

void cpu::Advance(int* values, int count, int step) {
  for (int i = 0; i < count; ++i) values[i] += step;
}

#ifndef KVSCOPE_HAVE_CUDA
void cuda::Advance(int*, int, int, const Workspace&) {
  throw Error("advance on cuda: this build has no CUDA; rebuild with nvcc on PATH and -DKVSCOPE_CUDA=ON");
}
#endif

}  // namespace kvscope
