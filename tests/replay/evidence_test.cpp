// SPDX-License-Identifier: Apache-2.0
#include "replay/evidence.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <tbb/global_control.h>

#include <cmath>
#include <mutex>

#include "core/error.h"
#include "tests/support/core_tiny_trace.h"

namespace kvscope {
namespace {

using Kind = StatisticSpec::Kind;
using testing::HasSubstr;

class EvidenceOf : public testing::TestWithParam<TinyShape> {};

TEST_P(EvidenceOf, EqualsTheColumnsOfExactRows) {
  const TinyShape shape = GetParam();
  const TinyRun run = MakeTinyRun(shape);
  const auto trace = MakeTinyTrace(shape);
  Evidence evidence(*trace, 40);
  const StatisticSpec sum{.kind = Kind::kSum}, last{.kind = Kind::kSum, .last_rows = 5}, max{.kind = Kind::kMax};
  for (const int num_tokens : {40, 35}) {
    for (const StatisticSpec& spec : {sum, last, max}) evidence.Add(spec, num_tokens);
  }
  const std::vector<LayerEvidence> layers = evidence.Compute(0, 2);
  ASSERT_EQ(layers.size(), 2u);
  for (const LayerEvidence& layer : layers) {
    const EvidenceView view(layer, 35, 0);
    for (int head = 0; head < 4; ++head) {
      for (const int num_tokens : {40, 35}) {
        std::vector<double> sums(num_tokens), lasts(num_tokens), largest(num_tokens);
        for (int query = 0; query < num_tokens; ++query) {
          const auto weights =
              ExactWeights(run.info.layers[layer.layer_index], run.layers[layer.layer_index], head, query);
          for (int token = 0; token <= query; ++token) {
            sums[token] += weights[token];
            if (query >= num_tokens - 5) lasts[token] += weights[token];
            largest[token] = std::max(largest[token], weights[token]);
          }
        }
        for (int token = 0; token < num_tokens; ++token) {
          EXPECT_NEAR(layer.Statistic(sum, head, num_tokens)[token], sums[token], 1e-4);
          EXPECT_NEAR(layer.Statistic(last, head, num_tokens)[token], lasts[token], 1e-4);
          EXPECT_NEAR(layer.Statistic(max, head, num_tokens)[token], largest[token], 1e-4);
        }
      }
      EXPECT_EQ(view.Statistic(sum, head).size(), 35u);
    }
  }
}

TEST_P(EvidenceOf, SampledRowsAreTheExactOnes) {
  const TinyRun run = MakeTinyRun(GetParam());
  const auto trace = MakeTinyTrace(GetParam());
  Evidence evidence(*trace, 40);
  std::mutex mutex;
  int rows = 0;
  evidence.SampleRows({3, 20, 39}, [&](int layer, int head, int query, std::span<const float> weights) {
    const std::lock_guard lock(mutex);
    ++rows;
    const std::vector<double> exact = ExactWeights(run.info.layers[layer], run.layers[layer], head, query);
    ASSERT_EQ(weights.size(), exact.size());
    for (size_t token = 0; token < exact.size(); ++token) {
      ASSERT_NEAR(weights[token], exact[token], 1e-5 * exact[token]) << "layer " << layer << ", token " << token;
    }
  });
  evidence.Compute(0, 2);
  EXPECT_EQ(rows, 2 * 4 * 3);
}

const TinyShape kFullShape{.layers = 2, .heads = 4, .kv_heads = 2, .head_dim = 16, .tokens = 40, .steps = 3};
TinyShape WithRule(int window, float softcap) {
  TinyShape shape = kFullShape;
  shape.window = window, shape.softcap = softcap;
  return shape;
}
INSTANTIATE_TEST_SUITE_P(Rules, EvidenceOf,
                         testing::Values(kFullShape, WithRule(8, 0), WithRule(0, 4), WithRule(1, 4), WithRule(13, 50)),
                         [](const auto& test) {
                           return StrCat("window_", test.param.window, "_softcap_",
                                         static_cast<int>(test.param.softcap));
                         });

TEST(Evidence, IsTheSameAtAnyNumberOfThreads) {
  const auto trace = MakeTinyTrace({.layers = 3, .heads = 6, .kv_heads = 2, .head_dim = 16, .tokens = 600, .steps = 0});
  std::vector<std::vector<LayerEvidence>> results;
  for (const int threads : {1, 2, 4}) {
    tbb::global_control control(tbb::global_control::max_allowed_parallelism, threads);
    Evidence evidence(*trace, 600);
    evidence.Add({.kind = Kind::kSum}, 600);
    evidence.Add({.kind = Kind::kGeometric, .half_life = 20}, 500);
    results.push_back(evidence.Compute(0, 3));
  }
  for (size_t i = 1; i < results.size(); ++i) {
    for (int layer = 0; layer < 3; ++layer) EXPECT_EQ(results[i][layer].statistics, results[0][layer].statistics);
  }
}

TEST(Evidence, GivesKeysOnlyWhenAsked) {
  const TinyShape shape{.heads = 4, .kv_heads = 2, .head_dim = 16, .tokens = 20, .steps = 2};
  const TinyRun run = MakeTinyRun(shape);
  const auto trace = MakeTinyTrace(shape);
  Evidence evidence(*trace, 20);
  const auto without = evidence.Compute(0, 1);
  EXPECT_THROW(EvidenceView(without[0], 20, 0).Keys(0), Error);
  EXPECT_THROW(EvidenceView(without[0], 20, 0).Statistic({.kind = Kind::kSum}, 0), Error);
  evidence.KeepRows();
  const auto with = evidence.Compute(0, 1);
  const std::vector<float> keys = EvidenceView(with[0], 18, 0).Keys(1);
  ASSERT_EQ(keys.size(), 18u * 16);
  EXPECT_EQ(keys[17 * 16 + 3], FloatFromHalf(run.layers[0].k.halves()[(22 + 17) * 16 + 3]));
}

TEST(Evidence, MeasuresQueriesBeforeTheDecisionAsScoresSeeThem) {
  const TinyShape shape{.layers = 1, .heads = 4, .kv_heads = 2, .head_dim = 16, .tokens = 40, .steps = 3};
  const TinyRun run = MakeTinyRun(shape);
  const auto trace = MakeTinyTrace(shape);
  Evidence evidence(*trace, 40);
  evidence.KeepRows();
  const LayerEvidence layer = std::move(evidence.Compute(0, 1)[0]);
  const std::span<const Half> q = run.layers[0].q.halves();  // [heads, tokens + steps, head_dim]
  const int rows = 43;
  for (int kv_head = 0; kv_head < 2; ++kv_head) {
    const QueryChannels channels = EvidenceView(layer, 30, 0).Queries(kv_head);
    for (int channel = 0; channel < 16; ++channel) {
      double largest = 0, squares = 0;
      for (int head = 2 * kv_head; head < 2 * kv_head + 2; ++head) {
        for (int token = 0; token < 30; ++token) {
          const double value = run.info.layers[0].scale * FloatFromHalf(q[(head * rows + token) * 16 + channel]);
          largest = std::max(largest, std::fabs(value));
          squares += value * value;
        }
      }
      EXPECT_NEAR(channels.largest[channel], largest, 1e-3 * largest);
      EXPECT_NEAR(channels.rms[channel], std::sqrt(squares / 60), 1e-3 * largest);
    }
  }
}

TEST(Evidence, SaysWhatItCannotReplay) {
  EXPECT_EQ(WhyNotReplayable(*MakeTinyTrace({.head_dim = 16})), "");
  EXPECT_THAT(WhyNotReplayable(*MakeTinyTrace({.head_dim = 8})), HasSubstr("divisible by 16"));
  EXPECT_EQ(WhyNotReplayable(*MakeTinyTrace({.head_dim = 16, .window = 8, .softcap = 30})), "");
  for (const bool has_sink : {true, false}) {
    TinyRun run = MakeTinyRun({.head_dim = 16});
    (has_sink ? run.info.layers[1].sink = true : (run.info.layers[1].kind = "linear", true));
    const auto trace = MakeTraceOf(run);
    EXPECT_THAT(WhyNotReplayable(*trace), HasSubstr(has_sink ? "layer 1: replay does not know attention with a learned "
                                                               "sink"
                                                             : "layer 1: replay does not know linear attention"));
  }
  EXPECT_THAT(WhyNotReplayable(*MakeTinyTrace({.head_dim = 16, .level = TraceLevel::kRelevance})), HasSubstr("level"));
  const auto part = MakeTinyTrace({.head_dim = 16, .tokens = 64, .query_rows = "last:8"});
  EXPECT_EQ(WhyNotReplayable(*part), "");
  EXPECT_EQ(NumTokens(*part), 68);
  EXPECT_EQ(WhyRowsAreMissing(*part, 56, 68), "");
  EXPECT_THAT(WhyRowsAreMissing(*part, 0, 64), HasSubstr("--query-rows last:8"));
}

}  // namespace
}  // namespace kvscope
