// SPDX-License-Identifier: Apache-2.0
// Token x layer and token x step behind their panel, from traces of every level.
#include "viewer/token_map_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "tests/support/core_files.h"
#include "tests/support/core_tiny_trace.h"

namespace kvscope {
namespace {

using testing::HasSubstr;

// A trace looked at until nothing changes any more.
class Shown {
 public:
  Shown(const std::string& path, const ViewState& view) : document_(path, jobs_) { Show(view); }
  void Show(const ViewState& view) {
    const auto begin = std::chrono::steady_clock::now();
    int quiet = 0;
    while (quiet < 3) {
      jobs_.Deliver();
      ASSERT_NE(document_.state(), TraceDocument::State::kFailed) << document_.failure();
      if (document_.state() == TraceDocument::State::kReady) model.Update(document_, view, 300, 200, {}, jobs_);
      quiet = jobs_.IsBusy() ? 0 : quiet + 1;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      ASSERT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(60));
    }
  }
  TokenMapModel model;

 private:
  Jobs jobs_;
  TraceDocument document_;
};

const TinyShape kShape{.layers = 3, .head_dim = 16, .tokens = 64, .steps = 5};

std::string Write(TraceLevel level) {
  TinyShape shape = kShape;
  shape.level = level;
  const std::string path = TempPath(StrCat("map_", static_cast<int>(level), ".kvtrace.h5"));
  WriteTinyTrace(path, shape);
  return path;
}

// Of one layer and token: over heads by `heads`, over queries [query_begin, query_end) by their maximum or mean.
double Expected(const TinyRun& run, int layer, int token, std::span<const int> heads, int query_begin, bool is_mean) {
  double highest = 0;
  for (const int head : heads) {
    double value = 0;
    for (int query = query_begin; query < 69; ++query) {
      if (query < token) continue;
      const double weight = ExactWeights(run.info.layers[layer], run.layers[layer], head, query)[token];
      value = is_mean ? value + weight / (69 - query_begin) : std::max(value, weight);
    }
    highest = std::max(highest, value);
  }
  return highest;
}

TEST(TokenMapModel, ShowsEachLayerAtEveryLevel) {
  const TinyRun run = MakeTinyRun(kShape);
  const int heads[] = {0, 1, 2, 3};
  // Question and answer ask from token 56 on; column statistics know all queries, recorded rows the steps only.
  for (const auto& [level, query_begin, source] :
       {std::tuple{TraceLevel::kQkv, 56, "13 queries of question and answer"},
        {TraceLevel::kRelevance, 0, "all 69 queries"},
        {TraceLevel::kRows, 64, "rows of 5 decode steps"}}) {
    ViewState view{.heatmap_kind = HeatmapKind::kLayer};
    Shown shown(Write(level), view);
    for (const bool is_mean : {false, true}) {
      view.reduction = is_mean ? RowReduction::kMean : RowReduction::kMax;
      shown.Show(view);
      ASSERT_EQ(shown.model.failure(), "");
      ASSERT_EQ(shown.model.num_lines(), 3);
      EXPECT_EQ(shown.model.progress(), 1);
      EXPECT_THAT(shown.model.source(), HasSubstr(source));
      for (const int layer : {0, 2}) {
        for (const int token : {0, 7, 32, 33, 60, 68}) {
          const double expected = Expected(run, layer, token, heads, query_begin, is_mean);
          ASSERT_TRUE(shown.model.ValueOf(layer, token)) << token;
          EXPECT_NEAR(*shown.model.ValueOf(layer, token), expected, 1e-3 * expected + 1e-7) << Name(level) << token;
        }
      }
    }
  }
}

TEST(TokenMapModel, ShowsOneHeadOfEachLayer) {
  const TinyRun run = MakeTinyRun(kShape);
  Shown shown(Write(TraceLevel::kQkv),
              {.head_index = 3, .heatmap_kind = HeatmapKind::kLayer, .layer_heads = LayerHeads::kOne});
  const int heads[] = {3};
  for (const int token : {0, 32, 60}) {
    const double expected = Expected(run, 1, token, heads, 56, false);
    EXPECT_NEAR(shown.model.ValueOf(1, token).value_or(-1), expected, 1e-4 * expected);
  }
}

TEST(TokenMapModel, ShowsEachStep) {
  const TinyRun run = MakeTinyRun(kShape);
  for (const TraceLevel level : {TraceLevel::kQkvRows, TraceLevel::kQkv, TraceLevel::kRows}) {
    Shown shown(
        Write(level),
        {.layer_index = 1, .head_index = 2, .heatmap_kind = HeatmapKind::kStep, .reduction = RowReduction::kNone});
    ASSERT_EQ(shown.model.failure(), "");
    ASSERT_EQ(shown.model.num_lines(), 5);
    for (int step = 0; step < 5; ++step) {
      const std::vector<double> weights = ExactWeights(run.info.layers[1], run.layers[1], 2, 64 + step);
      for (int token = 0; token <= 64 + step; ++token)
        ASSERT_NEAR(shown.model.ValueOf(step, token).value_or(-1), weights[token], 1e-3 * weights[token] + 1e-7);
      EXPECT_FALSE(shown.model.ValueOf(step, 65 + step)) << "not there yet";
    }
    const int generation = shown.model.generation();
    shown.Show({.layer_index = 1,
                .head_index = 2,
                .window = {0, 69, 20, 40},
                .heatmap_kind = HeatmapKind::kStep,
                .reduction = RowReduction::kNone});
    EXPECT_GT(shown.model.generation(), generation);
    EXPECT_EQ(shown.model.range(), (TokenRange{20, 40}));
  }
}

TEST(TokenMapModel, ShowsNothingOutsideAWindow) {
  TinyShape shape = kShape;
  shape.window = 12;  // of layer 1
  const TinyRun run = MakeTinyRun(shape);
  for (const TraceLevel level : {TraceLevel::kQkv, TraceLevel::kRows}) {
    shape.level = level;
    const std::string path = TempPath(StrCat("windowed_", static_cast<int>(level), ".kvtrace.h5"));
    WriteTinyTrace(path, shape);
    Shown steps(path, {.layer_index = 1, .heatmap_kind = HeatmapKind::kStep, .reduction = RowReduction::kNone});
    ASSERT_EQ(steps.model.failure(), "");
    for (int step = 0; step < 5; ++step) {
      const std::vector<double> weights = ExactWeights(run.info.layers[1], run.layers[1], 0, 64 + step);
      for (int token = 0; token <= 64 + step; ++token) {
        const std::optional<float> value = steps.model.ValueOf(step, token);
        ASSERT_EQ(value.has_value(), token > 64 + step - 12) << step << " " << token;
        ASSERT_NEAR(value.value_or(0), weights[token], 1e-3 * weights[token] + 1e-7);
      }
    }
    // Rows of question and answer, 56 .. 68, or of the steps alone.
    const int first_query = level == TraceLevel::kRows ? 64 : 56;
    Shown layers(path, {.heatmap_kind = HeatmapKind::kLayer, .reduction = RowReduction::kMax});
    EXPECT_FALSE(layers.model.ValueOf(1, first_query - 12));
    EXPECT_TRUE(layers.model.ValueOf(1, first_query - 11));
    EXPECT_TRUE(layers.model.ValueOf(0, 0)) << "a layer without a window";
  }
}

TEST(TokenMapModel, SaysWhatATraceCannotShow) {
  EXPECT_THAT(Shown(Write(TraceLevel::kRelevance), {.heatmap_kind = HeatmapKind::kStep}).model.failure(),
              HasSubstr("record with --level rows"));
  EXPECT_THAT(
      Shown(Write(TraceLevel::kRelevance), {.heatmap_kind = HeatmapKind::kLayer, .reduction = RowReduction::kEma})
          .model.failure(),
      HasSubstr("choose another reduction"));
}

}  // namespace
}  // namespace kvscope
