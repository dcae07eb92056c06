// SPDX-License-Identifier: Apache-2.0
// Scales are rounded to f16 before codes are computed, so that encoder and decoder agree; a scale is rounded up, so
// that the largest value stays within the codes.
#include "kernels/quantize.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "core/error.h"
#include "core/half.h"

namespace kvscope::cpu {
namespace {

// The smallest finite half at or above value >= 0; above the range its largest.
Half HalfAtOrAbove(float value) {
  if (value >= kHalfMax) return HalfFromFloat(kHalfMax);
  Half half = HalfFromFloat(value);
  if (FloatFromHalf(half) < value) ++half.bits;
  return half;
}

// The largest finite half at or below value; below the range its lowest.
Half HalfAtOrBelow(float value) {
  if (value <= -kHalfMax) return HalfFromFloat(-kHalfMax);
  Half half = HalfFromFloat(std::min(value, kHalfMax));
  if (FloatFromHalf(half) > value) {
    if (half.bits & 0x8000) {
      ++half.bits;  // away from zero
    } else {
      half.bits = half.bits == 0 ? 0x8001 : half.bits - 1;
    }
  }
  return half;
}

void PutHalf(Half value, std::byte* target) {
  std::memcpy(target, &value.bits, 2);
}
float GetHalf(const std::byte* source) {
  Half value;
  std::memcpy(&value.bits, source, 2);
  return FloatFromHalf(value);
}

// Half to even, clamped; a NaN gives `low`.
int Code(float quotient, float low, float high) {
  return static_cast<int>(std::min(std::max(low, std::nearbyint(quotient)), high));
}

}  // namespace

void QuantizeInt8(std::span<const float> values, std::byte* packed) {
  float largest = 0;
  for (float value : values) largest = std::max(largest, std::fabs(value));
  const Half scale = HalfAtOrAbove(largest / 127);
  PutHalf(scale, packed + values.size());
  const float divisor = scale.bits == 0 ? 1.0f : FloatFromHalf(scale);
  for (size_t i = 0; i < values.size(); ++i) {
    packed[i] = static_cast<std::byte>(static_cast<int8_t>(Code(values[i] / divisor, -127, 127)));
  }
}

void DequantizeInt8(const std::byte* packed, std::span<float> values) {
  const float scale = GetHalf(packed + values.size());
  const auto* codes = reinterpret_cast<const int8_t*>(packed);
  for (size_t i = 0; i < values.size(); ++i) values[i] = codes[i] * scale;
}

void QuantizeAsymmetric(std::span<const float> values, int bits, std::byte* packed) {
  KVSCOPE_CHECK(bits == 2 || bits == 4);
  KVSCOPE_CHECK_EQ(values.size() % 4, 0u);
  const int codes_per_byte = 8 / bits, levels = (1 << bits) - 1;
  const auto [smallest, largest] = std::minmax_element(values.begin(), values.end());
  const Half minimum = HalfAtOrBelow(*smallest);
  const float offset = FloatFromHalf(minimum);
  const bool constant = !(*largest > *smallest);
  const Half scale = constant ? Half{} : HalfAtOrAbove((*largest - offset) / levels);
  const size_t payload = values.size() / codes_per_byte;
  PutHalf(scale, packed + payload);
  PutHalf(minimum, packed + payload + 2);
  const float divisor = FloatFromHalf(scale);
  for (size_t byte = 0; byte < payload; ++byte) {
    unsigned together = 0;
    for (int part = 0; part < codes_per_byte && !constant; ++part) {
      const float quotient = (values[byte * codes_per_byte + part] - offset) / divisor;
      together |= static_cast<unsigned>(Code(quotient, 0, static_cast<float>(levels))) << (part * bits);
    }
    packed[byte] = static_cast<std::byte>(together);
  }
}

void DequantizeAsymmetric(const std::byte* packed, int bits, std::span<float> values) {
  const size_t payload = values.size() * bits / 8;
  const float scale = GetHalf(packed + payload), offset = GetHalf(packed + payload + 2);
  const auto* bytes = reinterpret_cast<const uint8_t*>(packed);
  // The inner loops have fixed trip counts, so that the compiler turns them into shuffles.
  if (bits == 4) {
    for (size_t byte = 0; byte < payload; ++byte) {
      values[2 * byte] = (bytes[byte] & 15) * scale + offset;
      values[2 * byte + 1] = (bytes[byte] >> 4) * scale + offset;
    }
  } else {
    for (size_t byte = 0; byte < payload; ++byte) {
      for (int part = 0; part < 4; ++part) values[4 * byte + part] = ((bytes[byte] >> (2 * part)) & 3) * scale + offset;
    }
  }
}

}  // namespace kvscope::cpu
