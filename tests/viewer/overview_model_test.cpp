// SPDX-License-Identifier: Apache-2.0
#include "viewer/overview_model.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <limits>
#include <thread>

namespace kvscope {
namespace {

HeadEntry Entry(float needle, float entropy) {
  HeadEntry entry;
  entry.overview.needle = needle, entry.overview.entropy = entropy;
  return entry;
}

TEST(HeadOrder, PutsTheLargestFirstAndNothingLast) {
  const float nothing = std::numeric_limits<float>::quiet_NaN();
  const std::vector<HeadEntry> entries{Entry(0.1f, 3), Entry(nothing, 1), Entry(0.7f, 2), Entry(0.1f, 4)};
  EXPECT_EQ(OrderOf(entries, HeadOrder::kLayer), (std::vector<int>{0, 1, 2, 3}));
  EXPECT_EQ(OrderOf(entries, HeadOrder::kNeedle), (std::vector<int>{2, 0, 3, 1}));
  EXPECT_EQ(OrderOf(entries, HeadOrder::kEntropy), (std::vector<int>{1, 2, 0, 3})) << "the most decided first";
}

TEST(OverviewModel, LooksAtEveryHeadAndFindsTheNeedles) {
  Jobs jobs;
  TraceDocument document(KVSCOPE_SOURCE_DIR "/traces/needle_512.kvtrace.h5", jobs);
  OverviewModel model;
  const auto begin = std::chrono::steady_clock::now();
  do {
    jobs.Deliver();
    if (document.state() == TraceDocument::State::kReady) model.Update(document, {}, jobs);
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    ASSERT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(60));
  } while (jobs.IsBusy());
  ASSERT_EQ(model.failure(), "");
  ASSERT_EQ(model.entries().size(), 27u) << "3 layers of 9 heads";
  EXPECT_EQ(model.progress(), 1);
  // Three heads look back at the needle; 18.7 copies it token by token.
  std::vector<std::pair<int, int>> finders;  // absolute layer and head
  for (const HeadEntry& entry : model.entries()) {
    const LayerInfo& layer = document.reader().info().layers[entry.layer_index];
    if (entry.overview.needle >= 0.1f) finders.push_back({layer.layer, layer.heads[entry.head_index]});
  }
  EXPECT_EQ(finders, (std::vector<std::pair<int, int>>{{7, 7}, {18, 6}, {18, 7}}));
  for (const HeadEntry& entry : model.entries()) {
    EXPECT_GE(entry.overview.sink, 0);
    EXPECT_LE(entry.overview.sink, 1.001f);
    EXPECT_GT(entry.overview.entropy, 0);
    EXPECT_LT(entry.overview.entropy, std::log(528));
  }
  ASSERT_TRUE(model.image());
  EXPECT_EQ(model.image()->width, OverviewModel::kThumbPixels * OverviewModel::kThumbColumns);
}

}  // namespace
}  // namespace kvscope
