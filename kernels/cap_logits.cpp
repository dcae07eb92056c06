// SPDX-License-Identifier: Apache-2.0
#include "kernels/cap_logits.h"

#include <cmath>

#include "core/error.h"

namespace kvscope {

void cpu::CapLogits(float cap, const TensorView& x) {
  KVSCOPE_CHECK(cap > 0);
  for (int64_t row = 0; row < x.shape[0]; ++row) {
    float* values = x.floats() + row * x.strides[0];
    for (int64_t i = 0; i < x.shape[1]; ++i) values[i] = cap * std::tanh(values[i] / cap);
  }
}

#ifndef KVSCOPE_HAVE_CUDA
void cuda::CapLogits(float, const TensorView&, const Workspace&) {
  throw Error("cap_logits on cuda: this build has no CUDA; rebuild with nvcc on PATH and -DKVSCOPE_CUDA=ON");
}
#endif

}  // namespace kvscope
