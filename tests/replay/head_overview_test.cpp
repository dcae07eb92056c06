// SPDX-License-Identifier: Apache-2.0
#include "replay/head_overview.h"

#include <gtest/gtest.h>

#include <cmath>

namespace kvscope {
namespace {

constexpr int kDim = 16, kTokens = 200;
const std::atomic<bool> kGoOn{false};

// Head 0 looks at token 0, head 1 at itself, head 2 evenly at all: keys are one-hot in three dims.
KvHeadData MakeGroup(const AttentionRule& rule = {}) {
  KvHeadData data;
  data.num_tokens = data.num_rows = kTokens, data.group = 3, data.head_dim_k = data.head_dim_v = kDim;
  data.k = Buffer(DType::kF16, size_t(kTokens) * kDim);
  data.q = Buffer(DType::kF16, size_t(3) * kTokens * kDim);
  data.k.halves()[0] = HalfFromFloat(1);
  for (int token = 0; token < kTokens; ++token) {
    data.k.halves()[size_t(token) * kDim + 1] = HalfFromFloat(static_cast<float>(token));
    data.q.halves()[size_t(token) * kDim] = HalfFromFloat(30);
    data.q.halves()[size_t(kTokens + token) * kDim + 1] = HalfFromFloat(30);
  }
  for (int head = 0; head < 3; ++head) {
    for (int query = 0; query < kTokens; ++query) {
      // log sum exp of the scores: head 0 has 30 for token 0, head 1 30 times the token, head 2 zeros.
      double sum = 0;
      for (int token = rule.FirstSeen(query); token <= query; ++token) {
        const double score = head == 0 ? (token == 0 ? 30 : 0) : head == 1 ? 30.0 * token : 0;
        sum += std::exp(score - (head == 0 ? 30 : head == 1 ? 30.0 * query : 0));
      }
      data.lse.push_back(static_cast<float>(std::log(sum) + (head == 0 ? 30 : head == 1 ? 30.0 * query : 0)));
    }
  }
  return data;
}

std::vector<int> Numbers() {
  std::vector<int> numbers;
  for (int i = 0; i < kTokens; ++i) numbers.push_back(i);
  return numbers;
}

TEST(HeadOverview, TellsSinksFromLocalAndEvenHeads) {
  const TokenBand needle[] = {{0, 1}}, askers[] = {{190, 200}};
  const auto heads = OverviewOfKvHead(MakeGroup(), Numbers(), {.scale = 1}, 20, needle, askers, kGoOn);
  ASSERT_EQ(heads.size(), 3u);
  EXPECT_NEAR(heads[0].sink, 1, 1e-3);
  EXPECT_NEAR(heads[0].needle, 1, 1e-3);
  EXPECT_NEAR(heads[0].entropy, 0, 1e-3);
  EXPECT_NEAR(heads[1].local, 1, 1e-3);
  EXPECT_NEAR(heads[1].needle, 0, 1e-3);
  EXPECT_GT(heads[2].entropy, 3);
  EXPECT_LT(heads[2].entropy, std::log(200));
  EXPECT_NEAR(heads[2].needle, 1 / 195.5, 2e-4) << "the mean of 1 / (query + 1)";
  const auto cell = [&](int head, int row, int column) { return heads[head].cells[size_t(row) * 20 + column]; };
  EXPECT_NEAR(cell(0, 19, 0), 1, 1e-3);
  EXPECT_NEAR(cell(1, 7, 7), 1, 1e-3);
  EXPECT_NEAR(cell(2, 19, 3), 1 / 200.0, 1e-4);
  EXPECT_EQ(cell(2, 3, 19), WeightMap::kNoWeight);
}

TEST(HeadOverview, SeesNothingOutsideTheWindow) {
  const AttentionRule rule{.scale = 1, .window = 10};
  const TokenBand needle[] = {{100, 193}}, askers[] = {{190, 200}};
  const auto heads = OverviewOfKvHead(MakeGroup(rule), Numbers(), rule, 20, needle, askers, kGoOn);
  ASSERT_EQ(heads.size(), 3u);
  EXPECT_NEAR(heads[2].entropy, std::log(10), 0.05) << "even over ten tokens, but for the first rows";
  EXPECT_NEAR(heads[2].local, 1, 1e-3);
  // Query 190 sees 181 .. 190, all of them before 193; query 199 sees 190 .. 199, three of them.
  EXPECT_NEAR(heads[2].needle, (10 + 10 + 10 + 9 + 8 + 7 + 6 + 5 + 4 + 3) / 100.0, 1e-3);
  for (int row = 0; row < 20; ++row) {
    for (int column = 0; column < 20; ++column) {
      // A row of cells stands for its last query, 9 of whose ten tokens lie in the same ten, or all of them.
      const float expected = column == row ? 0.1f : WeightMap::kNoWeight;
      EXPECT_NEAR(heads[2].cells[size_t(row) * 20 + column], expected, 1e-3) << row << " " << column;
    }
  }
  const std::vector<float> means = MeanWeights(MakeGroup(rule), Numbers(), 2, rule, askers, kGoOn);
  EXPECT_EQ(means[180], 0);
  EXPECT_NEAR(means[190], 0.1, 1e-4);
  EXPECT_NEAR(means[181], 0.01, 1e-4);
}

TEST(MeanWeights, AreThoseOfTheRowsThatAsk) {
  const TokenBand askers[] = {{150, 151}, {199, 200}};
  const std::vector<float> even = MeanWeights(MakeGroup(), Numbers(), 2, {.scale = 1}, askers, kGoOn);
  ASSERT_EQ(even.size(), size_t{kTokens});
  EXPECT_NEAR(even[10], (1 / 151.0 + 1 / 200.0) / 2, 1e-6);
  EXPECT_NEAR(even[180], 1 / 200.0 / 2, 1e-6) << "150 does not see it";
  const std::vector<float> sink = MeanWeights(MakeGroup(), Numbers(), 0, {.scale = 1}, askers, kGoOn);
  EXPECT_NEAR(sink[0], 1, 1e-3);
  EXPECT_EQ(MeanWeights(MakeGroup(), Numbers(), 0, {.scale = 1}, {}, kGoOn), std::vector<float>(kTokens));
}

TEST(HeadOverview, HasNoNeedleWithoutOneAndStopsWhenCancelled) {
  const auto heads = OverviewOfKvHead(MakeGroup(), Numbers(), {.scale = 1}, 300, {}, {}, kGoOn);
  EXPECT_TRUE(std::isnan(heads[0].needle));
  EXPECT_EQ(heads[0].size, kTokens) << "no more cells than tokens";
  const std::atomic<bool> is_cancelled{true};
  EXPECT_TRUE(OverviewOfKvHead(MakeGroup(), Numbers(), {.scale = 1}, 20, {}, {}, is_cancelled).empty());
}

}  // namespace
}  // namespace kvscope
