// SPDX-License-Identifier: Apache-2.0
#include "kernels/geglu.h"

#include <cmath>

#include "kernels/simd.h"

namespace kvscope {
namespace {

constexpr double kSqrtTwoOverPi = 0.79788456080286535588, kCubic = 0.044715;

}  // namespace

void cpu::GeGlu(std::span<const float> gate, std::span<const float> up, std::span<float> out) {
  for (size_t i = 0; i < gate.size(); ++i) {
    const double x = gate[i];
    out[i] = static_cast<float>(0.5 * x * (1 + std::tanh(kSqrtTwoOverPi * (x + kCubic * x * x * x))) * up[i]);
  }
}

// 0.5 (1 + tanh(y)) = 1 / (1 + exp(-2 y)).
void cpu_fast::GeGlu(std::span<const float> gate, std::span<const float> up, std::span<float> out) {
  size_t i = 0;
  const simd::Floats one = simd::Broadcast(1.0f), highest = simd::Broadcast(87.0f);  // exp(87) still is a float
  const simd::Floats linear = simd::Broadcast(static_cast<float>(-2 * kSqrtTwoOverPi)),
                     cubic = simd::Broadcast(static_cast<float>(-2 * kSqrtTwoOverPi * kCubic));
  for (; i + simd::kLanes <= gate.size(); i += simd::kLanes) {
    const simd::Floats x = simd::Load(&gate[i]);
    const simd::Floats minus_two_y = simd::Mul(x, simd::Fma(simd::Mul(x, x), cubic, linear));
    const simd::Floats e = simd::Exp(simd::Min(minus_two_y, highest));
    simd::Store(&out[i], simd::Mul(simd::Div(x, simd::Add(one, e)), simd::Load(&up[i])));
  }
  cpu::GeGlu(gate.subspan(i), up.subspan(i), out.subspan(i));
}

}  // namespace kvscope
