// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/replay_views.h"

namespace kvscope {
namespace {

using testing::ElementsAre;

const ModelShape kShape{.num_layers = 1, .num_heads = 2, .num_kv_heads = 1, .head_dim_k = 4, .head_dim_v = 4};
constexpr StatisticSpec kSum{.kind = StatisticSpec::Kind::kSum};

// Column sums of the two heads have the means 5, 1, 2, 4, 3, 0.5.
TinyLayerView Prompt() {
  TinyLayerView view(kShape, 0, 6);
  view.Set(kSum, 0, {4, 2, 2, 8, 1, 0});
  view.Set(kSum, 1, {6, 0, 2, 0, 5, 1});
  return view;
}

TEST(H2o, KeepsHeavyHittersAndHalfTheBudgetOfRecentTokens) {
  const auto policy = PolicySpec::Parse("h2o").MakePolicy({});
  policy->AfterLayer(Prompt());
  EXPECT_THAT(policy->Select(0, AllocateAll(*policy, kShape, 6, 4)[0])[0].keep, ElementsAre(0, 3, 4, 5));
}

TEST(H2o, AccumulatesTheWeightsOfLaterQueries) {
  const auto policy = PolicySpec::Parse("h2o:recent_fraction=0.25").MakePolicy({});
  policy->AfterLayer(Prompt());
  EXPECT_THAT(policy->Select(0, AllocateAll(*policy, kShape, 6, 4)[0])[0].keep, ElementsAre(0, 3, 4, 5));
  // Sums 5, 4, 3, 0.5; the query gives means 0, 0, 0, 0.4, 0.6: token 5 has 0.9 and goes; only the newest is protected.
  const TinyStepView step(kShape, 0, 6, {{0, 3, 4, 5, 6}}, {{0, 0, 0, 0.8f, 0.2f}, {0, 0, 0, 0, 1}});
  EXPECT_THAT((*policy->AfterStep(step, {4}))[0].keep, ElementsAre(0, 1, 2, 4));
  // Token 6 was given 0.6 then; two queries that want it make it 3.1, above token 4's 3.
  const std::vector<float> wants_six{0, 0, 0, 1, 0};
  policy->AfterStep(TinyStepView(kShape, 0, 7, {{0, 3, 4, 6, 7}}, {wants_six, wants_six}), {4});
  const auto plan = policy->AfterStep(TinyStepView(kShape, 0, 8, {{0, 3, 6, 7, 8}}, {wants_six, wants_six}), {4});
  EXPECT_THAT((*plan)[0].keep, ElementsAre(0, 1, 2, 4)) << "token 7 (0 + 1) goes before token 6 (1.6)";
}

TEST(H2o, ObservedAttentionDividesByTheQueriesThatSawTheToken) {
  const PerSlot priority = PrioritiesAtDecision("observed_attention", Prompt(), 3);
  EXPECT_FLOAT_EQ(priority[0][0], 5.0f / 6);
  EXPECT_FLOAT_EQ(priority[0][3], 4.0f / 3);
  EXPECT_FLOAT_EQ(priority[0][5], 0.5f);
}

}  // namespace
}  // namespace kvscope
