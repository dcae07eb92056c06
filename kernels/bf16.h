// SPDX-License-Identifier: Apache-2.0
// bf16: the upper half of an f32. Rounds to nearest even, as CUDA does.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/device.h"

namespace kvscope {

KVSCOPE_HOST_DEVICE inline float FloatFromBf16(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value = 0;
  memcpy(&value, &wide, sizeof value);
  return value;
}

KVSCOPE_HOST_DEVICE inline uint16_t Bf16FromFloat(float value) {
  uint32_t bits = 0;
  memcpy(&bits, &value, sizeof bits);
  if (value != value) return static_cast<uint16_t>(bits >> 16 | 0x40);  // stays a NaN
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

}  // namespace kvscope
