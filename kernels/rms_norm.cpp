// SPDX-License-Identifier: Apache-2.0
#include "kernels/rms_norm.h"

#include <cmath>

#include "core/error.h"

namespace kvscope {
namespace cpu {

void RmsNorm(const TensorView& x, const TensorView& weight, float epsilon, const TensorView& out) {
  const int64_t dim = x.shape[1];
  KVSCOPE_CHECK_EQ(weight.shape[0], dim);
  for (int64_t row = 0; row < x.shape[0]; ++row) {
    const float* in = x.floats() + row * x.strides[0];
    double squares = 0;
    for (int64_t i = 0; i < dim; ++i) squares += static_cast<double>(in[i]) * in[i];
    const auto factor = static_cast<float>(1 / std::sqrt(squares / dim + epsilon));
    for (int64_t i = 0; i < dim; ++i) out.floats()[row * out.strides[0] + i] = in[i] * factor * weight.floats()[i];
  }
}

}  // namespace cpu
#ifndef KVSCOPE_HAVE_CUDA
void cuda::RmsNorm(const TensorView&, const TensorView&, float, const TensorView&, const Workspace&) {
  throw Error("rms_norm on cuda: this build has no CUDA; rebuild with nvcc on PATH and -DKVSCOPE_CUDA=ON");
}
#endif
}  // namespace kvscope
