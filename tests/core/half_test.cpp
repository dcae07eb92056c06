// SPDX-License-Identifier: Apache-2.0
#include "core/half.h"

#include <gtest/gtest.h>

#include <cmath>

namespace kvscope {
namespace {

TEST(Half, EveryFiniteValueSurvivesARoundTrip) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const Half half{static_cast<uint16_t>(bits)};
    if (std::isnan(FloatFromHalf(half))) continue;
    ASSERT_EQ(HalfFromFloat(FloatFromHalf(half)), half) << bits;
  }
}

TEST(Half, RoundsToNearestEven) {
  EXPECT_EQ(HalfFromFloat(1.0f + 1.0f / 2048).bits, HalfFromFloat(1.0f).bits);                // a tie goes to even
  EXPECT_EQ(HalfFromFloat(1.0f + 3.0f / 2048).bits, HalfFromFloat(1.0f + 2.0f / 1024).bits);  // and up to even
  EXPECT_TRUE(std::isinf(FloatFromHalf(HalfFromFloat(65520.0f))));
}

TEST(Half, BulkFormsEqualTheScalarOnes) {
  std::vector<float> values;
  for (int i = 0; i < 37; ++i) values.push_back(std::ldexp(1.0f + i / 37.0f, i - 18));
  std::vector<Half> halves(values.size());
  HalvesFromFloats(values, halves);
  std::vector<float> back(values.size());
  FloatsFromHalves(halves, back);
  for (size_t i = 0; i < values.size(); ++i) {
    EXPECT_EQ(halves[i], HalfFromFloat(values[i]));
    EXPECT_EQ(back[i], FloatFromHalf(halves[i]));
  }
}

}  // namespace
}  // namespace kvscope
