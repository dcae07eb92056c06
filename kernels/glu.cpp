// SPDX-License-Identifier: Apache-2.0
#include "kernels/glu.h"

#include <cmath>
#include <numbers>

#include "core/error.h"
#include "kernels/simd.h"

namespace kvscope {

void cpu::Glu(Gate kind, std::span<const float> gate, std::span<const float> up, std::span<float> out) {
  for (size_t i = 0; i < gate.size(); ++i) {
    const double x = gate[i];
    const double y = std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x);
    const double gated = kind == Gate::kGelu ? 0.5 * x * (1 + std::tanh(y)) : x / (1 + std::exp(-x));
    out[i] = static_cast<float>(gated * up[i]);
  }
}

void cpu_fast::Glu(Gate kind, std::span<const float> gate, std::span<const float> up, std::span<float> out) {
  size_t i = 0;
  const simd::Floats one = simd::Broadcast(1.0f), highest = simd::Broadcast(87.0f);  // exp(87) still is a float
  const bool is_gelu = kind == Gate::kGelu;
  const simd::Floats linear = simd::Broadcast(is_gelu ? -kGeluLinear : -1.0f), cubic = simd::Broadcast(-kGeluCubic);
  for (; i + simd::kLanes <= gate.size(); i += simd::kLanes) {
    const simd::Floats x = simd::Load(&gate[i]);
    const simd::Floats exponent =
        is_gelu ? simd::Mul(x, simd::Fma(simd::Mul(x, x), cubic, linear)) : simd::Mul(x, linear);
    const simd::Floats e = simd::Exp(simd::Min(exponent, highest));
    simd::Store(&out[i], simd::Mul(simd::Div(x, simd::Add(one, e)), simd::Load(&up[i])));
  }
  cpu::Glu(kind, gate.subspan(i), up.subspan(i), out.subspan(i));
}

#ifndef KVSCOPE_HAVE_CUDA
void cuda::Glu(Gate, const TensorView&, const TensorView&, const TensorView&, const Workspace&) {
  throw Error("glu on cuda: this build has no CUDA; rebuild with nvcc on PATH and -DKVSCOPE_CUDA=ON");
}
#endif

}  // namespace kvscope
