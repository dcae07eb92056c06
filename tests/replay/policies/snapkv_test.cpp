// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/replay_views.h"

namespace kvscope {
namespace {

using testing::ElementsAre;
using testing::FloatEq;

const ModelShape kShape{.num_layers = 1, .num_heads = 2, .num_kv_heads = 1, .head_dim_k = 4, .head_dim_v = 4};

// Window sums over eight tokens, a window of two: heads differ, so that the order of pooling and reduction shows.
TinyLayerView Prompt(int window = 2) {
  TinyLayerView view(kShape, 0, 8);
  const StatisticSpec spec{.kind = StatisticSpec::Kind::kSum, .last_rows = window};
  view.Set(spec, 0, {6, 0, 0, 0, 3, 0, 9, 9});
  view.Set(spec, 1, {0, 3, 0, 0, 0, 6, 9, 9});
  return view;
}

std::vector<float> FirstSix(const std::string& parameters) {
  const PerSlot priority = PrioritiesAtDecision("snapkv:window=2:" + parameters, Prompt(), 4);
  EXPECT_EQ(priority[0][6], ProtectedPriority(6));
  EXPECT_EQ(priority[0][7], ProtectedPriority(7));
  return {priority[0].begin(), priority[0].begin() + 6};
}

TEST(SnapKv, SmoothsOverColumnsLeftOfTheWindowAndDividesByThePoolAtBordersToo) {
  // Head 0 pooled by 3: 2 2 0 1 1 1; head 1: 1 1 1 0 2 2; mean, over a window of 2.
  EXPECT_THAT(FirstSix("pool=3"), ElementsAre(0.75f, 0.75f, 0.25f, 0.25f, 0.75f, 0.75f));
}

TEST(SnapKv, MaximumPoolingAndTheOrderOfReduction) {
  // Head 0 by max: 6 6 0 3 3 3; head 1: 3 3 3 0 6 6.
  EXPECT_THAT(FirstSix("pool=3:pooling=max"), ElementsAre(2.25f, 2.25f, 0.75f, 0.75f, 2.25f, 2.25f));
  // The mean first: 3 1.5 0 0 1.5 3, its maxima 3 3 1.5 1.5 3 3.
  EXPECT_THAT(FirstSix("pool=3:pooling=max:order=reduce_first"), ElementsAre(1.5f, 1.5f, 0.75f, 0.75f, 1.5f, 1.5f));
  EXPECT_THAT(FirstSix("pool=1:reduce=max"), ElementsAre(3, 1.5f, 0, 0, 1.5f, 3));
  EXPECT_THAT(FirstSix("pool=1:reduce=sum"), ElementsAre(3, 1.5f, 0, 0, 1.5f, 3));
}

TEST(SnapKv, KeepsTheWindowFirstAndItsNewestPartWhenTheBudgetIsSmall) {
  const auto kept = [](int entries) {
    const auto policy = PolicySpec::Parse("snapkv:window=2:pool=1").MakePolicy({});
    policy->AfterLayer(Prompt());
    return policy->Select(0, AllocateAll(*policy, kShape, 8, entries)[0])[0].keep;
  };
  EXPECT_THAT(kept(1), ElementsAre(7));
  EXPECT_THAT(kept(2), ElementsAre(6, 7));
  EXPECT_THAT(kept(4), ElementsAre(0, 5, 6, 7));
}

TEST(SnapKv, APromptShorterThanTheWindowKeepsItsNewestTokens) {
  const auto policy = PolicySpec::Parse("snapkv").MakePolicy({});
  policy->AfterLayer(Prompt(32));
  EXPECT_THAT(policy->Select(0, AllocateAll(*policy, kShape, 8, 3)[0])[0].keep, ElementsAre(5, 6, 7));
}

TEST(SnapKv, GuardsHoldAgainstItsOwnWindow) {
  const auto policy = PolicySpec::Parse("snapkv:window=2:pool=1").MakePolicy({.sinks = 2, .recent = 0});
  policy->AfterLayer(Prompt());
  EXPECT_THAT(policy->Select(0, AllocateAll(*policy, kShape, 8, 3)[0])[0].keep, ElementsAre(0, 1, 7));
}

}  // namespace
}  // namespace kvscope
