// SPDX-License-Identifier: Apache-2.0
#include "replay/metrics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "kernels/top_k.h"

namespace kvscope {
namespace {

TEST(MaskedSum, AddsWhatTheMaskLetsThrough) {
  for (const int size : {0, 1, 15, 16, 17, 1000}) {
    std::vector<float> weights, mask;
    double expected = 0;
    for (int i = 0; i < size; ++i) {
      weights.push_back(1.0f / (i + 1));
      mask.push_back(i % 3 == 0 ? 1.0f : 0.0f);
      expected += i % 3 == 0 ? 1.0 / (i + 1) : 0.0;
    }
    EXPECT_NEAR(MaskedSum(weights, mask), expected, 1e-6);
  }
}

TEST(TopTokens, AreTheKLargestAndTiesGoToTheLower) {
  std::mt19937 random(11);
  for (const int size : {1, 3, 63, 64, 65, 1024, 1100, 5000}) {
    for (const int levels : {1, 4, 100000}) {  // few levels: many ties
      std::vector<float> weights;
      for (int i = 0; i < size; ++i) weights.push_back(static_cast<float>(random() % levels) / 7.0f);
      for (const int k : {0, 1, 2, 64}) {
        EXPECT_EQ(TopTokens(weights, k), cpu::TopK(weights, k)) << size << " weights, " << levels << " levels, k " << k;
      }
    }
  }
}

TEST(RelativeError, IsTheDistanceOverTheLength) {
  EXPECT_NEAR(RelativeError(std::vector<float>{3, 4}, std::vector<float>{0, 4}), 0.75, 1e-12);
  EXPECT_EQ(RelativeError(std::vector<float>{0, 0}, std::vector<float>{0, 0}), 0);
}

// One layer, two heads of one KV head, three queries of which the last two are answers.
PlanMetrics Example() {
  PlanMetrics metrics;
  metrics.num_queries = 3, metrics.num_answer_queries = 2, metrics.has_needle = true;
  metrics.num_needle_tokens = 4;
  metrics.shape = {1, 2, 1, 16, 16};
  LayerMetrics layer(metrics.shape, 3);
  layer.loss_head = {0.3, 0.9}, layer.loss_query = {0.2, 0.4, 0.6};
  layer.error_head = {0.6, 0.0}, layer.overlap_head = {3, 1.5};
  layer.needle_weight_head = {0.2, 0.2}, layer.full_needle_weight_head = {0.4, 0.4};
  layer.retention_kv_head = {1.5}, layer.decision_retention_kv_head = {1};
  layer.retention_query = {1, 1, 0.5};
  layer.sees_needle_query = {true, true, true}, layer.sees_needle_at_decision = true;
  layer.bytes_query = {100, 120, 110}, layer.read_bytes_query = {90, 90, 120};
  layer.decision_bytes = 80, layer.decision_entries = 5;
  layer.decision_bits = 5 * 10, layer.decision_needle_bits = 64, layer.needle_bits = 96;
  metrics.layers = {layer};
  return metrics;
}

TEST(PlanMetrics, AveragesOverQueriesAndHeads) {
  ResultRow row;
  std::vector<NamedArray> arrays;
  Example().FillRow(160, row, arrays);
  EXPECT_NEAR(*row.Number("attention_loss"), 1.2 / 6, 1e-12);
  EXPECT_NEAR(*row.Number("output_error"), 0.6 / 6, 1e-12);
  EXPECT_NEAR(*row.Number("topk_overlap"), 4.5 / 6, 1e-12);
  EXPECT_NEAR(*row.Number("needle_retention"), 0.75, 1e-12);
  EXPECT_NEAR(*row.Number("needle_bits"), 12, 1e-12);
  EXPECT_NEAR(*row.Number("bits"), 10, 1e-12);
  EXPECT_NEAR(*row.Number("needle_weight_ratio"), 0.5, 1e-12);
  EXPECT_EQ(*row.Number("needle_first_lost_step"), 2);
  EXPECT_EQ(*row.Number("kept_bytes_prefill"), 80);
  EXPECT_EQ(*row.Number("kept_fraction"), 0.5);
  EXPECT_EQ(*row.Number("kept_bytes_mean"), 110);
  EXPECT_EQ(*row.Number("kept_bytes_peak"), 120);
  EXPECT_EQ(*row.Number("read_bytes_step"), 100);
  EXPECT_EQ(*row.Number("kept_tokens"), 5);
  EXPECT_EQ(*row.Number("metadata_bytes"), 20);
  const auto loss =
      std::find_if(arrays.begin(), arrays.end(), [](const auto& a) { return a.name == "attention_loss"; });
  ASSERT_NE(loss, arrays.end());
  EXPECT_EQ(loss->values, (std::vector<float>{0.1f, 0.3f}));
  const auto step =
      std::find_if(arrays.begin(), arrays.end(), [](const auto& a) { return a.name == "attention_loss_step"; });
  ASSERT_NE(step, arrays.end());
  EXPECT_EQ(step->values, (std::vector<float>{0.1f, 0.2f, 0.3f}));
}

const NamedArray& ArrayOf(const std::vector<NamedArray>& arrays, const std::string& name) {
  return *std::ranges::find(arrays, name, &NamedArray::name);
}

// A second layer whose window leaves the needle after the second query, one that left it before, and all of them.
TEST(PlanMetrics, CountTheNeedleWhereAWindowHoldsIt) {
  PlanMetrics metrics = Example();
  metrics.shape.num_layers = 3;
  metrics.layers.push_back(metrics.layers[0]);
  LayerMetrics& leaves = metrics.layers[1];
  leaves.retention_kv_head = {0.5}, leaves.retention_query = {1, 0.5, 0};
  leaves.needle_bits = 8 * 4;  // of the one answer query that sees it
  leaves.sees_needle_query = {true, true, false};
  metrics.layers.push_back(LayerMetrics(metrics.shape, 3));
  ResultRow row;
  std::vector<NamedArray> arrays;
  metrics.FillRow(160, row, arrays);
  EXPECT_NEAR(*row.Number("needle_retention"), (0.75 + 0.5) / 2, 1e-12);
  EXPECT_NEAR(*row.Number("needle_bits"), (12 + 8) / 2, 1e-12);
  EXPECT_EQ(*row.Number("needle_first_lost_step"), 1);
  const std::vector<float> retention = ArrayOf(arrays, "needle_retention").values;
  EXPECT_EQ(retention[0], 0.75f);
  EXPECT_EQ(retention[1], 0.5f);
  EXPECT_TRUE(std::isnan(retention[2]));
  EXPECT_EQ(ArrayOf(arrays, "needle_retention_step").values, (std::vector<float>{1, 0.75f, 0.5f}));

  for (LayerMetrics& layer : metrics.layers) {
    layer.sees_needle_query.assign(3, false);
    layer.sees_needle_at_decision = false;
  }
  ResultRow passed;
  metrics.FillRow(160, passed, arrays);
  for (const char* column : {"needle_retention", "needle_bits", "needle_first_lost_step"})
    EXPECT_FALSE(passed.Has(column)) << column << ": no layer could have kept it";
}

TEST(PlanMetrics, LeavesOutWhatWasNotMeasured) {
  PlanMetrics metrics = Example();
  metrics.num_queries = metrics.num_answer_queries = 0;
  metrics.layers[0] = LayerMetrics(metrics.shape, 0);
  metrics.layers[0].decision_retention_kv_head = {0.25};
  metrics.layers[0].sees_needle_at_decision = true;
  metrics.layers[0].decision_bytes = 80, metrics.layers[0].decision_entries = 5;
  ResultRow row;
  std::vector<NamedArray> arrays;
  metrics.FillRow(160, row, arrays);
  for (const char* column :
       {"attention_loss", "output_error", "topk_overlap", "kept_bytes_mean", "needle_weight_ratio"}) {
    EXPECT_FALSE(row.Has(column)) << column;
  }
  EXPECT_EQ(*row.Number("needle_retention"), 0.25);
  EXPECT_EQ(*row.Number("needle_first_lost_step"), 0);
  EXPECT_EQ(*row.Number("kept_bytes_peak"), 80);
  metrics.has_needle = false;
  ResultRow without;
  metrics.FillRow(160, without, arrays);
  EXPECT_FALSE(without.Has("needle_retention"));
}

}  // namespace
}  // namespace kvscope
