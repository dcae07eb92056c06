// SPDX-License-Identifier: Apache-2.0
// Against the definitions, written out in double.
#include "replay/token_map.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/core_tiny_trace.h"

namespace kvscope {
namespace {

// Longer than a tile of tokens; two query heads share a KV head.
const TinyShape kShape{.layers = 1, .head_dim = 16, .tokens = 300, .steps = 7};
const TinyShape kWindowed{.layers = 2, .head_dim = 16, .tokens = 300, .steps = 7, .window = 30, .softcap = 5};
constexpr int kTokens = 307, kKvHead = 1;
constexpr RowReduction kAll[] = {RowReduction::kMax, RowReduction::kMean, RowReduction::kSum, RowReduction::kEma,
                                 RowReduction::kNone};
const std::atomic<bool> kGoOn{false};

// [row][token] of the last layer, zero for tokens that the query does not see.
using Rows = std::vector<std::vector<double>>;
Rows ExactRows(const TinyRun& run, int head, std::span<const int> queries) {
  Rows rows;
  for (const int query : queries) {
    rows.push_back(ExactWeights(run.info.layers.back(), run.layers.back(), head, query));
    rows.back().resize(kTokens);
  }
  return rows;
}

double Reduced(const Rows& rows, int num_rows, int token, RowReduction reduction) {
  double max = 0, sum = 0, ema = 0;
  for (int row = 0; row < num_rows; ++row) {
    const double weight = rows[row][token];
    max = std::max(max, weight);
    sum += weight;
    ema = row == 0 ? weight : 0.9 * ema + 0.1 * weight;
  }
  switch (reduction) {
    case RowReduction::kMax:
      return max;
    case RowReduction::kMean:
      return sum / num_rows;
    case RowReduction::kSum:
      return sum;
    case RowReduction::kEma:
      return ema;
    case RowReduction::kNone:
      break;
  }
  return rows[num_rows - 1][token];
}

// Of the last layer of a trace: one without a rule, or one with a window and a soft cap.
class TokenMaps : public testing::Test {
 protected:
  explicit TokenMaps(const TinyShape& shape = kShape) : run_(MakeTinyRun(shape)), trace_(MakeTinyTrace(shape)) {}

  const TinyRun run_;
  const std::unique_ptr<MemoryTrace> trace_;
  const int layer_ = static_cast<int>(run_.layers.size()) - 1;
  const std::shared_ptr<const KvHeadData> data_ = trace_->ReadKvHead(layer_, kKvHead);
  const AttentionRule rule_ = RuleOf(run_.info.layers[layer_]);

