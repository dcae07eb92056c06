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

void cpu::Rope(const RopeRows& rows) {
  const int64_t tokens = rows.x.shape[0], heads = rows.x.shape[1], dim = rows.x.shape[2];
  std::vector<float> vector(dim);
  for (int64_t token = 0; token < tokens; ++token) {
    RopeAngles angles;
    if (rows.cos.data) {
      const float* const cos = rows.cos.floats() + token * (dim / 2);
      const float* const sin = rows.sin.floats() + token * (dim / 2);
      angles.cos.assign(cos, cos + dim / 2);
      angles.sin.assign(sin, sin + dim / 2);
    }
    for (int64_t head = 0; head < heads; ++head) {
      const float* const source = rows.x.floats() + token * rows.x.strides[0] + head * rows.x.strides[1];
      std::copy_n(source, dim, vector.begin());
      if (rows.cos.data) Rope(angles, vector);
      const int64_t at = head * rows.out.strides[0] + token * rows.out.strides[1];
      for (int64_t i = 0; i < dim; ++i) {
        float result = vector[i];
        if (rows.out.dtype == DType::kF16) {
          const Half half = HalfFromFloat(result);
          static_cast<Half*>(rows.out.data)[at + i] = half;
          result = FloatFromHalf(half);
        } else {
          rows.out.floats()[at + i] = result;
        }
        if (!std::isfinite(result)) *rows.bad_token = std::min(*rows.bad_token, static_cast<int>(token));
      }
    }
  }
}

#ifndef KVSCOPE_HAVE_CUDA
void cuda::Rope(const RopeRows&, const Workspace&) {
  throw Error("rope on cuda: this build has no CUDA; rebuild with nvcc on PATH and -DKVSCOPE_CUDA=ON");
}
#endif

}  // namespace kvscope
