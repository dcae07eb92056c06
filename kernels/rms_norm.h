// SPDX-License-Identifier: Apache-2.0
// out[row] = x[row] / sqrt(mean(x[row]^2) + epsilon) * weight. Zhang and Sennrich 2019,
// https://arxiv.org/abs/1910.07467
#pragma once

#include "kernels/tensor.h"

namespace kvscope {

// x, out [rows, dim] f32, any row stride, or [tokens, heads, dim], any strides of both; weight [dim] f32; out may alias
// x.
namespace cpu {
void RmsNorm(const TensorView& x, const TensorView& weight, float epsilon, const TensorView& out);
}
namespace cuda {
void RmsNorm(const TensorView& x, const TensorView& weight, float epsilon, const TensorView& out,
             const Workspace& workspace);
}

}  // namespace kvscope