  RecordedRows Recorded(int head) const {
    RecordedRows recorded{.num_steps = kShape.steps, .num_tokens = kTokens, .row_token = {}, .weights = {}};
    for (int step = 0; step < kShape.steps; ++step) {
      const int query = kShape.tokens + step;
      recorded.row_token.push_back(query);
      const auto row = run_.rows[layer_][step].begin() + int64_t{head} * (query + 1);
      recorded.weights.insert(recorded.weights.end(), row, row + query + 1);
      recorded.weights.resize(size_t(step + 1) * kTokens);
    }
    return recorded;
  }
};

class EveryReduction : public TokenMaps, public testing::WithParamInterface<std::tuple<RowReduction, bool>> {
 protected:
  EveryReduction() : TokenMaps(std::get<bool>(GetParam()) ? kWindowed : kShape) {}
  static RowReduction Reduction() { return std::get<RowReduction>(GetParam()); }
};

TEST_P(EveryReduction, ReducesTheRowsThatAsk) {
  const TokenBand askers[] = {{40, 90}, {295, 307}};
  const std::vector<int> rows = ChooseRows(trace_->q_token(layer_), askers);
  ASSERT_EQ(rows.size(), 62u);
  const int members[] = {1, 0};
  const std::vector<float> reduced =
      ReduceRows({*data_, trace_->q_token(layer_), rule_, members, rows}, Reduction(), kGoOn);
  ASSERT_EQ(reduced.size(), 2u * kTokens);
  for (const int place : {0, 1}) {
    const Rows exact = ExactRows(run_, kKvHead * 2 + members[place], rows);  // every row is stored
    for (int token = 0; token < kTokens; ++token) {
      const double expected = Reduced(exact, 62, token, Reduction());
      // f32 scores and lse; sums of 62 rows are in double.
      ASSERT_NEAR(reduced[size_t(place) * kTokens + token], expected, 3e-6 * expected + 1e-9) << place << " " << token;
    }
  }
}

TEST_P(EveryReduction, RunsFromStepToStep) {
  const std::vector<int> rows = {300, 301, 302, 303, 304, 305, 306};
  const int member = 0;
  const Rows exact = ExactRows(run_, kKvHead * 2, rows);
  const RowChoice choice{*data_, trace_->q_token(layer_), rule_, {&member, 1}, rows};
  for (const int rows_per_line : {1, 3}) {
    const TokenLines computed = RunningLines(choice, Reduction(), rows_per_line, kGoOn),
                     recorded = RunningLines(Recorded(kKvHead * 2), rule_, Reduction(), rows_per_line);
    ASSERT_EQ(computed.size(), size_t(7 + rows_per_line - 1) / rows_per_line);
    ASSERT_EQ(recorded.size(), computed.size());
    for (size_t line = 0; line < computed.size(); ++line) {
      const int first = static_cast<int>(line) * rows_per_line, last = std::min(7, first + rows_per_line) - 1;
      ASSERT_EQ(static_cast<int>(computed[line].size()), rows[last] + 1) << "ends with the newest query";
      ASSERT_EQ(recorded[line].size(), computed[line].size());
      const int known = rule_.FirstSeen(Reduction() == RowReduction::kNone ? rows[first] : rows[0]);
      for (int token = 0; token <= rows[last]; ++token) {
        if (token < known) {
          ASSERT_EQ(computed[line][token], WeightMap::kNoWeight) << "no row has seen token " << token;
          ASSERT_EQ(recorded[line][token], WeightMap::kNoWeight);
          continue;
        }
        double expected = 0;
        for (int row = first; row <= last; ++row)
          expected = std::max(expected, Reduced(exact, row + 1, token, Reduction()));
        ASSERT_NEAR(computed[line][token], expected, 3e-6 * expected + 1e-9) << line << " " << token;
        // f16 weights: 11 bits, and steps of 6e-8 near zero, seven of them added.
        ASSERT_NEAR(recorded[line][token], expected, 6e-4 * expected + 5e-7) << line << " " << token;
      }
    }
  }
}

TEST_P(EveryReduction, ReducesRecordedRows) {
  const std::vector<int> rows = {1, 2, 5}, queries = {301, 302, 305};
  const Rows exact = ExactRows(run_, 3, queries);
  const std::vector<float> reduced = ReduceRows(Recorded(3), rows, Reduction());
  for (int token = 0; token < kTokens; ++token) {
    const double expected = Reduced(exact, 3, token, Reduction());
    ASSERT_NEAR(reduced[token], expected, 6e-4 * expected + 5e-7) << token;
  }
}

TEST_F(TokenMaps, ReduceColumnStatistics) {
  const ColumnStatistics columns = ExactColumns(run_, 0, kTokens);
  std::vector<int> queries(kTokens);
  for (int query = 0; query < kTokens; ++query) queries[query] = query;
  const Rows exact = ExactRows(run_, 2, queries);
  for (const RowReduction reduction : {RowReduction::kMax, RowReduction::kMean, RowReduction::kSum}) {
    const std::vector<float> reduced = ReduceRows(columns, 2, reduction);
    for (int token = 0; token < kTokens; ++token) {
      const double expected = Reduced(exact, kTokens, token, reduction);
      ASSERT_NEAR(reduced[token], expected, 1e-6 * expected) << token;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Reductions, EveryReduction, testing::Combine(testing::ValuesIn(kAll), testing::Bool()),
                         [](const auto& test) {
                           return StrCat(kRowReductionNames[static_cast<int>(std::get<0>(test.param))],
                                         std::get<1>(test.param) ? "_windowed" : "");
                         });

TEST(TokenMap, HidesWhatNoQuerySees) {
  std::vector<float> values(12, 0.5f);
  const int queries[] = {3, 9};
  HideUnseen(queries, {.window = 3}, values);
  const float none = WeightMap::kNoWeight;
  EXPECT_EQ(values, (std::vector<float>{none, 0.5f, 0.5f, 0.5f, none, none, none, 0.5f, 0.5f, 0.5f, none, none}));
  std::vector<float> all(4, 0.5f);
  HideUnseen(queries, {}, all);
  EXPECT_EQ(all, std::vector<float>(4, 0.5f)) << "the newest query sees them all";
}

TEST(TokenMap, ChoosesRowsOfTheAskersOrASpreadOfAll) {
  std::vector<int> row_token(10000);
  for (int row = 0; row < 10000; ++row) row_token[row] = 2 * row;  // every other query is stored
  const TokenBand askers[] = {{10, 15}, {19999, 30000}};
  EXPECT_EQ(ChooseRows(row_token, askers), (std::vector<int>{5, 6, 7}));
  const std::vector<int> spread = ChooseRows(row_token, {});
  ASSERT_EQ(static_cast<int>(spread.size()), kMostRows);
  EXPECT_EQ(spread.back(), 9999) << "the newest";
  for (size_t i = 1; i < spread.size(); ++i) ASSERT_LE(std::abs(spread[i] - spread[i - 1] - 4.88), 1);
  EXPECT_EQ(ChooseRows(std::span(row_token).first(3), {}), (std::vector<int>{0, 1, 2}));
  EXPECT_TRUE(ChooseRows({}, {}).empty());
}

TEST(TokenMap, NothingAsksAndNothingRuns) {
  const auto trace = MakeTinyTrace(kShape);
  const auto data = trace->ReadKvHead(0, 0);
  const int member = 0, row = 3;
  EXPECT_EQ(ReduceRows({*data, trace->q_token(0), {.scale = 1}, {&member, 1}, {}}, RowReduction::kMean, kGoOn),
            std::vector<float>(kTokens));
  const std::atomic<bool> is_cancelled{true};
  EXPECT_TRUE(
      ReduceRows({*data, trace->q_token(0), {.scale = 1}, {&member, 1}, {&row, 1}}, RowReduction::kMax, is_cancelled)
          .empty());
  EXPECT_TRUE(RunningLines(RecordedRows{}, {}, RowReduction::kSum, 1).empty());
}

}  // namespace
}  // namespace kvscope
