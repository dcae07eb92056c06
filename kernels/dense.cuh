// SPDX-License-Identifier: Apache-2.0
// Elements of a DenseMatrix on the device; the type is known when a kernel is compiled.
#pragma once

#include <cstring>

#include "kernels/bf16.h"
#include "kernels/dense_matmul.h"
#include "kernels/launch.cuh"

namespace kvscope::KVSCOPE_TWIN {

template <DenseType kType>
__device__ float FloatFromDense(uint16_t bits) {
  if constexpr (kType == DenseType::kBF16) {
    return FloatFromBf16(bits);
  } else {
    __half value;
    memcpy(&value, &bits, sizeof value);
    return __half2float(value);
  }
}

template <DenseType kType>
__device__ uint16_t DenseFromFloat(float value) {
  if constexpr (kType == DenseType::kBF16) {
    return Bf16FromFloat(value);
  } else {
    const __half rounded = __float2half_rn(value);
    uint16_t bits = 0;
    memcpy(&bits, &rounded, sizeof bits);
    return bits;
  }
}

// The two elements of a word, the lower address first.
template <DenseType kType>
__device__ float2 FloatsFromDense(uint32_t pair) {
  return {FloatFromDense<kType>(static_cast<uint16_t>(pair)), FloatFromDense<kType>(static_cast<uint16_t>(pair >> 16))};
}

}  // namespace kvscope::KVSCOPE_TWIN
