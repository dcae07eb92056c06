// SPDX-License-Identifier: Apache-2.0
// Policies under trial on the committed trace: what panels get is what replay answers, while choices change.
#include "viewer/policy_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "replay/sweep.h"
#include "viewer/kept_map.h"

namespace kvscope {
namespace {

using testing::HasSubstr;

class PolicyTrial : public testing::Test {
 protected:
  // Frames until nothing is left to do.
  void Settle() {
    const auto begin = std::chrono::steady_clock::now();
    do {
      Frame();
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      ASSERT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(120));
    } while (jobs_.IsBusy());
    Frame();
  }
  void Frame() {
    jobs_.Deliver();
    if (document_.state() == TraceDocument::State::kReady) model_.Update(document_, view_, jobs_);
  }

  Jobs jobs_;
  TraceDocument document_{KVSCOPE_SOURCE_DIR "/traces/needle_512.kvtrace.h5", jobs_};
  PolicyModel model_;
  ViewState view_{.policies = {{"snapkv", 0.25}, {"adkvc", 0.1}}};
};

TEST_F(PolicyTrial, AnswersWhatReplayDoes) {
  Settle();
  SweepOptions sweep;
  sweep.is_bare = true;
  for (int i = 0; i < 2; ++i) {
    const auto outcome = model_.Outcome(i);
    ASSERT_TRUE(outcome && outcome->trial) << i;
    EXPECT_EQ(outcome->failure, "");
    EXPECT_FALSE(model_.IsWorking(i));
    sweep.policies = {view_.policies[i].spec};
    sweep.budgets = {{BudgetSpec::Unit::kFraction, view_.policies[i].keep_fraction}};
    Results results;
    ReplayTrace(document_.reader(), "", sweep, results);
    for (const char* column : {"kept_fraction", "attention_loss", "output_error", "needle_retention", "bits"})
      EXPECT_EQ(outcome->trial->figures.Number(column), results.rows[0].figures.Number(column)) << column;
    // The needle kept, counted by the map's own way, is the decision's in the results.
    const auto retention =
        RetentionAfter(*outcome->history, outcome->needle, outcome->history->plan().request.decision_token - 1);
    double sum = 0;
    for (const float share : retention) sum += share;
    double expected = 0;
    for (const LayerMetrics& layer : outcome->trial->metrics.layers) {
      for (const double share : layer.decision_retention_kv_head) expected += share;
    }
    EXPECT_NEAR(sum, expected, 1e-4);
  }
}

// The answers of a slider that moves with every frame are all of one of its places, and the last is the last place's.
TEST_F(PolicyTrial, FollowsASlider) {
  Settle();
  const auto begin = std::chrono::steady_clock::now();
  int answers = 0, generation = model_.generation();
  for (int frame = 0; answers < 4; ++frame) {  // it shows something while it moves
    view_.policies[0].keep_fraction = 0.9 - 0.001 * (frame % 800);
    Frame();
    answers += model_.generation() != generation;
    generation = model_.generation();
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    ASSERT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(60));
  }
  Settle();
  EXPECT_EQ(model_.Outcome(0)->choice, view_.policies[0]);
  EXPECT_TRUE(model_.Outcome(0)->trial);
}

TEST_F(PolicyTrial, SaysWhatIsWrongWithAPolicyAndGoesOn) {
  view_.policies = {{"snapkw", 0.25}, {"full", 0.25}};
  Settle();
  EXPECT_THAT(model_.Outcome(0)->failure, HasSubstr("did you mean snapkv?"));
  EXPECT_FALSE(model_.Outcome(0)->history);
  EXPECT_TRUE(model_.Outcome(1)->trial);
  view_.policies.erase(view_.policies.begin());
  Settle();
  EXPECT_EQ(model_.Outcome(0)->choice.spec, "full");
  EXPECT_TRUE(model_.Outcome(0)->trial);
  EXPECT_FALSE(model_.Outcome(1));
}

