// SPDX-License-Identifier: Apache-2.0
#include "kernels/swiglu.h"

#include <cmath>

#include "kernels/simd.h"

namespace kvscope {

void cpu::SwiGlu(std::span<const float> gate, std::span<const float> up, std::span<float> out) {
  for (size_t i = 0; i < gate.size(); ++i) out[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
}

void cpu_fast::SwiGlu(std::span<const float> gate, std::span<const float> up, std::span<float> out) {
  size_t i = 0;
  float lanes[simd::kLanes];
  for (; i + simd::kLanes <= gate.size(); i += simd::kLanes) {
    const simd::Floats x = simd::Load(&gate[i]);
    // exp(-|x|) never overflows; for x < 0, 1 / (1 + exp(-x)) = exp(x) / (1 + exp(x)).
    const simd::Floats magnitude = simd::Max(x, simd::Sub(simd::Zero(), x));
    simd::Store(lanes, simd::Exp(simd::Sub(simd::Zero(), magnitude)));
    for (int lane = 0; lane < simd::kLanes; ++lane) {
      const float e = lanes[lane];
      const float value = gate[i + lane];
      out[i + lane] = value * ((value < 0 ? e : 1.0f) / (1.0f + e)) * up[i + lane];
    }
  }
  cpu::SwiGlu(gate.subspan(i), up.subspan(i), out.subspan(i));
}

}  // namespace kvscope
