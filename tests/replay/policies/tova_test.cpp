// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/replay_views.h"

namespace kvscope {
namespace {

using testing::ElementsAre;

const ModelShape kShape{.num_layers = 1, .num_heads = 4, .num_kv_heads = 2, .head_dim_k = 4, .head_dim_v = 4};
constexpr StatisticSpec kLastRow{.kind = StatisticSpec::Kind::kSum, .last_rows = 1};

TinyLayerView Prompt() {
  TinyLayerView view(kShape, 0, 4);
  view.Set(kLastRow, 0, {0.7f, 0.1f, 0.1f, 0.1f});
  view.Set(kLastRow, 1, {0.1f, 0.1f, 0.7f, 0.1f});
  view.Set(kLastRow, 2, {0.1f, 0.5f, 0.4f, 0.0f});
  view.Set(kLastRow, 3, {0.1f, 0.5f, 0.4f, 0.0f});  // means 0.25, 0.3, 0.4, 0.05
  return view;
}

TEST(Tova, KeepsWhatTheLastRowLikesOnAverageOverTheLayer) {
  const auto policy = PolicySpec::Parse("tova").MakePolicy({});
  policy->AfterLayer(Prompt());
  const LayerPlan plan = policy->Select(0, AllocateAll(*policy, kShape, 4, 2)[0]);
  EXPECT_THAT(plan[0].keep, ElementsAre(1, 2));
  EXPECT_THAT(plan[1].keep, ElementsAre(1, 2));
}

TEST(Tova, ForgetsEarlierRowsAndMayDropTheNewestToken) {
  const auto policy = PolicySpec::Parse("tova").MakePolicy({});
  policy->AfterLayer(Prompt());
  policy->Select(0, AllocateAll(*policy, kShape, 4, 2)[0]);
  const std::vector<float> row{0.3f, 0.6f, 0.1f};
  const TinyStepView step(kShape, 0, 4, {{1, 2, 4}, {1, 2, 4}}, {row, row, row, row});
  EXPECT_THAT((*policy->AfterStep(step, {2, 2}))[0].keep, ElementsAre(0, 1));
  const std::vector<float> next{0.5f, 0.1f, 0.4f};
  const TinyStepView later(kShape, 0, 5, {{1, 2, 5}, {1, 2, 5}}, {next, next, next, next});
  EXPECT_THAT((*policy->AfterStep(later, {2, 2}))[1].keep, ElementsAre(0, 2)) << "token 2's 0.6 is forgotten";
}

TEST(Tova, UnderKvpressTheLastTokenSurvives) {
  const auto policy = PolicySpec::Parse("tova:compat=kvpress").MakePolicy({});
  policy->AfterLayer(Prompt());
  EXPECT_THAT(policy->Select(0, AllocateAll(*policy, kShape, 4, 2)[0])[0].keep, ElementsAre(2, 3));
}

}  // namespace
}  // namespace kvscope
