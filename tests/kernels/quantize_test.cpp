// SPDX-License-Identifier: Apache-2.0
#include "kernels/quantize.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "core/half.h"

namespace kvscope::cpu {
namespace {

using Bytes = std::vector<std::byte>;

float HalfAt(const Bytes& packed, size_t place) {
  Half half;
  std::memcpy(&half.bits, &packed[place], 2);
  return FloatFromHalf(half);
}

std::vector<float> RandomHalves(int channels, int seed, float spread) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, spread);
  std::vector<float> values(channels);
  for (float& value : values) value = FloatFromHalf(HalfFromFloat(normal(random)));
  return values;
}

Bytes Pack(const std::vector<float>& values, int bits) {
  Bytes packed(bits == 8 ? Int8GroupBytes(values.size()) : AsymmetricGroupBytes(values.size(), bits));
  bits == 8 ? QuantizeInt8(values, packed.data()) : QuantizeAsymmetric(values, bits, packed.data());
  return packed;
}

std::vector<float> Unpack(const Bytes& packed, int bits, size_t channels) {
  std::vector<float> values(channels);
  bits == 8 ? DequantizeInt8(packed.data(), values) : DequantizeAsymmetric(packed.data(), bits, values);
  return values;
}

class Quantize : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Bits, Quantize, testing::Values(2, 4, 8));

TEST_P(Quantize, ErrorIsAtMostHalfAStep) {
  const int bits = GetParam();
  for (int seed = 0; seed < 200; ++seed) {
    const float spread = std::ldexp(1.0f, seed % 20 - 8);
    const std::vector<float> values = RandomHalves(seed % 2 ? 64 : 20, seed, spread);
    const auto [low, high] = std::minmax_element(values.begin(), values.end());
    const float step =
        bits == 8 ? std::max(std::fabs(*low), std::fabs(*high)) / 127 : (*high - *low) / ((1 << bits) - 1);
    const std::vector<float> back = Unpack(Pack(values, bits), bits, values.size());
    // Half a step, and the step itself was rounded up to f16 (relative 2^-10); the rest is f32 rounding.
    for (size_t i = 0; i < values.size(); ++i) {
      ASSERT_LE(std::fabs(back[i] - values[i]), 0.5f * step * (1 + 0x1p-9f)) << "seed " << seed << " channel " << i;
    }
  }
}

TEST_P(Quantize, ZerosAndConstantGroupsAreExact) {
  const int bits = GetParam();
  for (float constant : {0.0f, -0.0f, 1.5f, -65504.0f, 65504.0f, 0x1p-24f}) {
    const std::vector<float> values(8, constant);
    const Bytes packed = Pack(values, bits);
    for (float value : Unpack(packed, bits, 8)) {
      if (bits == 8) {
        EXPECT_NEAR(value, constant, std::fabs(constant) * 0x1p-8f) << constant;  // the step was rounded up to f16
      } else {
        EXPECT_EQ(value, constant);
      }
    }
    if (bits != 8) {
      EXPECT_EQ(HalfAt(packed, 8 * bits / 8), 0.0f) << "the step of a constant group";
      for (int byte = 0; byte < bits; ++byte) EXPECT_EQ(packed[byte], std::byte{0});
    }
  }
}

TEST_P(Quantize, TheWholeHalfRangeStaysFinite) {
  std::vector<float> values(16, 0.0f);
  values[3] = 65504.0f;
  values[9] = -65504.0f;
  const std::vector<float> back = Unpack(Pack(values, GetParam()), GetParam(), 16);
  const float step = GetParam() == 8 ? 516.0f : 131008.0f / ((1 << GetParam()) - 1);
  for (int i = 0; i < 16; ++i) EXPECT_NEAR(back[i], values[i], 0.5f * step * (1 + 0x1p-9f));
}

TEST_P(Quantize, ValuesBeyondHalfStayFinite) {  // --kv-dtype f32
  const std::vector<float> values{1e30f, -1e30f, 3.0f, 0.0f};
  for (float value : Unpack(Pack(values, GetParam()), GetParam(), 4)) EXPECT_TRUE(std::isfinite(value));
}

TEST(QuantizeInt8, RoundsHalfToEven) {
  const std::vector<float> values{127.0f, 0.5f, 1.5f, -2.5f, -127.0f, 2.5f, 3.5f, -0.5f};  // step 1
  const Bytes packed = Pack(values, 8);
  const std::vector<int> codes{127, 0, 2, -2, -127, 2, 4, 0};
  for (size_t i = 0; i < codes.size(); ++i) EXPECT_EQ(static_cast<int8_t>(packed[i]), codes[i]) << i;
  EXPECT_EQ(HalfAt(packed, 8), 1.0f);
}

TEST(QuantizeAsymmetric, PacksLowerChannelsIntoLowerBitsAndRoundsHalfToEven) {
  const Bytes four = Pack({0, 15, 0.5f, 1.5f, 2.5f, 3.5f, 7, 8}, 4);  // step 1
  EXPECT_EQ(four[0], std::byte{0xf0});
  EXPECT_EQ(four[1], std::byte{0x20});
  EXPECT_EQ(four[2], std::byte{0x42});
  EXPECT_EQ(four[3], std::byte{0x87});
  const Bytes two = Pack({10, 11, 12, 13}, 2);
  EXPECT_EQ(two[0], std::byte{0b11100100});
  EXPECT_EQ(HalfAt(two, 1), 1.0f);
  EXPECT_EQ(HalfAt(two, 3), 10.0f);
}

TEST(QuantizeAsymmetric, StepAndMinimumEncloseTheGroup) {
  for (int seed = 0; seed < 100; ++seed) {
    std::vector<float> values = RandomHalves(32, seed, 3.0f);
    for (float& value : values) value *= 1.0001f;  // no longer halves, as with --kv-dtype f32
    const Bytes packed = Pack(values, 4);
    const float step = HalfAt(packed, 16), minimum = HalfAt(packed, 18);
    EXPECT_LE(minimum, *std::min_element(values.begin(), values.end()));
    EXPECT_GE(minimum + 15 * step * (1 + 0x1p-22f), *std::max_element(values.begin(), values.end()));
  }
}

}  // namespace
}  // namespace kvscope::cpu
