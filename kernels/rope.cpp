// SPDX-License-Identifier: Apache-2.0
#include "kernels/rope.h"

#include <cmath>

#include "core/error.h"

namespace kvscope {

RopeAngles RopeAnglesAt(int position, std::span<const double> inv_freq, double attention_scaling) {
  RopeAngles angles;
  for (const double frequency : inv_freq) {
    angles.cos.push_back(static_cast<float>(std::cos(position * frequency) * attention_scaling));
    angles.sin.push_back(static_cast<float>(std::sin(position * frequency) * attention_scaling));
  }
  return angles;
}

void cpu::Rope(const RopeAngles& angles, std::span<float> vector) {
  const size_t half = angles.cos.size();
  KVSCOPE_CHECK_EQ(vector.size(), 2 * half);
  for (size_t i = 0; i < half; ++i) {
    const float low = vector[i], high = vector[i + half];
    vector[i] = low * angles.cos[i] - high * angles.sin[i];
    vector[i + half] = high * angles.cos[i] + low * angles.sin[i];
  }
}

}  // namespace kvscope
