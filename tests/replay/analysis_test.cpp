// SPDX-License-Identifier: Apache-2.0
#include "replay/analysis.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/core_tiny_trace.h"

namespace kvscope {
namespace {

TEST(NeedleAuc, CountsPairsAndHalvesTies) {
  EXPECT_EQ(NeedleAuc(std::vector<float>{1, 2, 3, 4}, std::vector<int>{3}), 1.0);
  EXPECT_EQ(NeedleAuc(std::vector<float>{1, 2, 3, 4}, std::vector<int>{0}), 0.0);
  EXPECT_EQ(NeedleAuc(std::vector<float>{5, 5, 5, 5}, std::vector<int>{1, 2}), 0.5);
  // Pairs (2 against 1, 3), (3 against 1, 3): 1, 0, 1, 1/2.
  EXPECT_EQ(NeedleAuc(std::vector<float>{1, 2, 3, 3}, std::vector<int>{1, 3}), 2.5 / 4);
  EXPECT_EQ(NeedleAuc(std::vector<float>{1, 2}, std::vector<int>{}), 0.5);
  EXPECT_EQ(NeedleAuc(std::vector<float>{1, 2}, std::vector<int>{0, 1}), 0.5);
}

TEST(NeedleTokens, AreThoseOfNeedleSpansBeforeTheEnd) {
  TraceInfo info;
  info.spans = {{"needle", 5, 8, ""}, {"distractor", 0, 3, ""}, {"needle", 7, 10, ""}};
  EXPECT_EQ(NeedleTokens(info, 100), (std::vector<int>{5, 6, 7, 8, 9}));
  EXPECT_EQ(NeedleTokens(info, 7), (std::vector<int>{5, 6}));
}

Results::Trace Analyse(const TraceSource& trace, int layers) {
  Analysis analysis(trace);
  Evidence evidence(trace, analysis.row_end());
  analysis.AddEvidence(evidence);
  for (const LayerEvidence& layer : evidence.Compute(0, layers)) analysis.SeeLayer(layer);
  return analysis.Finish("tiny.kvtrace.h5");
}

constexpr TinyShape kShape{.layers = 3, .heads = 4, .kv_heads = 2, .head_dim = 16, .tokens = 64, .steps = 2};

TEST(Analysis, AucsAreThoseOfTheColumnsBeforeAndAfterTheQuestion) {
  const auto trace = MakeTinyTrace(kShape);
  const TinyRun run = MakeTinyRun(kShape);
  const Results::Trace found = Analyse(*trace, 3);
  const int context_end = 56;
  for (const auto& [name, end] : {std::pair{"needle_auc_sum", 64}, {"needle_auc_sum_before_question", context_end}}) {
    const NamedArray* auc = found.Find(name);
    ASSERT_TRUE(auc) << name;
    EXPECT_EQ(auc->shape, (std::vector<int64_t>{3, 4}));
    for (int head = 0; head < 4; ++head) {
      std::vector<float> sums(context_end);
      for (int query = 0; query < end; ++query) {
        const auto weights = ExactWeights(run.info.layers[2], run.layers[2], head, query);
        for (int token = 0; token <= std::min(query, context_end - 1); ++token) sums[token] += float(weights[token]);
      }
      EXPECT_NEAR(auc->values[2 * 4 + head], NeedleAuc(sums, std::vector<int>{32, 33}), 1e-6) << name;
    }
  }
  for (const char* name : {"last32", "ema64", "max"}) {
    EXPECT_TRUE(found.Find(std::string("needle_auc_") + name)) << name;
    EXPECT_TRUE(found.Find(std::string("needle_auc_") + name + "_before_question")) << name;
  }
  EXPECT_EQ(found.attributes.at("needle_begin"), "32");
  EXPECT_EQ(found.attributes.at("needle_end"), "34");
}

TEST(Analysis, MassByDistanceIsAllOfTheAttention) {
  const auto trace = MakeTinyTrace(kShape);
  const TinyRun run = MakeTinyRun(kShape);
  const Results::Trace found = Analyse(*trace, 3);
  const NamedArray *mass = found.Find("mass_by_distance"), *sink = found.Find("sink_mass");
  ASSERT_TRUE(mass && sink);
  const int64_t bins = mass->shape[1];
  EXPECT_EQ(bins, 7);  // distances up to 63
  std::vector<double> expected(bins);
  double expected_sink = 0;
  for (int query = 0; query < 64; ++query) {  // 64 sampled rows of 64
    for (int head = 0; head < 4; ++head) {
      const auto weights = ExactWeights(run.info.layers[1], run.layers[1], head, query);
      for (int token = 0; token <= query; ++token) {
        int bin = 0;
        while ((1 << bin) <= query - token) ++bin;
        expected[bin] += weights[token] / 64 / 4;
        if (head == 2 && token < 4) expected_sink += weights[token] / 64;
      }
    }
  }
  double total = 0;
  for (int64_t bin = 0; bin < bins; ++bin) {
    EXPECT_NEAR(mass->values[bins + bin], expected[bin], 1e-4);
    total += mass->values[bins + bin];
  }
  EXPECT_NEAR(total, 1, 1e-4);
  EXPECT_NEAR(sink->values[4 + 2], expected_sink, 1e-4);
}

TEST(Analysis, CountsEveryTokenOnce) {
  const auto trace = MakeTinyTrace(kShape);
  const Results::Trace found = Analyse(*trace, 3);
  const NamedArray *needle = found.Find("relevance_needle"), *rest = found.Find("relevance_rest");
  ASSERT_TRUE(needle && rest);
  double needles = 0, others = 0;
  for (const float count : needle->values) needles += count;
  for (const float count : rest->values) others += count;
  EXPECT_EQ(needles, 3 * 4 * 2);
  EXPECT_EQ(others, 3 * 4 * (56 - 2));  // of the context
  const NamedArray* similarity = found.Find("adjacent_similarity");
  ASSERT_TRUE(similarity);
  EXPECT_EQ(similarity->values.size(), 2u);
  for (const float cosine : similarity->values) EXPECT_TRUE(cosine > 0 && cosine <= 1.0001f) << cosine;
}

TEST(Analysis, OfAPartSaysWhatItCan) {
  TinyShape shape = kShape;
  shape.query_rows = "last:40";
  const auto trace = MakeTinyTrace(shape);
  const Results::Trace found = Analyse(*trace, 3);
  EXPECT_TRUE(found.Find("needle_auc_last32"));
  EXPECT_FALSE(found.Find("needle_auc_sum")) << "needs all rows";
}

TEST(Analysis, WithoutANeedleShowsTheDynamics) {
  TinyRun run = MakeTinyRun(kShape);
  run.info.spans.clear();
  MemoryTrace trace(run.info);
  trace.AppendTokens(run.tokens);
  for (size_t i = 0; i < run.layers.size(); ++i) trace.AppendChunk(int(i), 0, run.layers[i]);
  const Results::Trace found = Analyse(trace, 3);
  EXPECT_TRUE(found.Find("mass_by_distance"));
  EXPECT_TRUE(found.Find("adjacent_similarity"));
  EXPECT_FALSE(found.Find("needle_auc_sum"));
  EXPECT_FALSE(found.Find("relevance_rest"));
}

}  // namespace
}  // namespace kvscope
