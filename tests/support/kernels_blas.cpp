// SPDX-License-Identifier: Apache-2.0
// In place of cuBLAS, see kernels/blas.h.
#include "tests/support/kernels_fibres.h"
// The fibres come first.
#include "kernels/blas.h"

namespace kvscope {
namespace {

void Multiply(const uint16_t* x, int rows, const DenseMatrix& weights, float* out, int64_t out_stride,
              bool accumulate) {
  for (int row = 0; row < rows; ++row) {
    for (int output = 0; output < weights.outputs; ++output) {
      const uint16_t* w = static_cast<const uint16_t*>(weights.data) + int64_t{output} * weights.inputs;
      float sum = 0;
      for (int i = 0; i < weights.inputs; ++i) {
        sum += DenseValue(x[int64_t{row} * weights.inputs + i], weights.type) * DenseValue(w[i], weights.type);
      }
      float& target = out[row * out_stride + output];
      target = accumulate ? target + sum : sum;
    }
  }
}

}  // namespace
}  // namespace kvscope

void kvscope::cuda_emulated::BlasGemm(const void* x, int rows, const DenseMatrix& weights, float* out,
                                      int64_t out_stride, bool accumulate, void* stream) {
  fibres::Enqueue(stream,
                  [=] { Multiply(static_cast<const uint16_t*>(x), rows, weights, out, out_stride, accumulate); });
}
