// SPDX-License-Identifier: Apache-2.0
// Corners where one published policy is another: if both are right, they keep the same tokens.
#include <gtest/gtest.h>

#include "replay/registry.h"
#include "tests/support/replay_views.h"

namespace kvscope {
namespace {

const ModelShape kShape{.num_layers = 1, .num_heads = 6, .num_kv_heads = 3, .head_dim_k = 8, .head_dim_v = 8};

class Equivalences : public testing::TestWithParam<int> {
 protected:
  TinyAttention attention_ = RandomAttention(kShape, 64, GetParam());
};
INSTANTIATE_TEST_SUITE_P(Seeds, Equivalences, testing::Range(0, 6));

TEST_P(Equivalences, AdkvcWithoutMemoryIsTova) {
  // A half-life of 1/1000 query is alpha = 1. The newest token, which no later query has seen, stays in both.
  EXPECT_EQ(Play("adkvc+uniform/block=1:half_life=0.001:every=1", attention_, 48, 16),
            Play("tova:compat=kvpress", attention_, 48, 16));
}

// With the diagonal the newest token is judged by itself, as TOVA judges it (E1).
TEST_P(Equivalences, AdkvcWithoutMemoryAndWithTheDiagonalIsPlainTova) {
  EXPECT_EQ(Play("adkvc+uniform/block=1:half_life=0.001:every=1:diagonal=on", attention_, 48, 16),
            Play("tova", attention_, 48, 16));
}

// H2O's recent half as a guard (E2).
TEST_P(Equivalences, AdkvcThatSumsPerKvHeadIsH2o) {
  EXPECT_EQ(Play("adkvc+uniform/block=1:tracker=sum:scope=kv_head:diagonal=on:every=1", attention_, 48, 16,
                 {.sinks = 0, .recent = 8}),
            Play("h2o", attention_, 48, 16));
}

// The moving average over w queries tends to SnapKV's window as the half-life does, in what it ranks first.
TEST_P(Equivalences, AdkvcOfOneWindowRanksLikeItsMean) {
  const TinyLayerView view(attention_, 0, 48);
  const PerSlot mean = PrioritiesAtDecision("adkvc+uniform/block=1:tracker=mean:scope=kv_head", view, 16);
  const PerSlot ema = PrioritiesAtDecision("adkvc+uniform/block=1:half_life=1e6:scope=kv_head", view, 16);
  for (int token = 0; token < 47; ++token) EXPECT_NEAR(ema[0][token], mean[0][token], 1e-4 * mean[0][token]) << token;
}

TEST_P(Equivalences, BlocksOfOneTokenAreTokens) {
  EXPECT_EQ(Play("h2o/block=1", attention_, 48, 16), Play("h2o", attention_, 48, 16));
  EXPECT_EQ(Play("tova+lambda/block=1@mixed", attention_, 48, 16), Play("tova+lambda@mixed", attention_, 48, 16));
  EXPECT_NE(Play("adkvc/block=1:every=4", attention_, 48, 16), Play("adkvc:every=4", attention_, 48, 16));
}

TEST_P(Equivalences, LambdaOverSixteenBitsAloneEvictsLikeUniform) {
  const auto lambda = Play("adkvc+lambda/block=1@mixed:ladder=16:floor=0", attention_, 48, 16),
             uniform = Play("adkvc+uniform/block=1@fp16", attention_, 48, 16);
  EXPECT_EQ(lambda[0], uniform[0]);
}

TEST_P(Equivalences, SnapKvOverAllRowsWithoutSmoothingIsH2oOnce) {
  const TinyLayerView view(attention_, 0, 64);
  // A window of all rows protects all tokens, so priorities are compared below the protection: relevance itself.
  const PerSlot h2o = PrioritiesAtDecision("h2o:every=0:recent_fraction=0", view, 16);
  const auto scorer = [&] {
    Params params("test", {{"window", "64"}, {"pool", "1"}});
    return Scorers().at("snapkv").make(params);
  }();
  EXPECT_EQ(scorer->Needs(kShape).statistics[0].last_rows, 64);
  for (int head = 0; head < kShape.num_heads; ++head) {
    const auto all = view.Statistic({.kind = StatisticSpec::Kind::kSum}, head);
    const auto window = view.Statistic(scorer->Needs(kShape).statistics[0], head);
    EXPECT_TRUE(std::equal(all.begin(), all.end(), window.begin()));
  }
  // And where the window is all but the first 32 rows' columns, both rank the first 32 columns alike.
  TinyLayerView halves(kShape, 0, 64);
  for (int head = 0; head < kShape.num_heads; ++head) {
    const auto all = view.Statistic({.kind = StatisticSpec::Kind::kSum}, head);
    halves.Set({.kind = StatisticSpec::Kind::kSum, .last_rows = 32}, head, {all.begin(), all.end()});
  }
  const PerSlot snapkv = PrioritiesAtDecision("snapkv:window=32:pool=1", halves, 16);
  for (int kv_head = 0; kv_head < kShape.num_kv_heads; ++kv_head) {
    for (int token = 0; token < 32; ++token) {
      EXPECT_FLOAT_EQ(snapkv[kv_head][token] * 32, h2o[kv_head][token]);
    }
  }
}

TEST_P(Equivalences, AdaWithTheWholeFloorIsUniform) {
  EXPECT_EQ(Play("snapkv+ada:window=8:alpha=1", attention_, 48, 16), Play("snapkv:window=8", attention_, 48, 16));
  EXPECT_NE(Play("snapkv+ada:window=8:alpha=0", attention_, 48, 16), Play("snapkv:window=8", attention_, 48, 16));
}

TEST_P(Equivalences, PyramidWithoutASlopeIsUniform) {
  EXPECT_EQ(Play("snapkv+pyramid:window=8:beta=1", attention_, 48, 16), Play("snapkv:window=8", attention_, 48, 16));
}

TEST_P(Equivalences, ChunksOfOneTokenAreTokens) {
  EXPECT_EQ(Play("h2o/chunk=1", attention_, 48, 16), Play("h2o", attention_, 48, 16));
}

TEST_P(Equivalences, AFullBudgetKeepsAllBeforeTheDecision) {
  std::vector<int> all(48);
  for (int token = 0; token < 48; ++token) all[token] = token;
  for (const auto& [name, info] : Scorers()) {
    if (info.make_policy) continue;
    const auto moments = Play(name + "+uniform", attention_, 48, 48);
    for (const std::vector<int>& kept : moments[0]) EXPECT_EQ(kept, all) << name;
  }
}

TEST_P(Equivalences, EveryPolicyHoldsItsBudgetAfterEveryQuery) {
  for (const auto& [name, info] : Scorers()) {
    if (info.make_policy || name == "full") continue;
    const PolicySpec spec = PolicySpec::Parse(name + "+uniform");
    const auto moments = Play(spec.text, attention_, 48, 16);
    for (size_t step = 0; step < moments.size(); ++step) {
      for (const std::vector<int>& kept : moments[step]) {
        const size_t appended = spec.growth == Growth::kAppend ? step : step % spec.every;
        EXPECT_EQ(kept.size(), 16 + appended) << name << " after query " << step;
      }
    }
  }
}

}  // namespace
}  // namespace kvscope
