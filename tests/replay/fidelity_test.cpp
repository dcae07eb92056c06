// SPDX-License-Identifier: Apache-2.0
#include "replay/fidelity.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

namespace kvscope {
namespace {

using ::testing::HasSubstr;

NamedArray Kept(std::vector<float> values, int64_t tokens = 4) {
  const auto layers = static_cast<int64_t>(values.size()) / tokens;
  return {"kept", {"layer", "kv_head", "token"}, {layers, 1, tokens}, std::move(values)};
}

TEST(KeptJaccard, CountsSharedOverAllEntries) {
  // Layer 0 shares 1 of 3, layer 1 shares 2 of 2.
  EXPECT_DOUBLE_EQ(*KeptJaccard(Kept({1, 1, 0, 0, 0, 1, 1, 0}), Kept({1, 0, 1, 0, 0, 1, 1, 0})), 0.6);
  EXPECT_DOUBLE_EQ(*KeptJaccard(Kept({1, 1, 0, 0}), Kept({1, 1, 0, 0})), 1);
  EXPECT_DOUBLE_EQ(*KeptJaccard(Kept({1, 1, 0, 0}), Kept({0, 0, 1, 1})), 0);
  EXPECT_DOUBLE_EQ(*KeptJaccard(Kept({0, 0, 0, 0}), Kept({0, 0, 0, 0})), 1);
}

TEST(KeptJaccard, ComparesTokensThatBothHaveAndRefusesOtherShapes) {
  EXPECT_DOUBLE_EQ(*KeptJaccard(Kept({1, 0, 1, 1}), Kept({1, 0, 1}, 3)), 1);
  EXPECT_EQ(KeptJaccard(Kept({1, 0, 1, 1}), Kept({1, 0, 1, 1, 1, 0, 1, 1})), std::nullopt);
}

TEST(Spearman, AgreesWithHandComputedValues) {
  const std::vector<double> x{1, 2, 3, 4, 5}, y{2, 1, 4, 3, 5};  // 1 - 6 * 4 / (5 * 24)
  EXPECT_NEAR(SpearmanCorrelation(x, y)->rho, 0.8, 1e-12);
  const std::vector<double> reversed{5, 4, 3, 2, 1};
  EXPECT_NEAR(SpearmanCorrelation(x, reversed)->rho, -1, 1e-12);
}

TEST(Spearman, SharesRanksOfTies) {
  const std::vector<double> x{1, 2, 2, 3}, y{1, 2, 3, 4};  // ranks 1, 2.5, 2.5, 4: 4.5 / sqrt(4.5 * 5)
  EXPECT_NEAR(SpearmanCorrelation(x, y)->rho, 4.5 / std::sqrt(22.5), 1e-12);
}

TEST(Spearman, SeesOrderOnly) {
  const std::vector<double> x{1, 2, 3, 4}, y{0.001, 0.1, 10, 1e9};
  const auto rank = SpearmanCorrelation(x, y);
  EXPECT_NEAR(rank->rho, 1, 1e-12);
  EXPECT_NEAR(rank->low, 1, 1e-12);  // every resample that is not constant is perfectly ordered
  EXPECT_NEAR(rank->high, 1, 1e-12);
}

TEST(Spearman, IntervalIsRepeatableAndHoldsRho) {
  const std::vector<double> x{1, 2, 3, 4, 5, 6, 7, 8}, y{2, 1, 4, 3, 6, 5, 8, 7};
  const auto first = SpearmanCorrelation(x, y), second = SpearmanCorrelation(x, y);
  EXPECT_EQ(first->low, second->low);
  EXPECT_EQ(first->high, second->high);
  EXPECT_LT(first->low, first->rho);
  EXPECT_GE(first->high, first->rho);
  EXPECT_NE(SpearmanCorrelation(x, y, 2)->low, 2.0);
  EXPECT_EQ(first->n, 8);
}

TEST(Spearman, IsAbsentWhereItHasNoMeaning) {
  const std::vector<double> two{1, 2}, constant{3, 3, 3}, three{1, 2, 3};
  EXPECT_EQ(SpearmanCorrelation(two, two), std::nullopt);
  EXPECT_EQ(SpearmanCorrelation(constant, three), std::nullopt);
}

Results::Row Row(const char* mode, const char* policy, double fraction, double depth, NamedArray kept = {}) {
  Results::Row row;
  row.figures.Set("mode", mode);
  row.figures.Set("policy", policy);
  row.figures.Set("task", "niah");
  row.figures.Set("context", 2048.0);
  row.figures.Set("depth", depth);
  row.figures.Set("seed", 0.0);
  row.figures.Set("keep_fraction_asked", fraction);
  if (!kept.values.empty()) row.arrays.push_back(std::move(kept));
  return row;
}

TEST(Fidelity, PairsRowsOfTheSameRunPolicyAndBudget) {
  Results replay, live;
  replay.rows.push_back(Row("replay", "h2o", 0.5, 0, Kept({1, 1, 0, 0})));
  replay.rows.push_back(Row("replay", "h2o", 0.5, 1, Kept({1, 1, 0, 0})));
  replay.rows.push_back(Row("replay", "h2o", 0.25, 0));
  live.rows.push_back(Row("live", "h2o", 0.5, 1, Kept({1, 0, 1, 0})));
  live.rows.push_back(Row("live", "h2o", 0.5, 0, Kept({1, 1, 0, 0})));
  live.rows.push_back(Row("live", "tova", 0.5, 0));
  replay.rows[0].figures.Set("attention_loss", 0.1);
  replay.rows[1].figures.Set("attention_loss", 0.3);
  live.rows[0].figures.Set("kl", 1.0);
  live.rows[1].figures.Set("kl", 2.0);
  live.rows[0].figures.Set("metric_value", 1.0);
  live.rows[1].figures.Set("metric_value", 0.5);
  live.rows[1].figures.Set("n", 4.0);
  const Fidelity fidelity = CompareFidelity(replay, live);
  ASSERT_EQ(fidelity.pairs.size(), 1u);
  const FidelityPair& pair = fidelity.pairs[0];
  EXPECT_EQ(pair.label, "h2o");
  EXPECT_EQ(pair.budget, "0.5");
  EXPECT_EQ(pair.runs, 2);
  EXPECT_NEAR(*pair.jaccard, (1.0 + 1.0 / 3) / 2, 1e-12);
  EXPECT_NEAR(*pair.jaccard_lowest, 1.0 / 3, 1e-12);
  EXPECT_NEAR(*pair.attention_loss, 0.2, 1e-12);
  EXPECT_NEAR(*pair.kl, 1.5, 1e-12);
  EXPECT_EQ(pair.answer_nll, std::nullopt);
  EXPECT_NEAR(*pair.successes, 3, 1e-12);  // 1 of 1 and 2 of 4
  EXPECT_NEAR(*pair.n, 5, 1e-12);
  EXPECT_EQ(fidelity.replay_without_live, 1);
  EXPECT_EQ(fidelity.live_without_replay, 1);
}

TEST(Fidelity, CorrelatesOverPoliciesWithoutTheFullCache) {
  Results replay, live;
  const char* policies[] = {"full", "a", "b", "c"};
  const double loss[] = {0, 0.3, 0.2, 0.1}, kl[] = {0, 3, 1, 2};  // ranks 3, 2, 1 against 3, 1, 2: 0.5
  for (int i = 0; i < 4; ++i) {
    replay.rows.push_back(Row("replay", policies[i], 0.5, 0));
    replay.rows.back().figures.Set("attention_loss", loss[i]);
    live.rows.push_back(Row("live", policies[i], 0.5, 0));
    live.rows.back().figures.Set("kl", kl[i]);
  }
  const Fidelity fidelity = CompareFidelity(replay, live);
  ASSERT_EQ(fidelity.correlations.size(), 1u);
  EXPECT_EQ(fidelity.correlations[0].replay_figure, "attention_loss");
  EXPECT_EQ(fidelity.correlations[0].live_figure, "kl");
  EXPECT_EQ(fidelity.correlations[0].rank.n, 3);
  EXPECT_NEAR(fidelity.correlations[0].rank.rho, 0.5, 1e-12);
  EXPECT_THAT(FidelityTable(fidelity), HasSubstr("0.50 (95 %"));
}

TEST(Fidelity, LeavesRefusedRowsOut) {
  Results replay, live;
  replay.rows.push_back(Row("replay", "h2o", 0.5, 0));
  live.rows.push_back(Row("live", "h2o", 0.5, 0));
  live.rows[0].figures.Set("refused_reason", "no memory");
  EXPECT_TRUE(CompareFidelity(replay, live).pairs.empty());
}

}  // namespace
}  // namespace kvscope
