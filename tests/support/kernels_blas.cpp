// SPDX-License-Identifier: Apache-2.0
// In place of cuBLAS, see kernels/blas.h.
#include "tests/support/kernels_fibres.h"
// The fibres come first.
#include "kernels/blas.h"

void kvscope::cuda_emulated::BlasGemm(const void* x, int rows, const DenseMatrix& weights, float* out,
                                      int64_t out_stride, bool accumulate, void*) {
  const DenseType type = weights.type;
  const auto* const rounded = static_cast<const uint16_t*>(x);
  for (int row = 0; row < rows; ++row) {
    for (int output = 0; output < weights.outputs; ++output) {
      const uint16_t* w = static_cast<const uint16_t*>(weights.data) + int64_t{output} * weights.inputs;
      float sum = 0;
      for (int i = 0; i < weights.inputs; ++i) {
        sum += DenseValue(rounded[int64_t{row} * weights.inputs + i], type) * DenseValue(w[i], type);
      }
      float& target = out[row * out_stride + output];
      target = accumulate ? target + sum : sum;
    }
  }
}
