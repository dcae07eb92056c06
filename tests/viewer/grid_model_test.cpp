// SPDX-License-Identifier: Apache-2.0
#include "viewer/grid_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <thread>

#include "core/error.h"
#include "tests/support/core_files.h"

namespace kvscope {
namespace {

using testing::HasSubstr;

constexpr const char* kTrace = KVSCOPE_SOURCE_DIR "/traces/needle_512.kvtrace.h5";

GridRun OneRun(const std::string& id, double context, double depth, double answer) {
  return {.run_id = id, .path = "", .context = context, .depth = depth, .answer_score = answer};
}

TEST(Grid, AveragesRepeatsAndKeepsTheWorstFirst) {
  const std::vector<GridRun> runs{OneRun("a", 512, 0.5, 1), OneRun("b", 512, 0.5, 0), OneRun("c", 256, 0, NAN),
                                  OneRun("d", 512, 0.5, NAN)};
  const Grid grid = GridOf(runs, GridFigure::kAnswer);
  EXPECT_EQ(grid.contexts, (std::vector<double>{256, 512}));
  EXPECT_EQ(grid.depths, (std::vector<double>{0, 0.5}));
  const GridCell& several = grid.At(1, 1);
  EXPECT_DOUBLE_EQ(several.value, 0.5);
  EXPECT_EQ(several.num_values, 2);
  ASSERT_EQ(several.runs.size(), 3u);
  EXPECT_EQ(several.runs[0]->run_id, "b");
  EXPECT_EQ(several.runs[2]->run_id, "d");
  EXPECT_EQ(grid.At(0, 0).num_values, 0) << "a run, but nobody scored it";
  EXPECT_TRUE(std::isnan(grid.At(0, 0).value));
  EXPECT_TRUE(grid.At(0, 1).runs.empty());
  EXPECT_THAT(GridCsv(runs), HasSubstr("\n256,0,c,,,\n"));
}

Results::Row Row(const std::string& mode, double fraction, double retention) {
  Results::Row row;
  row.figures.Set("run_id", "a"), row.figures.Set("policy", "snapkv"), row.figures.Set("mode", mode);
  row.figures.Set("protocol", "prompt"), row.figures.Set("context", 512), row.figures.Set("depth", 0.5);
  row.figures.Set("keep_fraction_asked", fraction), row.figures.Set("needle_retention", retention);
  return row;
}

TEST(Grid, RetentionIsOfThatPolicyAndBudget) {
  Results results;
  results.rows = {Row("replay", 0.5, 0.9), Row("live", 0.25, 0.3), Row("replay", 0.25, 0.4), Row("live", 0.25, 0.2)};
  EXPECT_EQ(RetentionFromRun(results, {"snapkv", 0.25}, Protocol::kPrompt),
            (std::map<std::string, double>{{"a", 0.4}}));
  EXPECT_TRUE(RetentionFromRun(results, {"snapkv", 0.25}, Protocol::kContext).empty());
  EXPECT_TRUE(RetentionFromRun(results, {"h2o", 0.25}, Protocol::kPrompt).empty());
  EXPECT_TRUE(RetentionFromRun(results, {"snapkv", 0.1}, Protocol::kPrompt).empty());
}

TEST(Grid, ReplaysWhatNoResultsSay) {
  const std::atomic<bool> goes_on = false, is_cancelled = true;
  const auto some = ReplayRetention(kTrace, {"snapkv", 0.25}, Protocol::kPrompt, goes_on);
  ASSERT_TRUE(some);
  EXPECT_GT(*some, 0.2);
  EXPECT_LT(*some, 0.6);
  EXPECT_EQ(ReplayRetention(kTrace, {"full", 0.25}, Protocol::kPrompt, goes_on), 1);
  EXPECT_FALSE(ReplayRetention(kTrace, {"snapkv", 0.25}, Protocol::kPrompt, is_cancelled));
  EXPECT_THROW(ReplayRetention(kTrace, {"nothing", 0.25}, Protocol::kPrompt, goes_on), Error);
}

TEST(GridModel, ReadsTracesThenReplaysThemAndSaysWhatItCannotRead) {
  const std::string broken = TempPath("broken.kvtrace.h5");
  WriteFile(broken, "no trace");
  Results results;
  results.rows = {Row("replay", 0.25, 0.4)};
  const GridModel::ResultsList open{std::make_shared<const Results>(results)};
  ViewState view;
  view.policies = {{"snapkv", 0.25}};
  Jobs jobs;
  GridModel model;
  const auto begin = std::chrono::steady_clock::now();
  const auto run = [&] {
    do {
      jobs.Deliver();
      model.Update({kTrace, broken}, open, view, GridFigure::kRetention, jobs);
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    } while (jobs.IsBusy() && std::chrono::steady_clock::now() - begin < std::chrono::seconds(60));
    EXPECT_FALSE(jobs.IsBusy());
  };
  run();
  ASSERT_EQ(model.failures().size(), 1u);
  EXPECT_THAT(model.failures()[0], HasSubstr("broken.kvtrace.h5"));
  ASSERT_EQ(model.runs().size(), 2u) << "the trace's and one that only results know";
  EXPECT_EQ(model.runs()[0].path, kTrace);
  EXPECT_EQ(model.runs()[0].answer_score, 1);
  const double kept = model.runs()[0].retention;
  EXPECT_GT(kept, 0.2);
  EXPECT_EQ(model.runs()[1].retention, 0.4);
  EXPECT_EQ(model.replaying().all, 1u);
  view.policies[0].keep_fraction = 0.1;
  run();
  EXPECT_LT(model.runs()[0].retention, kept);
  EXPECT_TRUE(std::isnan(model.runs()[1].retention));
  // What was replayed is remembered.
  view.policies[0].keep_fraction = 0.25;
  jobs.Deliver();
  model.Update({kTrace, broken}, open, view, GridFigure::kRetention, jobs);
  EXPECT_FALSE(jobs.IsBusy());
  EXPECT_EQ(model.runs()[0].retention, kept);
}

}  // namespace
}  // namespace kvscope
