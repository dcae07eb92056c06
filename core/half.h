// SPDX-License-Identifier: Apache-2.0
// IEEE binary16 as stored in traces and caches. Conversion rounds to nearest even, as F16C and CUDA do.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace kvscope {

struct Half {
  uint16_t bits = 0;
  friend bool operator==(Half, Half) = default;
};

float FloatFromHalf(Half value);
Half HalfFromFloat(float value);  // overflow gives infinity

// Bulk forms; source and target have the same length.
void FloatsFromHalves(std::span<const Half> source, std::span<float> target);
void HalvesFromFloats(std::span<const float> source, std::span<Half> target);

// Largest finite value.
inline constexpr float kHalfMax = 65504.0f;

}  // namespace kvscope
