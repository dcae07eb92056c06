// SPDX-License-Identifier: Apache-2.0
#include "replay/distortion.h"

#include <gtest/gtest.h>

#include "replay/policy_spec.h"

namespace kvscope {
namespace {

constexpr ModelShape kShape{.num_layers = 1, .num_heads = 1, .num_kv_heads = 1, .head_dim_k = 4, .head_dim_v = 4};
constexpr size_t kSixteen = 0, kTwo = 3;  // in the ladder of @mixed

// Two tokens, the second all zeros. The first has k = (0, 0.5, 2, 3) times `key_size` and v = (0, 0, 1.5, 3). At 2 bits
// the steps are 0, 1, 2, 3: 0.5 goes to 0 and 1.5 to 2 (half to even), each off by 0.5. |k|^2 = 13.25, |v|^2 = 11.25
// and half of that around the mean. Queries have a root mean square of 2 in every channel.
class TwoTokens final : public LayerView {
 public:
  explicit TwoTokens(float key_size) : key_size_(key_size) {}
  int layer_index() const override { return 0; }
  const ModelShape& shape() const override { return kShape; }
  int num_tokens() const override { return 2; }
  std::span<const float> Statistic(const StatisticSpec&, int) const override { return {}; }
  std::vector<float> Keys(int) const override {
    return {0, 0.5f * key_size_, 2 * key_size_, 3 * key_size_, 0, 0, 0, 0};
  }
  std::vector<float> Values(int) const override { return {0, 0, 1.5f, 3, 0, 0, 0, 0}; }
  QueryChannels Queries(int) const override { return {std::vector<float>(4, 9.0f), std::vector<float>(4, 2.0f)}; }
  uint64_t seed() const override { return 0; }

 private:
  float key_size_;
};

std::vector<double> Measure(Harm harm, float key_size = 1) {
  return MeasureDistortion(TwoTokens(key_size), 0, *PolicySpec::Parse("adkvc").MakeStore(), {}, harm);
}

constexpr double kRelativeError = (0.25 / 13.25 + 0.25 / 11.25) / 2;

TEST(Distortion, RelativeErrorIsTheMeanOfKeysAndValues) {
  EXPECT_EQ(Measure(Harm::kRelative)[kSixteen], 0);
  EXPECT_NEAR(Measure(Harm::kRelative)[kTwo], kRelativeError, 1e-9);
  EXPECT_NEAR(Measure(Harm::kRelative, 2)[kTwo], kRelativeError, 1e-9) << "whatever the size";
}

TEST(Distortion, HarmToTheOutputCountsScoresAndTheSpreadOfValues) {
  // Mean square of the error in scores: 2^2 * 0.25, in one of two tokens.
  EXPECT_NEAR(Measure(Harm::kOutput)[kTwo], 0.5 + 0.25 / 5.625, 1e-9);
  EXPECT_NEAR(Measure(Harm::kOutput, 2)[kTwo], 4 * 0.5 + 0.25 / 5.625, 1e-9) << "scores grow with the keys";
}

TEST(Distortion, BitsThatLoseTheScoreAreAsBadAsNone) {
  EXPECT_NEAR(Measure(Harm::kCapped)[kTwo], kRelativeError, 1e-9) << "scores are off by 0.5 in the mean square";
  EXPECT_EQ(Measure(Harm::kCapped, 2)[kTwo], 1) << "by 2";
  EXPECT_EQ(Measure(Harm::kCapped, 2)[kSixteen], 0);
}

}  // namespace
}  // namespace kvscope
