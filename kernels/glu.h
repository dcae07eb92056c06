// SPDX-License-Identifier: Apache-2.0
// out = gate'(gate) * up, the middle of a feed-forward block: Shazeer 2020, https://arxiv.org/abs/2002.05202. kSilu is
// x / (1 + exp(-x)), kGelu the tanh form of Hendrycks and Gimpel 2016, https://arxiv.org/abs/1606.08415:
// 0.5 x (1 + tanh(y)) = x / (1 + exp(-2 y)) with y = sqrt(2 / pi) (x + 0.044715 x^3).
#pragma once

#include <span>

#include "kernels/tensor.h"

namespace kvscope {

enum class Gate { kSilu, kGelu };

inline constexpr float kGeluLinear = 1.595769122f, kGeluCubic = 0.071354816f;  // 2 y = linear x + cubic x^3

namespace cpu {
void Glu(Gate kind, std::span<const float> gate, std::span<const float> up, std::span<float> out);  // in double
}
namespace cpu_fast {
// out may alias gate.
void Glu(Gate kind, std::span<const float> gate, std::span<const float> up, std::span<float> out);
}  // namespace cpu_fast
namespace cuda {
// [rows, width] f32 each, any row strides (gate and up may lie side by side), or [width]; out may alias gate.
void Glu(Gate kind, const TensorView& gate, const TensorView& up, const TensorView& out, const Workspace& workspace);
}  // namespace cuda

}  // namespace kvscope
