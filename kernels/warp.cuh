// SPDX-License-Identifier: Apache-2.0
// What the 32 threads of a warp do together. Every lane gets the result.
#pragma once

#include "kernels/launch.cuh"

namespace kvscope::KVSCOPE_TWIN {

inline constexpr unsigned kWholeWarp = 0xffffffffu;

__device__ inline float WarpSum(float value) {
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(kWholeWarp, value, offset);
  return value;
}

__device__ inline float WarpMax(float value) {
  for (int offset = 16; offset > 0; offset /= 2) value = fmaxf(value, __shfl_xor_sync(kWholeWarp, value, offset));
  return value;
}

}  // namespace kvscope::KVSCOPE_TWIN
