// SPDX-License-Identifier: Apache-2.0
// Scales are rounded to f16 before codes are computed, so that encoder and decoder agree; a scale is rounded up, so
// that the largest value stays within the codes.
#include "kernels/quantize.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "core/error.h"
#include "core/half.h"
#include "kernels/simd.h"

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

template <typename Function>
void WithBits(int bits, Function function) {
  switch (bits) {
    case 2:
      return function(std::integral_constant<int, 2>{});
    case 4:
      return function(std::integral_constant<int, 4>{});
    case 8:
      return function(std::integral_constant<int, 8>{});
    default:
      KVSCOPE_CHECK_EQ(bits, 8);
  }
}

struct Range {
  float low = INFINITY, high = -INFINITY;
};

Range RangeOf(std::span<const float> values) {
  simd::Floats low = simd::Broadcast(INFINITY), high = simd::Broadcast(-INFINITY);
  size_t i = 0;
  for (; i + simd::kLanes <= values.size(); i += simd::kLanes) {
    low = simd::Min(simd::Load(&values[i]), low);
    high = simd::Max(simd::Load(&values[i]), high);
  }
  Range range{-simd::LargestLane(simd::Sub(simd::Zero(), low)), simd::LargestLane(high)};
  for (; i < values.size(); ++i) range = {std::min(range.low, values[i]), std::max(range.high, values[i])};
  return range;
}

// How an asymmetric group is stored. Dividing by infinity gives a constant group its codes 0.
struct Steps {
  Half scale, minimum;
  float divisor, offset;

  Steps(const Range& range, int bits) : minimum(HalfAtOrBelow(range.low)), offset(FloatFromHalf(minimum)) {
    const bool constant = !(range.high > range.low);
    if (!constant) scale = HalfAtOrAbove((range.high - offset) / static_cast<float>((1 << bits) - 1));
    divisor = scale.bits == 0 ? INFINITY : FloatFromHalf(scale);
  }
};

// The steps of a whole group, or those of the columns from one on.
struct SameSteps {
  float factor, offset;
  simd::Floats Factors(int) const { return simd::Broadcast(factor); }
  simd::Floats Offsets(int) const { return simd::Broadcast(offset); }
  float Factor(int) const { return factor; }
  float Offset(int) const { return offset; }
};
struct ColumnSteps {
  const float *factors, *offsets;
  simd::Floats Factors(int i) const { return simd::Load(factors + i); }
  simd::Floats Offsets(int i) const { return simd::Load(offsets + i); }
  float Factor(int i) const { return factors[i]; }
  float Offset(int i) const { return offsets[i]; }
};

// count: a multiple of 4.
template <int kBits, typename AnySteps>
void PackCodes(const float* values, int count, const AnySteps& steps, std::byte* packed) {
  constexpr float kLevels = (1 << kBits) - 1;
  constexpr int kMask = (1 << kBits) - 1, kCodesPerByte = 8 / kBits;
  int i = 0;
  const auto put = [&](const auto& codes, int codes_count) {
    for (int byte = 0; byte < codes_count / kCodesPerByte; ++byte) {
      unsigned together = 0;
      for (int part = 0; part < kCodesPerByte; ++part) {
        together |= (codes[byte * kCodesPerByte + part] & kMask) << (part * kBits);
      }
      *packed++ = static_cast<std::byte>(together);
    }
  };
  for (; i + simd::kLanes <= count; i += simd::kLanes) {
    simd::Floats code = simd::Div(simd::Sub(simd::Load(values + i), steps.Offsets(i)), steps.Factors(i));
    code = simd::Min(simd::Max(code, simd::Zero()), simd::Broadcast(kLevels));
    float rounded[simd::kLanes];
    simd::Store(rounded, simd::Add(code, simd::Broadcast(0x1p23f)));  // half to even, the code in the lowest bits
    put(std::bit_cast<std::array<uint32_t, simd::kLanes>>(rounded), simd::kLanes);
  }
  std::array<uint32_t, simd::kLanes> rest;
  for (int j = i; j < count; ++j) {
    rest[j - i] = Code((values[j] - steps.Offset(j)) / steps.Factor(j), 0, kLevels);
  }
  put(rest, count - i);
}

#ifndef KVSCOPE_SIMD_PLAIN
// The next sixteen codes, a byte each.
template <int kBits>
__m128i SixteenCodes(const std::byte* packed) {
  __m128i codes = _mm_setzero_si128();
  if constexpr (kBits == 8) return _mm_loadu_si128(reinterpret_cast<const __m128i*>(packed));
  std::memcpy(&codes, packed, 2 * kBits);
  const __m128i nibble = _mm_set1_epi8(15), pair = _mm_set1_epi8(3);
  codes = _mm_unpacklo_epi8(_mm_and_si128(codes, nibble), _mm_and_si128(_mm_srli_epi16(codes, 4), nibble));
  if constexpr (kBits == 4) return codes;
  return _mm_unpacklo_epi8(_mm_and_si128(codes, pair), _mm_and_si128(_mm_srli_epi16(codes, 2), pair));
}
#endif

