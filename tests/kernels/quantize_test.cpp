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

struct Code {
  int bits;
  bool symmetric;

  int levels() const { return symmetric ? 127 : (1 << bits) - 1; }
};
constexpr Code kInt8{8, true};
std::ostream& operator<<(std::ostream& out, const Code& code) {
  return out << (code.symmetric ? "symmetric " : "asymmetric ") << code.bits;
}

Bytes Pack(const std::vector<float>& values, Code code) {
  const int channels = static_cast<int>(values.size());
  Bytes packed(code.symmetric ? Int8GroupBytes(channels) : AsymmetricGroupBytes(channels, code.bits));
  code.symmetric ? QuantizeInt8(values, packed.data()) : QuantizeAsymmetric(values, code.bits, packed.data());
  return packed;
}

std::vector<float> Unpack(const Bytes& packed, Code code, size_t channels) {
  std::vector<float> values(channels);
  code.symmetric ? DequantizeInt8(packed.data(), values) : DequantizeAsymmetric(packed.data(), code.bits, values);
  return values;
}

class Quantize : public testing::TestWithParam<Code> {};
constexpr Code kAsymmetric[] = {{2, false}, {4, false}, {8, false}};
INSTANTIATE_TEST_SUITE_P(Codes, Quantize, testing::Values(kAsymmetric[0], kAsymmetric[1], kAsymmetric[2], kInt8));

TEST_P(Quantize, ErrorIsAtMostHalfAStep) {
  for (int seed = 0; seed < 200; ++seed) {
    const float spread = std::ldexp(1.0f, seed % 20 - 8);
    const std::vector<float> values = RandomHalves(std::vector{64, 20, 4, 128, 36}[seed % 5], seed, spread);
    const auto [low, high] = std::minmax_element(values.begin(), values.end());
    const float width = GetParam().symmetric ? std::max(std::fabs(*low), std::fabs(*high)) : *high - *low;
    const float step = width / static_cast<float>(GetParam().levels());
    const std::vector<float> back = Unpack(Pack(values, GetParam()), GetParam(), values.size());
    // Half a step, and the step itself was rounded up to f16: relative 2^-10, and where it is subnormal 2^-24. The rest
    // is f32 rounding.
    for (size_t i = 0; i < values.size(); ++i) {
      ASSERT_LE(std::fabs(back[i] - values[i]), 0.5f * (step * (1 + 0x1p-9f) + 0x1p-24f))
          << "seed " << seed << " channel " << i;
    }
  }
}

TEST_P(Quantize, ZerosAndConstantGroupsAreExact) {
  const int bits = GetParam().bits;
  for (float constant : {0.0f, -0.0f, 1.5f, -65504.0f, 65504.0f, 0x1p-24f}) {
    for (int channels : {8, 64}) {
      const std::vector<float> values(channels, constant);
      const Bytes packed = Pack(values, GetParam());
      for (float value : Unpack(packed, GetParam(), channels)) {
        if (GetParam().symmetric) {
          EXPECT_NEAR(value, constant, std::fabs(constant) * 0x1p-8f) << constant;  // the step was rounded up to f16
        } else {
          EXPECT_EQ(value, constant);
        }
      }
      if (GetParam().symmetric) continue;
      EXPECT_EQ(HalfAt(packed, channels * bits / 8), 0.0f) << "the step of a constant group";
      for (int byte = 0; byte < channels * bits / 8; ++byte) EXPECT_EQ(packed[byte], std::byte{0});
    }
  }
}

TEST_P(Quantize, ZerosOfBothSignsAreOneValue) {
  std::vector<float> values(20, 0.0f);
  for (size_t i = 0; i < values.size(); i += 2) values[i] = -0.0f;
  for (float value : Unpack(Pack(values, GetParam()), GetParam(), values.size())) EXPECT_EQ(value, 0.0f);
}

TEST_P(Quantize, TheWholeHalfRangeStaysFinite) {
  std::vector<float> values(36, 0.0f);
  values[3] = values[34] = 65504.0f;
  values[9] = values[33] = -65504.0f;
  values[20] = 0x1p-24f;
  const std::vector<float> back = Unpack(Pack(values, GetParam()), GetParam(), values.size());
  const float step = GetParam().symmetric ? 516.0f : 131008.0f / static_cast<float>(GetParam().levels());
  for (int i = 0; i < 36; ++i) EXPECT_NEAR(back[i], values[i], 0.5f * step * (1 + 0x1p-9f));
}

TEST_P(Quantize, TheSmallestHalvesStayApart) {
  std::vector<float> values(16, 0.0f);
  values[1] = 0x1p-24f;
  const std::vector<float> back = Unpack(Pack(values, GetParam()), GetParam(), values.size());
  EXPECT_EQ(back, values) << "the step is the smallest half";
}

TEST_P(Quantize, ValuesBeyondHalfStayFinite) {  // --kv-dtype f32
  for (const std::vector<float>& values :
       {std::vector<float>{1e30f, -1e30f, 3.0f, 0.0f}, std::vector<float>{3e38f, -3e38f, 1e-45f, 0.0f},
        std::vector<float>{0.0f, 1e-45f, 1e-40f, 0.0f}, std::vector<float>(32, 1e30f)}) {
    for (float value : Unpack(Pack(values, GetParam()), GetParam(), values.size())) {
      EXPECT_TRUE(std::isfinite(value));
    }
  }
}

TEST(QuantizeInt8, RoundsHalfToEven) {
  const std::vector<float> values{127.0f, 0.5f, 1.5f, -2.5f, -127.0f, 2.5f, 3.5f, -0.5f};  // step 1
  const Bytes packed = Pack(values, kInt8);
  const std::vector<int> codes{127, 0, 2, -2, -127, 2, 4, 0};
  for (size_t i = 0; i < codes.size(); ++i) EXPECT_EQ(static_cast<int8_t>(packed[i]), codes[i]) << i;
  EXPECT_EQ(HalfAt(packed, 8), 1.0f);
}

