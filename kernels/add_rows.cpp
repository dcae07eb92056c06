// SPDX-License-Identifier: Apache-2.0
#include "kernels/add_rows.h"

#include "core/error.h"

namespace kvscope {

void cpu::AddRows(const TensorView& x, const TensorView& out) {
  KVSCOPE_CHECK_EQ(x.shape[x.rank - 1], out.shape[1]);
  const int64_t x_stride = x.rank == 2 ? x.strides[0] : 0;
  for (int64_t row = 0; row < out.shape[0]; ++row) {
    const float* from = x.floats() + row * x_stride;
    float* to = out.floats() + row * out.strides[0];
    for (int64_t i = 0; i < out.shape[1]; ++i) to[i] += from[i];
  }
}

#ifndef KVSCOPE_HAVE_CUDA
void cuda::AddRows(const TensorView&, const TensorView&, const Workspace&) {
  throw Error("add_rows on cuda: this build has no CUDA; rebuild with nvcc on PATH and -DKVSCOPE_CUDA=ON");
}
#endif

}  // namespace kvscope
