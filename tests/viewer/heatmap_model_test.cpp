// SPDX-License-Identifier: Apache-2.0
// Documents and the heatmap behind its panel, without a window.
#include "viewer/heatmap_model.h"

#include <gtest/gtest.h>

#include <chrono>
#include <fstream>
#include <thread>

#include "core/error.h"

namespace kvscope {
namespace {

const std::string kTrace = KVSCOPE_SOURCE_DIR "/traces/needle_512.kvtrace.h5";

// Frames until nothing runs any more.
template <typename Frame>
void Settle(Jobs& jobs, const Frame& frame) {
  const auto begin = std::chrono::steady_clock::now();
  do {
    jobs.Deliver();
    frame();
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    ASSERT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(60));
  } while (jobs.IsBusy());
}

TEST(TraceDocument, OpensATraceBesideTheFrames) {
  Jobs jobs;
  TraceDocument document(kTrace, jobs);
  EXPECT_EQ(document.state(), TraceDocument::State::kLoading);
  Settle(jobs, [] {});
  ASSERT_EQ(document.state(), TraceDocument::State::kReady) << document.failure();
  EXPECT_GT(document.num_tokens(), 500);
  EXPECT_FALSE(document.facts().empty());
  bool has_needle = false;
  for (const LabelledBand& band : document.bands()) has_needle |= band.kind == "needle";
  EXPECT_TRUE(has_needle);
}

TEST(TraceDocument, OpensAFileTwice) {
  Jobs jobs;
  TraceDocument first(kTrace, jobs), second(kTrace, jobs);
  Settle(jobs, [] {});
  EXPECT_EQ(first.state(), TraceDocument::State::kReady);
  EXPECT_EQ(second.state(), TraceDocument::State::kReady);
  EXPECT_TRUE(jobs.IsIdle());
}

TEST(TraceDocument, SaysWhatIsWrongWithAFile) {
  Jobs jobs;
  const std::string path = testing::TempDir() + "not_a_trace.h5";
  std::ofstream(path) << "not a trace";
  TraceDocument broken(path, jobs), missing("/nowhere/at/all.h5", jobs);
  Settle(jobs, [] {});
  for (const TraceDocument* const document : {&broken, &missing}) {
    EXPECT_EQ(document->state(), TraceDocument::State::kFailed);
    EXPECT_FALSE(document->failure().empty());
    EXPECT_EQ(document->failure().find('\n'), std::string::npos);
  }
}

TEST(HeatmapModel, BecomesExactAndFollowsTheView) {
  Jobs jobs;
  TraceDocument document(kTrace, jobs);
  Settle(jobs, [] {});
  HeatmapModel model;
  ViewState view;
  const auto update = [&] { model.Update(document, view, 300, 200, {}, jobs); };
  Settle(jobs, update);
  ASSERT_TRUE(model.image()) << document.kv_head_failure();
  EXPECT_EQ(model.image()->width, 300);
  EXPECT_EQ(model.progress(), 1);
  EXPECT_EQ(model.window(), (MapWindow{0, document.num_tokens(), 0, document.num_tokens()}));
  ASSERT_TRUE(model.WeightOf(400, 0));
  float sum = 0;
  for (int token = 0; token <= 400; ++token) sum += *model.WeightOf(400, token);
  EXPECT_NEAR(sum, 1, 1e-4);
  const Image before = *model.image();
  view.head_index = 4;
  view.window = {100, 200, 50, 90};
  Settle(jobs, update);
  EXPECT_EQ(model.window(), view.window);
  EXPECT_NE(before.rgba, model.image()->rgba);
  const int generation = model.generation();
  view.step = 3, view.marked_token = 7;
  Settle(jobs, update);
  EXPECT_EQ(model.generation(), generation) << "nothing that it shows changed, nothing was done";
}

TEST(Jobs, DeliversTheNewestOfASlotOnly) {
  Jobs jobs;
  std::vector<int> delivered;
  std::atomic<bool> may_end{false};
  for (const int i : {1, 2, 3}) {
    jobs.Start("slot", [&, i](const std::atomic<bool>& is_cancelled) -> Jobs::Finish {
      while (!may_end && !is_cancelled) std::this_thread::yield();
      return [&, i] { delivered.push_back(i); };
    });
  }
  EXPECT_TRUE(jobs.IsBusy("slot"));
  may_end = true;
  Settle(jobs, [] {});
  EXPECT_EQ(delivered, (std::vector<int>{3}));
  EXPECT_FALSE(jobs.IsBusy());
}

}  // namespace
}  // namespace kvscope
