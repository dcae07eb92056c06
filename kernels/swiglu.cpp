// SPDX-License-Identifier: Apache-2.0
#include "kernels/swiglu.h"

#include <cmath>

#include "core/error.h"
#include "kernels/simd.h"

namespace kvscope {

void cpu::SwiGlu(std::span<const float> gate, std::span<const float> up, std::span<float> out) {
  for (size_t i = 0; i < gate.size(); ++i) out[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
}

void cpu_fast::SwiGlu(std::span<const float> gate, std::span<const float> up, std::span<float> out) {
  size_t i = 0;
  const simd::Floats one = simd::Broadcast(1.0f), lowest = simd::Broadcast(-87.0f);  // exp(87) still is a float
  for (; i + simd::kLanes <= gate.size(); i += simd::kLanes) {
    const simd::Floats x = simd::Load(&gate[i]);
    const simd::Floats e = simd::Exp(simd::Sub(simd::Zero(), simd::Max(x, lowest)));
    simd::Store(&out[i], simd::Mul(simd::Div(x, simd::Add(one, e)), simd::Load(&up[i])));
  }
  cpu::SwiGlu(gate.subspan(i), up.subspan(i), out.subspan(i));
}

#ifndef KVSCOPE_HAVE_CUDA
void cuda::SwiGlu(const TensorView&, const TensorView&, const TensorView&, const Workspace&) {
  throw Error("swiglu on cuda: this build has no CUDA; rebuild with nvcc on PATH and -DKVSCOPE_CUDA=ON");
}
#endif

}  // namespace kvscope
