// SPDX-License-Identifier: Apache-2.0
// out = gelu(gate) * up with the tanh form of gelu, 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))). Hendrycks and
// Gimpel 2016, https://arxiv.org/abs/1606.08415; as a gate Shazeer 2020, https://arxiv.org/abs/2002.05202
#pragma once

#include <span>

namespace kvscope {

namespace cpu {
void GeGlu(std::span<const float> gate, std::span<const float> up, std::span<float> out);  // the specification
}
namespace cpu_fast {
void GeGlu(std::span<const float> gate, std::span<const float> up, std::span<float> out);  // out may alias gate
}

}  // namespace kvscope
