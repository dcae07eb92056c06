// SPDX-License-Identifier: Apache-2.0
// Rotary position embedding in rotate-half order: dims i and i + head_dim / 2 form a pair. Su et al. 2021,
// https://arxiv.org/abs/2104.09864. Angles in double, tables and products in f32.
#pragma once

#include <span>
#include <vector>

#include "kernels/tensor.h"

namespace kvscope {

// cos and sin of one position, [head_dim / 2] each.
struct RopeAngles {
  std::vector<float> cos, sin;
};
RopeAngles RopeAnglesAt(int position, std::span<const double> inv_freq, double attention_scaling);

// Rows as a projection leaves them, rotated and put where attention reads them: q beside the cache, k and v into it.
struct RopeRows {
  TensorView x;         // [tokens, heads, head_dim] f32
  TensorView cos, sin;  // [positions, head_dim / 2] f32; data == nullptr: nothing is rotated (v)
  TensorView out;       // [heads, tokens, head_dim] f16 (rounded) or f32; any head stride, token stride head_dim
  TensorView copy{};    // what out got once more, from row 0 on; data == nullptr: not wanted
  // Beside x: the row of cos and sin, and of out, that is token 0's; null: row 0. A CUDA graph that holds the call sees
  // the numbers change.
  const int* first_position = nullptr;
  const int* first_out = nullptr;
  int* bad_token =
      nullptr;  // beside x too; lowered to the first token with a result outside out's range, if there is one
};

namespace cpu {
// Rotates one head vector [head_dim] in place.
void Rope(const RopeAngles& angles, std::span<float> vector);
void Rope(const RopeRows& rows);
}  // namespace cpu
inline constexpr int kMaxRopes = 3;
namespace cuda {
// q, k and v of a layer in one launch: up to kMaxRopes, of the same out dtype.
void Rope(std::span<const RopeRows> ropes, const Workspace& workspace);
}  // namespace cuda

}  // namespace kvscope
