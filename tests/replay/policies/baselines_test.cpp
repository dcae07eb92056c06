// SPDX-License-Identifier: Apache-2.0
// full, random and recent_window.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "tests/support/replay_views.h"

namespace kvscope {
namespace {

using testing::ElementsAre;

const ModelShape kShape{.num_layers = 1, .num_heads = 4, .num_kv_heads = 2, .head_dim_k = 4, .head_dim_v = 4};

TEST(Full, KeepsEverythingAtAnyBudget) {
  const TinyAttention attention = RandomAttention(kShape, 12, 1);
  for (const auto& heads : Play("full", attention, 12, 1)) {
    for (const auto& kept : heads) EXPECT_EQ(kept.size(), 12u);
  }
  EXPECT_TRUE(PolicySpec::Parse("full").Needs(kShape).fixed_rate);
}

TEST(RecentWindow, IsTheNewestTokensAfterEachQuery) {
  const auto moments = Play("recent_window", RandomAttention(kShape, 8, 1), 5, 3);
  EXPECT_THAT(moments[0][0], ElementsAre(2, 3, 4));
  EXPECT_THAT(moments[1][1], ElementsAre(3, 4, 5));
  EXPECT_THAT(moments.back()[0], ElementsAre(5, 6, 7));
}

TEST(Random, DependsOnSeedAndHeadAndNothingElse) {
  const TinyAttention attention = RandomAttention(kShape, 200, 1);
  TinyLayerView view(attention, 0, 200);
  const PerSlot once = PrioritiesAtDecision("random", view, 50), again = PrioritiesAtDecision("random", view, 100);
  EXPECT_EQ(once, again) << "budgets are nested";
  EXPECT_NE(once[0], once[1]);
  view.set_seed(1);
  EXPECT_NE(PrioritiesAtDecision("random", view, 50), once);
}

TEST(Random, DrawsEveryTokenAboutAsOften) {
  const TinyAttention attention = RandomAttention(kShape, 100, 1);
  std::vector<int> times(100);
  for (int seed = 0; seed < 400; ++seed) {
    TinyLayerView view(attention, 0, 100);
    view.set_seed(seed);
    const std::vector<float> priority = PrioritiesAtDecision("random", view, 25)[0];
    const float median = 0.75f;
    for (int token = 0; token < 100; ++token) times[token] += priority[token] > median;
  }
  // 400 draws of probability 1/4: mean 100, standard deviation 8.7; five of them either way.
  EXPECT_GT(*std::min_element(times.begin(), times.end()), 56);
  EXPECT_LT(*std::max_element(times.begin(), times.end()), 144);
}

}  // namespace
}  // namespace kvscope
