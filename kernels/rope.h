// SPDX-License-Identifier: Apache-2.0
// Rotary position embedding in rotate-half order: dims i and i + head_dim / 2 form a pair. Su et al. 2021,
// https://arxiv.org/abs/2104.09864. Angles in double, tables and products in f32.
#pragma once

#include <span>
#include <vector>

namespace kvscope {

// cos and sin of one position, [head_dim / 2] each.
struct RopeAngles {
  std::vector<float> cos, sin;
};
RopeAngles RopeAnglesAt(int position, std::span<const double> inv_freq, double attention_scaling);

namespace cpu {
// Rotates one head vector [head_dim] in place.
void Rope(const RopeAngles& angles, std::span<float> vector);
}  // namespace cpu

}  // namespace kvscope
