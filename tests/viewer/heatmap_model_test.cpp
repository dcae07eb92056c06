// SPDX-License-Identifier: Apache-2.0
// Documents and the heatmap behind its panel, without a window.
#include "viewer/heatmap_model.h"

#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <set>
#include <thread>

#include "core/error.h"
#include "core/trace_writer.h"
#include "tests/support/core_files.h"
#include "tests/support/core_tiny_trace.h"

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

TEST(HeatmapModel, PaintsAnExactMapAgainWithoutComputingIt) {
  Jobs jobs;
  TraceDocument document(kTrace, jobs);
  Settle(jobs, [] {});
  HeatmapModel model;
  ViewState view;
  Settle(jobs, [&] { model.Update(document, view, 300, 200, {}, jobs); });
  ASSERT_EQ(model.progress(), 1);
  for (const auto& [width, is_log] : {std::pair{300, false}, {301, false}}) {
    view.is_log = is_log;
    const int generation = model.generation();
    Settle(jobs, [&] { model.Update(document, view, width, 200, {}, jobs); });
    EXPECT_EQ(model.generation(), generation + 1);
    EXPECT_EQ(model.image()->width, width);
  }
}

TEST(HeatmapModel, ShowsAMapThatIsKeptBesideTheTrace) {
  const std::string path = TempPath("kept.kvtrace.h5");
  std::filesystem::copy_file(kTrace, path, std::filesystem::copy_options::overwrite_existing);
  std::filesystem::remove_all(path + ".maps");
  Jobs jobs;
  TraceDocument first(path, jobs), second(path, jobs), other(kTrace, jobs);
  Settle(jobs, [] {});
  // Not a map of this head: what is seen can only come from the file.
  const int tokens = first.num_tokens();
  first.maps()->Keep(3, 0,
                     std::make_shared<const WeightCells>(WeightCells{
                         {0, tokens, 0, tokens}, tokens, tokens, std::vector<float>(size_t(tokens) * tokens, 0.5f)}),
                     true);
  HeatmapModel kept, computed;
  Settle(jobs, [&] { kept.Update(second, {}, 300, 200, {}, jobs); });
  ASSERT_TRUE(kept.image());
  EXPECT_EQ(kept.progress(), 1);
  EXPECT_EQ(kept.scale().highest, 0.5f);
  EXPECT_EQ(std::set(kept.image()->rgba.begin(), kept.image()->rgba.end()).size(), 1u);
  Settle(jobs, [&] { computed.Update(other, {}, 300, 200, {}, jobs); });
  EXPECT_NE(computed.image()->rgba, kept.image()->rgba);
  std::filesystem::remove_all(path + ".maps");
}

TEST(TraceDocument, KeepsNoMapsOfAFileThatGrows) {
  const std::string path = TempPath("growing.kvtrace.h5");
  const TinyRun run = MakeTinyRun({});
  TraceWriter writer(path, run.info, {.flush_interval_secs = 0, .overwrite = true});
  AppendTinyRun(writer, run);
  writer.Flush();
  Jobs jobs;
  TraceDocument document(path, jobs);
  Settle(jobs, [] {});
  ASSERT_EQ(document.state(), TraceDocument::State::kReady) << document.failure();
  EXPECT_TRUE(document.is_growing());
  EXPECT_EQ(document.maps(), nullptr);
}

TEST(TraceDocument, ReadsOneHeadAtATime) {
  Jobs jobs;
  TraceDocument document(kTrace, jobs);
  Settle(jobs, [] {});
  // As a slider would ask, frame by frame.
  for (int kv_head = 0; kv_head < 3; ++kv_head) {
    document.KvHead(0, kv_head);
    jobs.Deliver();
  }
  std::shared_ptr<const KvHeadData> data;
  Settle(jobs, [&] { data = document.KvHead(0, 2); });
  ASSERT_TRUE(data);
  EXPECT_EQ(document.KvHead(0, 2), data);
  const std::weak_ptr<const KvHeadData> before = data;
  data = nullptr;
  Settle(jobs, [&] { data = document.KvHead(0, 1); });
  EXPECT_TRUE(data);
  EXPECT_TRUE(before.expired()) << "nobody holds the head before";
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