TEST(QuantizeAsymmetric, PacksLowerChannelsIntoLowerBitsAndRoundsHalfToEven) {
  const Bytes four = Pack({0, 15, 0.5f, 1.5f, 2.5f, 3.5f, 7, 8}, kAsymmetric[1]);  // step 1
  EXPECT_EQ(four[0], std::byte{0xf0});
  EXPECT_EQ(four[1], std::byte{0x20});
  EXPECT_EQ(four[2], std::byte{0x42});
  EXPECT_EQ(four[3], std::byte{0x87});
  const Bytes two = Pack({10, 11, 12, 13}, kAsymmetric[0]);
  EXPECT_EQ(two[0], std::byte{0b11100100});
  EXPECT_EQ(HalfAt(two, 1), 1.0f);
  EXPECT_EQ(HalfAt(two, 3), 10.0f);
  const Bytes eight = Pack({0, 255, 0.5f, 1.5f, 2.5f, 253.5f, 254.5f, 7}, kAsymmetric[2]);
  const std::vector<int> codes{0, 255, 0, 2, 2, 254, 254, 7};
  for (size_t i = 0; i < codes.size(); ++i) EXPECT_EQ(static_cast<int>(eight[i]), codes[i]) << i;
  EXPECT_EQ(HalfAt(eight, 8), 1.0f);
  EXPECT_EQ(HalfAt(eight, 10), 0.0f);
}

// Sixteen and more channels take another way through the code than four.
TEST(QuantizeAsymmetric, EveryChannelIsThePlainFormula) {
  for (int seed = 0; seed < 300; ++seed) {
    const int bits = std::vector{2, 4, 8}[seed % 3], channels = 4 * (1 + seed % 37);
    std::vector<float> values = RandomHalves(channels, seed, std::ldexp(1.0f, seed % 24 - 12));
    if (seed % 4 == 0) {
      for (float& value : values) value = std::round(value * 2) / 2;  // ties
    }
    const Bytes packed = Pack(values, {bits, false});
    const float step = HalfAt(packed, channels * bits / 8), minimum = HalfAt(packed, channels * bits / 8 + 2);
    const std::vector<float> back = Unpack(packed, {bits, false}, channels);
    for (int i = 0; i < channels; ++i) {
      const int code = static_cast<int>(packed[i * bits / 8]) >> (i * bits % 8) & ((1 << bits) - 1);
      const float nearest = step > 0 ? std::nearbyint((values[i] - minimum) / step) : 0;
      ASSERT_EQ(code, std::clamp(nearest, 0.0f, static_cast<float>((1 << bits) - 1))) << "seed " << seed << " " << i;
      ASSERT_EQ(back[i], static_cast<float>(code) * step + minimum) << "seed " << seed << " channel " << i;
    }
  }
}

TEST(QuantizeAsymmetric, StepAndMinimumEncloseTheGroup) {
  for (int seed = 0; seed < 300; ++seed) {
    const Code code = kAsymmetric[seed % 3];
    std::vector<float> values = RandomHalves(32, seed, 3.0f);
    for (float& value : values) value *= 1.0001f;  // no longer halves, as with --kv-dtype f32
    const Bytes packed = Pack(values, code);
    const float step = HalfAt(packed, 4 * code.bits), minimum = HalfAt(packed, 4 * code.bits + 2);
    EXPECT_LE(minimum, *std::min_element(values.begin(), values.end()));
    EXPECT_GE(minimum + static_cast<float>(code.levels()) * step * (1 + 0x1p-22f),
              *std::max_element(values.begin(), values.end()));
  }
}

TEST(QuantizeAsymmetric, TakesNoOtherBits) {
  Bytes packed(16);
  EXPECT_DEATH(QuantizeAsymmetric(std::vector<float>(8), 3, packed.data()), "check failed");
}

TEST(QuantizeColumns, IsTheGroupOfEachColumn) {
  for (int seed = 0; seed < 60; ++seed) {
    const ColumnGroups shape{std::vector{32, 16, 4, 128}[seed % 4], std::vector{64, 80, 4, 20, 160}[seed % 5],
                             std::vector{2, 4, 8}[seed % 3]};
    std::vector<float> values = RandomHalves(shape.rows * shape.columns, seed, 3.0f);
    for (int row = 0; row < shape.rows; ++row) values[row * shape.columns + 1] = 1.5f;  // a constant column
    ASSERT_EQ(shape.bytes(), shape.columns * AsymmetricGroupBytes(shape.rows, shape.bits));
    Bytes packed(shape.bytes());
    QuantizeColumns(shape, values.data(), packed.data());
    std::vector<float> back(values.size());
    DequantizeColumns(shape, packed.data(), 0, shape.rows, back.data());
    for (int column = 0; column < shape.columns; ++column) {
      std::vector<float> group(shape.rows);
      for (int row = 0; row < shape.rows; ++row) group[row] = values[row * shape.columns + column];
      const Code code{shape.bits, false};
      const std::vector<float> expected = Unpack(Pack(group, code), code, group.size());
      for (int row = 0; row < shape.rows; ++row) ASSERT_EQ(back[row * shape.columns + column], expected[row]);
    }
    std::vector<float> some(2 * shape.columns);
    DequantizeColumns(shape, packed.data(), shape.rows - 3, 2, some.data());
    EXPECT_EQ(some, std::vector<float>(back.end() - 3 * shape.columns, back.end() - shape.columns));
  }
}

}  // namespace
}  // namespace kvscope::cpu
