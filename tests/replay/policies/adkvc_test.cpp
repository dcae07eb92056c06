// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/replay_views.h"

namespace kvscope {
namespace {

using testing::ElementsAre;

const ModelShape kShape{.num_layers = 1, .num_heads = 2, .num_kv_heads = 1, .head_dim_k = 4, .head_dim_v = 4};

TEST(Adkvc, DividesTheAverageByTheWeightOfTheQueriesThatSawTheToken) {
  TinyLayerView view(kShape, 0, 4);
  const StatisticSpec spec{.kind = StatisticSpec::Kind::kGeometric, .min_distance = 1, .half_life = 1};
  view.Set(spec, 0, {0.50f, 0.25f, 0.25f, 0});
  view.Set(spec, 1, {0.25f, 0.25f, 0.50f, 0});  // means 0.375, 0.25, 0.375; a half-life of 1 is alpha = 1/2
  const PerSlot priority = PrioritiesAtDecision("adkvc+uniform/block=1:half_life=1", view, 2);
  EXPECT_FLOAT_EQ(priority[0][0], 0.375f / (1 - 0.125f));
  EXPECT_FLOAT_EQ(priority[0][1], 0.25f / (1 - 0.25f));
  EXPECT_FLOAT_EQ(priority[0][2], 0.375f / (1 - 0.5f));
  EXPECT_EQ(priority[0][3], ProtectedPriority(3)) << "no query has judged it";
}

// E12: the column sum with geometric weights is the recursion, so a decision after the prompt and one after the same
// queries seen step by step agree.
TEST(Adkvc, StepByStepEqualsTheWeightedColumnSum) {
  const TinyAttention attention = RandomAttention(kShape, 40, 3);
  for (const std::string spec : {"adkvc+uniform/block=1:half_life=8", "adkvc+uniform/block=1:half_life=8:gate=3",
                                 "adkvc+uniform/block=1:tracker=max", "adkvc+uniform/block=1:tracker=max:gate=5"}) {
    const auto policy = PolicySpec::Parse(spec + ":every=1:growth=fixed").MakePolicy({});
    policy->AfterLayer(TinyLayerView(attention, 0, 10));
    std::vector<int> budget = AllocateAll(*policy, kShape, 10, 10)[0];
    policy->Select(0, budget);
    std::vector<int> tokens(10);
    for (int token = 0; token < 10; ++token) tokens[token] = token;
    std::optional<LayerPlan> plan;
    for (int query = 10; query < 40; ++query) {
      tokens.push_back(query);
      const int entries = query == 39 ? 20 : 40;  // nothing goes before the last query
      plan = policy->AfterStep(TinyStepView(attention, 0, query, {tokens}), {entries});
    }
    ASSERT_TRUE(plan) << spec;
    const auto at_once = PolicySpec::Parse(spec).MakePolicy({});
    at_once->AfterLayer(TinyLayerView(attention, 0, 40));
    EXPECT_EQ((*plan)[0].keep, at_once->Select(0, AllocateAll(*at_once, kShape, 40, 20)[0])[0].keep) << spec;
  }
}

TEST(Adkvc, TheGateProtectsWhatNobodyFarEnoughHasJudged) {
  const TinyAttention attention = RandomAttention(kShape, 30, 4);
  const TinyLayerView view(attention, 0, 30);
  const PerSlot priority = PrioritiesAtDecision("adkvc+uniform/block=1:tracker=max:gate=6", view, 10);
  for (int token = 0; token < 30; ++token) {
    EXPECT_EQ(priority[0][token] >= kProtectedPriority, token >= 23) << token;
  }
}

TEST(Adkvc, MaximumTakesTheLargestWeightOfAnyHead) {
  TinyLayerView view(kShape, 0, 3);
  const StatisticSpec spec{.kind = StatisticSpec::Kind::kMax, .min_distance = 1};
  view.Set(spec, 0, {0.1f, 0.9f, 0});
  view.Set(spec, 1, {0.3f, 0.2f, 0});
  const PerSlot priority = PrioritiesAtDecision("adkvc+uniform/block=1:tracker=max", view, 2);
  EXPECT_FLOAT_EQ(priority[0][0], 0.3f);
  EXPECT_FLOAT_EQ(priority[0][1], 0.9f);
}

TEST(Adkvc, ScopeDecidesWhetherKvHeadsKeepTheSame) {
  const ModelShape shape{.num_layers = 1, .num_heads = 4, .num_kv_heads = 2, .head_dim_k = 4, .head_dim_v = 4};
  const TinyAttention attention = RandomAttention(shape, 40, 5);
  const auto layer = Play("adkvc+uniform/block=1", attention, 40, 12)[0],
             kv_head = Play("adkvc+uniform/block=1:scope=kv_head", attention, 40, 12)[0];
  EXPECT_EQ(layer[0], layer[1]);
  EXPECT_NE(kv_head[0], kv_head[1]);
}

}  // namespace
}  // namespace kvscope
