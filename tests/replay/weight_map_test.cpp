// SPDX-License-Identifier: Apache-2.0
#include "replay/weight_map.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <random>

namespace kvscope {
namespace {

constexpr int kDim = 16;
constexpr AttentionRule kFull{.scale = 0.25f};

struct Head {
  std::shared_ptr<const KvHeadData> data;
  std::vector<int> q_token;
};

// lse is that of the scores, so that weights sum to one.
Head MakeHead(int tokens, int group, int stride) {
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  auto data = std::make_shared<KvHeadData>();
  Head head;
  for (int token = stride - 1; token < tokens; token += stride) head.q_token.push_back(token);
  data->num_tokens = tokens, data->num_rows = static_cast<int>(head.q_token.size()), data->group = group;
  data->head_dim_k = data->head_dim_v = kDim;
  data->k = Buffer(DType::kF16, static_cast<size_t>(tokens) * kDim);
  data->q = Buffer(DType::kF16, static_cast<size_t>(group) * data->num_rows * kDim);
  for (Half& half : data->k.halves()) half = HalfFromFloat(normal(random) * 1.5f);
  for (Half& half : data->q.halves()) half = HalfFromFloat(normal(random) * 1.5f);
  data->lse.resize(static_cast<size_t>(group) * data->num_rows);
  head.data = data;
  return head;
}

double Score(const Head& head, int member, int row, int token, const AttentionRule& rule = kFull) {
  double score = 0;
  for (int i = 0; i < kDim; ++i) {
    score += double{FloatFromHalf(head.data->q.halves()[(size_t(member) * head.data->num_rows + row) * kDim + i])} *
             FloatFromHalf(head.data->k.halves()[size_t(token) * kDim + i]);
  }
  return rule.Score(score);
}

void FillLse(Head& head, const AttentionRule& rule = kFull) {
  auto data = std::const_pointer_cast<KvHeadData>(head.data);
  for (int member = 0; member < data->group; ++member) {
    for (int row = 0; row < data->num_rows; ++row) {
      double sum = 0;
      for (int token = rule.FirstSeen(head.q_token[row]); token <= head.q_token[row]; ++token)
        sum += std::exp(Score(head, member, row, token, rule));
      data->lse[size_t(member) * data->num_rows + row] = static_cast<float>(std::log(sum));
    }
  }
}

// The definition: the largest weight of a cell's pairs.
std::vector<double> Expected(const Head& head, int member, const WeightMap& map, const AttentionRule& rule = kFull) {
  std::vector<double> cells(size_t(map.rows()) * map.columns(), WeightMap::kNoWeight);
  for (int row = 0; row < map.rows(); ++row) {
    for (size_t i = 0; i < head.q_token.size(); ++i) {
      const int query = head.q_token[i];
      if (query < map.QueryBegin(row) || query >= map.QueryBegin(row + 1)) continue;
      for (int column = 0; column < map.columns(); ++column) {
        double& cell = cells[size_t(row) * map.columns() + column];
        const int begin = std::max(map.TokenBegin(column), rule.FirstSeen(query));
        for (int token = begin; token < std::min(map.TokenBegin(column + 1), query + 1); ++token) {
          const double lse = head.data->lse[size_t(member) * head.data->num_rows + i];
          cell = std::max(cell, std::exp(Score(head, member, static_cast<int>(i), token, rule) - lse));
        }
      }
    }
  }
  return cells;
}

const std::atomic<bool> kGoOn{false};

class WeightMaps : public testing::TestWithParam<MapWindow> {};

TEST_P(WeightMaps, AreThePooledWeightsInTheEnd) {
  for (const int stride : {1, 3}) {
    Head head = MakeHead(700, 2, stride);
    FillLse(head);
    for (const auto& [rows, columns] : {std::pair{13, 9}, {64, 300}, {10000, 10000}}) {
      WeightMap map(head.data, head.q_token, 1, kFull, GetParam(), rows, columns, {});
      while (map.Refine(50, kGoOn)) {
      }
      EXPECT_TRUE(map.is_exact());
      const std::vector<double> expected = Expected(head, 1, map);
      for (size_t i = 0; i < expected.size(); ++i) {
        ASSERT_NEAR(map.cells()[i], expected[i], 1e-5 * std::fabs(expected[i])) << i << " of " << map.columns();
      }
    }
  }
}

TEST_P(WeightMaps, KeepToTheRuleOfTheLayer) {
  for (const AttentionRule& rule : {AttentionRule{.scale = 0.25f, .window = 1},
                                    {.scale = 0.25f, .window = 50},
                                    {.scale = 0.25f, .softcap = 3},
                                    {.scale = 0.25f, .softcap = 50, .window = 300}}) {
    Head head = MakeHead(700, 2, 3);
    FillLse(head, rule);
    const TokenBand bands[] = {{10, 20}, {600, 620}};
    for (const auto& [rows, columns] : {std::pair{13, 9}, {10000, 10000}}) {
      WeightMap map(head.data, head.q_token, 1, rule, GetParam(), rows, columns, bands);
      while (map.Refine(50, kGoOn)) {
      }
      const std::vector<double> expected = Expected(head, 1, map, rule);
      for (size_t i = 0; i < expected.size(); ++i) {
        // A cell that no query sees holds kNoWeight in both; a capped score of up to 50 is off by 6e-7 of it.
        ASSERT_NEAR(map.cells()[i], expected[i], expected[i] < 0 ? 0 : 4e-5 * expected[i])
            << i << " of " << map.columns();
      }
    }
  }
}
INSTANTIATE_TEST_SUITE_P(Windows, WeightMaps,
                         testing::Values(MapWindow{0, 700, 0, 700}, MapWindow{300, 511, 0, 700},
                                         MapWindow{650, 700, 255, 258}, MapWindow{0, 40, 30, 60}));

TEST(WeightMap, SaysWhatIsExactAndIsNeverTooHigh) {
  Head head = MakeHead(900, 1, 1);
  FillLse(head);
  const TokenBand bands[] = {{300, 310}, {880, 900}};
  WeightMap map(head.data, head.q_token, 0, kFull, {0, 900, 0, 900}, 30, 45, bands);
  const std::vector<double> expected = Expected(head, 0, map);
  bool goes_on = true;
  for (int round = 0; goes_on; ++round) {
    goes_on = map.Refine(30, kGoOn);  // first: a query of every row
    int exact = 0;
    for (int row = 0; row < map.rows(); ++row) {
      for (int column = 0; column < map.columns(); ++column) {
        const size_t i = size_t(row) * map.columns() + column;
        ASSERT_LE(map.cells()[i], expected[i] + 1e-5) << "at least, never more";
        if (!map.IsExact(row, column)) continue;
        ++exact;
        ASSERT_NEAR(map.cells()[i], expected[i], 1e-5);
      }
    }
    if (round == 0) {
      EXPECT_TRUE(map.IsExact(3, 300 / 20)) << "a column of a band";
      EXPECT_FALSE(map.IsExact(10, 3));
      EXPECT_GT(exact, 0);
      EXPECT_LT(exact, 30 * 45 / 3);
    }
    if (round == 2) {
      EXPECT_TRUE(map.IsExact(29, 3)) << "the rows of both bands come next";
    }
  }
  EXPECT_EQ(map.progress(), 1);
  EXPECT_NEAR(WeightOfPair(*head.data, 0, 700, 305, kFull), std::exp(Score(head, 0, 700, 305) - head.data->lse[700]),
              1e-6);
}

TEST(WeightMap, KnowsTheLayersWhoseWeightsCannotBeComputed) {
  LayerInfo layer;
  layer.layer = 4, layer.head_dim_k = 64;
  EXPECT_EQ(WhyNoWeights(layer), "");
  layer.kind = "window", layer.window = 512, layer.softcap = 50;
  EXPECT_EQ(WhyNoWeights(layer), "");
  layer.sink = true;
  EXPECT_THAT(WhyNoWeights(layer), testing::HasSubstr("Layer 4 has a learned sink"));
  layer.sink = false, layer.kind = "linear";
  EXPECT_THAT(WhyNoWeights(layer), testing::HasSubstr("Layer 4 uses linear attention"));
}

TEST(WeightMap, StopsWhenCancelled) {
  Head head = MakeHead(300, 1, 1);
  FillLse(head);
  WeightMap map(head.data, head.q_token, 0, kFull, {0, 300, 0, 300}, 30, 30, {});
  const std::atomic<bool> is_cancelled{true};
  EXPECT_TRUE(map.Refine(10, is_cancelled));
  EXPECT_EQ(map.progress(), 0);
  EXPECT_FALSE(map.IsExact(0, 0));
}

}  // namespace
}  // namespace kvscope
