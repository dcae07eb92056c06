// SPDX-License-Identifier: Apache-2.0
// Soft-capping of sixteen scores. Internal to kernels/*.cpp.
#pragma once

#include "kernels/simd.h"

namespace kvscope {

// softcap * tanh(score / softcap), relative error < 6e-7. Every capped score anywhere comes from here.
class SoftCap {
 public:
  explicit SoftCap(float softcap) : softcap_(simd::Broadcast(softcap)), inverse_(simd::Broadcast(1 / softcap)) {}
  simd::Floats operator()(simd::Floats score) const {
    return simd::Mul(simd::Tanh(simd::Mul(score, inverse_)), softcap_);
  }

 private:
  simd::Floats softcap_, inverse_;
};

}  // namespace kvscope
