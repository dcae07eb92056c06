// SPDX-License-Identifier: Apache-2.0
// x = cap * tanh(x / cap) in place: logits of Gemma 2, https://arxiv.org/abs/2408.00118
#pragma once

#include "kernels/tensor.h"

namespace kvscope {

// x [rows, dim] f32, any row stride; cap > 0.
namespace cpu {
void CapLogits(float cap, const TensorView& x);
}
namespace cuda {
void CapLogits(float cap, const TensorView& x, const Workspace& workspace);
}

}  // namespace kvscope
