// SPDX-License-Identifier: Apache-2.0
// out = silu(gate) * up, silu(x) = x / (1 + exp(-x)). Shazeer 2020, https://arxiv.org/abs/2002.05202
#pragma once

#include <span>

#include "kernels/tensor.h"

namespace kvscope {

namespace cpu {
void SwiGlu(std::span<const float> gate, std::span<const float> up, std::span<float> out);  // the specification
}
namespace cpu_fast {
void SwiGlu(std::span<const float> gate, std::span<const float> up, std::span<float> out);  // out may alias gate
}
namespace cuda {
// [rows, width] f32 each, any row strides (gate and up may lie side by side), or [width]; out may alias gate.
void SwiGlu(const TensorView& gate, const TensorView& up, const TensorView& out, const Workspace& workspace);
}  // namespace cuda

}  // namespace kvscope
