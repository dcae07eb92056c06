// SPDX-License-Identifier: Apache-2.0
#include "kernels/dense_matmul.h"

#include "core/error.h"
#include "core/half.h"
#include "kernels/bf16.h"

namespace kvscope {

uint16_t DenseBits(float value, DenseType type) {
  return type == DenseType::kF16 ? HalfFromFloat(value).bits : Bf16FromFloat(value);
}

float DenseValue(uint16_t bits, DenseType type) {
  return type == DenseType::kF16 ? FloatFromHalf(Half{bits}) : FloatFromBf16(bits);
}

void cpu::DenseMatmul(const DenseMatmulProblem& problem) {
  const DenseMatrix& weights = problem.weights;
  KVSCOPE_CHECK_EQ(problem.x.shape[1], weights.inputs);
  KVSCOPE_CHECK_EQ(problem.out.shape[1], weights.outputs);
  KVSCOPE_CHECK_EQ(problem.out.shape[0], problem.x.shape[0]);
  for (int64_t row = 0; row < problem.x.shape[0]; ++row) {
    const float* x = problem.x.floats() + row * problem.x.strides[0];
    float* out = problem.out.floats() + row * problem.out.strides[0];
    for (int output = 0; output < weights.outputs; ++output) {
      const uint16_t* w = static_cast<const uint16_t*>(weights.data) + int64_t{output} * weights.inputs;
      double sum = problem.accumulate ? out[output] : 0;
      for (int i = 0; i < weights.inputs; ++i) sum += static_cast<double>(x[i]) * DenseValue(w[i], weights.type);
      out[output] = static_cast<float>(sum);
    }
  }
}

#ifndef KVSCOPE_HAVE_CUDA
void cuda::DenseMatmul(const DenseMatmulProblem&, const Workspace&) {
  throw Error("dense_matmul on cuda: this build has no CUDA; rebuild with nvcc on PATH and -DKVSCOPE_CUDA=ON");
}
size_t cuda::DenseWorkspaceBytes(const DenseMatmulProblem&) {
  return 0;
}
#endif

}  // namespace kvscope
