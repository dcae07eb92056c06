// SPDX-License-Identifier: Apache-2.0
#include "kernels/top_k.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <random>

namespace kvscope::cpu {
namespace {

std::vector<int> SortedTopK(const std::vector<float>& values, int k) {
  std::vector<int> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return values[a] > values[b]; });
  order.resize(std::clamp<int>(k, 0, values.size()));
  std::sort(order.begin(), order.end());
  return order;
}

TEST(TopK, BreaksTiesByLowerIndex) {
  EXPECT_EQ(TopK(std::vector<float>{1, 2, 2, 1, 2}, 2), (std::vector<int>{1, 2}));
  EXPECT_EQ(TopK(std::vector<float>{0.0f, -0.0f, 0.0f}, 1), (std::vector<int>{0}));
  EXPECT_EQ(TopK(std::vector<float>{-0.0f, 0.0f}, 1), (std::vector<int>{0}));
}

TEST(TopK, ClampsK) {
  const std::vector<float> values{3, 1, 2};
  EXPECT_TRUE(TopK(values, 0).empty());
  EXPECT_TRUE(TopK(values, -4).empty());
  EXPECT_EQ(TopK(values, 9), (std::vector<int>{0, 1, 2}));
  EXPECT_TRUE(TopK({}, 3).empty());
}

TEST(TopK, OrdersInfinitiesDenormalsAndNegativeValues) {
  const float infinity = std::numeric_limits<float>::infinity(), tiny = std::numeric_limits<float>::denorm_min();
  const std::vector<float> values{-infinity, -1e30f, -tiny, 0, tiny, 1e30f, infinity};
  for (int k = 0; k <= 7; ++k) EXPECT_EQ(TopK(values, k), SortedTopK(values, k)) << k;
}

TEST(TopK, EqualsAStableSort) {
  std::mt19937 random(7);
  for (int repeat = 0; repeat < 300; ++repeat) {
    std::vector<float> values(1 + random() % 400);
    const int levels = 1 + random() % 40;  // few levels make many ties
    for (float& value : values) value = (static_cast<int>(random() % levels) - levels / 2) * 0.25f;
    const int k = random() % (values.size() + 2);
    ASSERT_EQ(TopK(values, k), SortedTopK(values, k)) << "repeat " << repeat;
    const int most = static_cast<int>(values.size()) - repeat % 7;  // all but a few
    ASSERT_EQ(TopK(values, most), SortedTopK(values, most)) << "repeat " << repeat;
  }
}

TEST(TopKDeathTest, RefusesNan) {
  EXPECT_DEATH(TopK(std::vector<float>{1, NAN, 2}, 1), "check failed");
}

}  // namespace
}  // namespace kvscope::cpu
