// SPDX-License-Identifier: Apache-2.0
#include "kernels/rms_norm.h"

#include <cmath>

#include "core/error.h"

namespace kvscope {
namespace {

// [heads, dim] of one token.
TensorView RowOf(const TensorView& view, int64_t token) {
  TensorView row = view;
  row.data = view.floats() + token * view.strides[0];
  row.rank = 2;
  row.shape = {view.shape[1], view.shape[2], 1, 1};
  row.strides = {view.strides[1], 1, 0, 0};
  return row;
}

}  // namespace
namespace cpu {

void RmsNorm(const TensorView& x, const TensorView& weight, float epsilon, const TensorView& out) {
  if (x.rank == 3) {
    for (int64_t token = 0; token < x.shape[0]; ++token) RmsNorm(RowOf(x, token), weight, epsilon, RowOf(out, token));
    return;
  }
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
