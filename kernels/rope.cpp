// SPDX-License-Identifier: Apache-2.0
#include "kernels/rope.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/half.h"

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

namespace {

// Row `token` of a head, rounded to the view's dtype; false when a value left its range.
bool Put(std::span<const float> vector, const TensorView& to, int64_t head, int64_t token) {
  const int64_t at = head * to.strides[0] + token * to.strides[1];
  bool is_finite = true;
  for (size_t i = 0; i < vector.size(); ++i) {
    float result = vector[i];
    if (to.dtype == DType::kF16) {
      const Half half = HalfFromFloat(result);
      static_cast<Half*>(to.data)[at + static_cast<int64_t>(i)] = half;
      result = FloatFromHalf(half);
    } else {
      to.floats()[at + static_cast<int64_t>(i)] = result;
    }
    is_finite &= std::isfinite(result);
  }
  return is_finite;
}

}  // namespace

void cpu::Rope(const RopeRows& rows) {
  const int64_t tokens = rows.x.shape[0], heads = rows.x.shape[1], dim = rows.x.shape[2];
  const int64_t first_position = rows.first_position ? *rows.first_position : 0;
  const int64_t first_out = rows.first_out ? *rows.first_out : 0;
  std::vector<float> vector(dim);
  for (int64_t token = 0; token < tokens; ++token) {
    RopeAngles angles;
    if (rows.cos.data) {
      const float* const cos = rows.cos.floats() + (first_position + token) * (dim / 2);
      const float* const sin = rows.sin.floats() + (first_position + token) * (dim / 2);
      angles.cos.assign(cos, cos + dim / 2);
      angles.sin.assign(sin, sin + dim / 2);
    }
    for (int64_t head = 0; head < heads; ++head) {
      const float* const source = rows.x.floats() + token * rows.x.strides[0] + head * rows.x.strides[1];
      std::copy_n(source, dim, vector.begin());
      if (rows.cos.data) Rope(angles, vector);
      bool is_finite = Put(vector, rows.out, head, first_out + token);
      if (rows.copy.data) is_finite &= Put(vector, rows.copy, head, token);
      if (!is_finite) *rows.bad_token = std::min(*rows.bad_token, static_cast<int>(token));
    }
  }
}

#ifndef KVSCOPE_HAVE_CUDA
void cuda::Rope(std::span<const RopeRows>, const Workspace&) {
  throw Error("rope on cuda: this build has no CUDA; rebuild with nvcc on PATH and -DKVSCOPE_CUDA=ON");
}
#endif

}  // namespace kvscope
