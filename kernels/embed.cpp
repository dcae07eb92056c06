// SPDX-License-Identifier: Apache-2.0
#include "kernels/embed.h"

#include "core/error.h"

namespace kvscope {

void cpu::Embed(const int* ids, const DenseMatrix& table, float scale, const TensorView& out) {
  KVSCOPE_CHECK_EQ(out.shape[1], table.inputs);
  for (int64_t token = 0; token < out.shape[0]; ++token) {
    KVSCOPE_CHECK(ids[token] >= 0 && ids[token] < table.outputs);
    const uint16_t* row = static_cast<const uint16_t*>(table.data) + int64_t{ids[token]} * table.inputs;
    for (int i = 0; i < table.inputs; ++i)
      out.floats()[token * out.strides[0] + i] = scale * DenseValue(row[i], table.type);
  }
}

#ifndef KVSCOPE_HAVE_CUDA
void cuda::Embed(const int*, const DenseMatrix&, float, const TensorView&, const Workspace&) {
  throw Error("embed on cuda: this build has no CUDA; rebuild with nvcc on PATH and -DKVSCOPE_CUDA=ON");
}
#endif

}  // namespace kvscope
