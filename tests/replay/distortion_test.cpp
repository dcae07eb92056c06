// SPDX-License-Identifier: Apache-2.0
#include "replay/distortion.h"

#include <gtest/gtest.h>

#include "tests/support/replay_views.h"

namespace kvscope {
namespace {

constexpr ModelShape kShape{.num_layers = 1, .num_heads = 1, .num_kv_heads = 1, .head_dim_k = 4, .head_dim_v = 4};
constexpr size_t kSixteen = 0, kTwo = 3;  // in the ladder of @mixed

// Keys and values are (0, 0.5, 2, 3) and zeros, times `size`; queries have a root mean square of 1. At 2 bits the steps
// are 0, 1, 2, 3, and 0.5 goes to 0 (half to even): |dk|^2 = 0.25 of |k|^2 = 13.25, the spread around the mean 6.625.
std::vector<double> Measure(Harm harm, double size = 1) {
  TinyAttention attention{kShape, 2, {{{0, 0, 0, 0}, {0, 0, 0, 0}}}, {{{0, 0.5, 2, 3}, {0, 0, 0, 0}}}};
  for (double& value : attention.k[0][0]) value *= size;
  const TinyLayerView view(attention, 0, 2);
  return MeasureDistortion(view, 0, *PolicySpec::Parse("adkvc").MakeStore(), {}, harm);
}

TEST(Distortion, RelativeErrorIsTheMeanOfKeysAndValues) {
  const std::vector<double> distortion = Measure(Harm::kRelative);
  ASSERT_EQ(distortion.size(), 4u);
  EXPECT_EQ(distortion[kSixteen], 0);
  EXPECT_NEAR(distortion[kTwo], 0.25 / 13.25, 1e-9);
  EXPECT_NEAR(Measure(Harm::kRelative, 4)[kTwo], 0.25 / 13.25, 1e-9) << "whatever their size";
}

TEST(Distortion, HarmToTheOutputCountsScoresAndTheSpreadOfValues) {
  EXPECT_NEAR(Measure(Harm::kOutput)[kTwo], 0.25 / 2 + 0.25 / 6.625, 1e-9);
  EXPECT_NEAR(Measure(Harm::kOutput, 4)[kTwo], 16 * 0.25 / 2 + 0.25 / 6.625, 1e-9) << "scores grow with the keys";
}

TEST(Distortion, BitsThatLoseTheScoreAreAsBadAsNone) {
  EXPECT_NEAR(Measure(Harm::kCapped)[kTwo], 0.25 / 13.25, 1e-9) << "scores are off by 0.125 in the mean square";
  EXPECT_EQ(Measure(Harm::kCapped, 4)[kTwo], 1) << "by 2";
  EXPECT_EQ(Measure(Harm::kCapped, 4)[kSixteen], 0);
}

}  // namespace
}  // namespace kvscope