template <int kBits, typename AnySteps>
void UnpackCodes(const std::byte* packed, int count, const AnySteps& steps, float* values) {
  constexpr int kMask = (1 << kBits) - 1;
  int i = 0;
#ifndef KVSCOPE_SIMD_PLAIN
  for (; i + simd::kLanes <= count; i += simd::kLanes, packed += 2 * kBits) {
    const simd::Floats codes = simd::FromUnsignedBytes(SixteenCodes<kBits>(packed));
    simd::Store(values + i, simd::Add(simd::Mul(codes, steps.Factors(i)), steps.Offsets(i)));
  }
#endif
  for (int j = 0; i + j < count; ++j) {
    const int code = static_cast<int>(packed[j * kBits / 8]) >> (j * kBits % 8) & kMask;
    values[i + j] = static_cast<float>(code) * steps.Factor(i + j) + steps.Offset(i + j);
  }
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
  KVSCOPE_CHECK_EQ(values.size() % 4, 0u);
  const Steps steps(RangeOf(values), bits);
  const size_t payload = values.size() * bits / 8;
  PutHalf(steps.scale, packed + payload);
  PutHalf(steps.minimum, packed + payload + 2);
  WithBits(bits, [&](auto constant) {
    const SameSteps same{steps.divisor, steps.offset};
    PackCodes<constant()>(values.data(), static_cast<int>(values.size()), same, packed);
  });
}

void DequantizeAsymmetric(const std::byte* packed, int bits, std::span<float> values) {
  const size_t payload = values.size() * bits / 8;
  const SameSteps same{GetHalf(packed + payload), GetHalf(packed + payload + 2)};
  WithBits(bits, [&](auto constant) {
    UnpackCodes<constant()>(packed, static_cast<int>(values.size()), same, values.data());
  });
}

void QuantizeColumns(const ColumnGroups& shape, const float* values, std::byte* packed) {
  KVSCOPE_CHECK_EQ(shape.columns % 4, 0);
  const int columns = shape.columns;
  std::vector<float> steps(4 * static_cast<size_t>(columns));
  float *const lows = steps.data(), *const highs = lows + columns;
  float *const divisors = highs + columns, *const offsets = divisors + columns;
  std::fill_n(lows, columns, INFINITY);
  std::fill_n(highs, columns, -INFINITY);
  for (int row = 0; row < shape.rows; ++row) {
    const float* const line = values + int64_t{row} * columns;
    for (int column = 0; column < columns; ++column) {
      lows[column] = std::min(lows[column], line[column]);
      highs[column] = std::max(highs[column], line[column]);
    }
  }
  std::byte* const halves = packed + shape.rows * shape.RowBytes();
  for (int column = 0; column < columns; ++column) {
    const Steps step({lows[column], highs[column]}, shape.bits);
    PutHalf(step.scale, halves + 2 * column);
    PutHalf(step.minimum, halves + 2 * (columns + column));
    divisors[column] = step.divisor, offsets[column] = step.offset;
  }
  WithBits(shape.bits, [&](auto constant) {
    for (int row = 0; row < shape.rows; ++row) {
      PackCodes<constant()>(values + int64_t{row} * columns, columns, ColumnSteps{divisors, offsets},
                            packed + row * shape.RowBytes());
    }
  });
}

void DequantizeColumns(const ColumnGroups& shape, const std::byte* packed, int row_begin, int count, float* values) {
  constexpr int kStrip = 128;  // columns at a time, so that their steps fit on the stack
  const auto* const halves = reinterpret_cast<const Half*>(packed + shape.rows * shape.RowBytes());
  for (int begin = 0; begin < shape.columns; begin += kStrip) {
    const size_t width = std::min(kStrip, shape.columns - begin);
    float scales[kStrip], offsets[kStrip];
    FloatsFromHalves({halves + begin, width}, {scales, width});
    FloatsFromHalves({halves + shape.columns + begin, width}, {offsets, width});
    WithBits(shape.bits, [&](auto constant) {
      for (int row = 0; row < count; ++row) {
        UnpackCodes<constant()>(packed + (row_begin + row) * shape.RowBytes() + begin * shape.bits / 8,
                                static_cast<int>(width), ColumnSteps{scales, offsets},
                                values + int64_t{row} * shape.columns + begin);
      }
    });
  }
}

}  // namespace kvscope::cpu
