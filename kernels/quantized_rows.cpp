// SPDX-License-Identifier: Apache-2.0
#include "kernels/quantized_rows.h"

#include <bit>
#include <cmath>
#include <limits>

#include "core/error.h"

namespace kvscope {

void QuantizeRow(std::span<const float> x, int group, int8_t* codes, float* scales, int32_t* sums) {
  constexpr int kBlock = 32;
  KVSCOPE_CHECK_EQ(x.size() % kBlock, size_t{0});
  KVSCOPE_CHECK(group == 16 || group == kBlock);
  for (size_t begin = 0; begin < x.size(); begin += kBlock, codes += kBlock) {
    const float* const values = &x[begin];
    uint32_t largest_bits = 0;  // of magnitudes, whose order is that of their bits, NaN above all
    for (int i = 0; i < kBlock; ++i) {
      const uint32_t bits = std::bit_cast<uint32_t>(values[i]) & 0x7fffffffu;
      largest_bits = largest_bits > bits ? largest_bits : bits;
    }
    const float largest = std::bit_cast<float>(largest_bits);
    const bool is_finite = largest_bits < 0x7f800000u, is_zero = largest < 1e-30f;
    const float scale = !is_finite ? std::numeric_limits<float>::quiet_NaN() : is_zero ? 0 : largest / 127;
    const float inverse = 127 / largest;
    if (!is_finite || is_zero) {
      for (int i = 0; i < kBlock; ++i) codes[i] = 0;
    } else {
      for (int i = 0; i < kBlock; ++i) codes[i] = static_cast<int8_t>(std::nearbyint(values[i] * inverse));
    }
    for (int i = 0; i < kBlock; i += group) {
      int32_t sum = 0;
      for (int k = 0; k < group; ++k) sum += codes[i + k];
      *scales++ = scale;
      *sums++ = sum;
    }
  }
}

QuantizedRows::QuantizedRows(int rows, int inputs, int group)
    : inputs_(inputs),
      groups_(inputs / group),
      group_(group),
      codes_(std::make_unique_for_overwrite<int8_t[]>(rows * inputs_)),
      scales_(std::make_unique_for_overwrite<float[]>(rows * groups_)),
      sums_(std::make_unique_for_overwrite<int32_t[]>(rows * groups_)),
      scaled_sums_(std::make_unique_for_overwrite<float[]>(rows * groups_)) {}

void QuantizedRows::Set(int row, std::span<const float> x) {
  const int64_t first = row * groups_;
  QuantizeRow(x, group_, &codes_[row * inputs_], &scales_[first], &sums_[first]);
  for (int64_t i = first; i < first + groups_; ++i) scaled_sums_[i] = scales_[i] * static_cast<float>(sums_[i]);
}

}  // namespace kvscope