TEST_F(PolicyTrial, WatchesTheMarkedTokenToo) {
  view_.marked_token = 3;
  Settle();
  const auto outcome = model_.Outcome(0);
  EXPECT_EQ(outcome->watched.size(), outcome->needle.size() + 1);
  EXPECT_EQ(outcome->watched[0], 3);
  EXPECT_EQ(outcome->history->plan().watched_tokens, outcome->watched);
}

TEST_F(PolicyTrial, DecidesBeforeTheQuestionToo) {
  view_.protocol = Protocol::kContext;
  Settle();
  const Plan& plan = model_.Outcome(0)->history->plan();
  EXPECT_EQ(plan.request.decision_token, DecisionToken(document_.reader().info(), Protocol::kContext));
  EXPECT_LT(plan.request.decision_token, document_.reader().info().prompt_tokens);
}

TEST(KeptMap, CellsAreMeansAndDifferencesAreToTheFirst) {
  Jobs jobs;
  TraceDocument document(KVSCOPE_SOURCE_DIR "/traces/needle_512.kvtrace.h5", jobs);
  const auto started = std::chrono::steady_clock::now();
  while (document.state() == TraceDocument::State::kLoading) {
    ASSERT_LT(std::chrono::steady_clock::now() - started, std::chrono::seconds(60));
    jobs.Deliver();
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  const int decision = document.reader().info().prompt_tokens;
  Workbench bench(document.reader());
  const auto decide = [&](const char* spec, double keep) {
    return CacheHistory(bench.Decide({PolicySpec::Parse(spec), {BudgetSpec::Unit::kFraction, keep}, {}, decision}, {}),
                        {});
  };
  const CacheHistory recent = decide("recent_window:every=0:growth=append", 0.5), all = decide("full", 1);
  const KeptMap map = MakeKeptMap(recent, decision - 1, 7);
  ASSERT_EQ(map.rows, 9);
  ASSERT_EQ(map.columns, 7);
  for (int column = 0; column < 7; ++column) {
    const int begin = decision * column / 7, end = decision * (column + 1) / 7, first_kept = decision - decision / 2;
    const float share =
        static_cast<float>(std::max(0, end - std::max(begin, first_kept))) / static_cast<float>(end - begin);
    EXPECT_FLOAT_EQ(map.kept[column], share);
    EXPECT_FLOAT_EQ(map.bits[column], 16 * share);
  }
  const KeptMap full = MakeKeptMap(all, decision - 1, 7);
  const HeatmapColors colors{false, 0xffffffff};
  EXPECT_EQ(MakeKeptImage(full, KeptMapKind::kDifference, full, colors).rgba[0], colors.background);
  const Image less = MakeKeptImage(map, KeptMapKind::kDifference, full, colors);
  EXPECT_EQ(less.rgba[0], DifferenceColor(-1, colors));
  EXPECT_NE(less.rgba[0], DifferenceColor(1, colors));
  EXPECT_EQ(less.rgba[6], colors.background);
  EXPECT_EQ(MakeKeptImage(map, KeptMapKind::kKept, full, colors).rgba[0], colors.background);
  EXPECT_EQ(MakeKeptImage(map, KeptMapKind::kKept, full, colors).rgba[6], InkColor(1, false));
  EXPECT_EQ(MakeKeptImage(map, KeptMapKind::kDifference, MakeKeptMap(all, decision - 1, 5), colors).rgba[0],
            colors.background)
      << "maps of different shapes are not compared";
  const LossCount count = CountLosses(recent, std::vector<int>{3, decision - 1}, decision - 1);
  EXPECT_EQ(count.num_entries, 18);
  EXPECT_EQ(count.at_decision, 9);
  EXPECT_EQ(count.later, 0);
  EXPECT_EQ(count.heads_without, 0);
}

}  // namespace
}  // namespace kvscope
