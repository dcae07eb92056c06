// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <random>

#include "replay/registry.h"

namespace kvscope {
namespace {

using testing::ElementsAre;

Budgets AllocateWith(const std::string& parameters_alpha, const PerSlot& layer, int entries,
                     const std::string& compat = "none") {
  Params params("test", {{"alpha", parameters_alpha}, {"compat", compat}});
  const int num_heads = static_cast<int>(layer.size()), num_tokens = static_cast<int>(layer[0].size());
  const std::vector<PerSlot> priority{layer};
  return Allocators().at("ada").make(params)->Allocate(
      {{1, num_heads, num_heads, 4, 4}, num_tokens, entries, priority});
}

TEST(Ada, CountsTheLayersBestEntriesAndMixesInTheUniformShare) {
  // The six best of the layer: head 0 holds 9 8 7 6, head 1 holds 5 5.
  const PerSlot layer{{9, 8, 7, 6, 0, 0}, {5, 5, 1, 1, 1, 1}};
  EXPECT_THAT(AllocateWith("0", layer, 3)[0], ElementsAre(4, 2));
  EXPECT_THAT(AllocateWith("1", layer, 3)[0], ElementsAre(3, 3));
  EXPECT_THAT(AllocateWith("0.4", layer, 3)[0], ElementsAre(4, 2)) << "3.6 and 2.4: the larger remainder goes up";
}

TEST(Ada, SharesOnlyWhatNothingProtects) {
  PerSlot layer{{9, 8, 7, 0, 0, 0}, {5, 1, 1, 0, 0, 0}};
  for (std::vector<float>& head : layer) {
    for (int token = 4; token < 6; ++token) head[token] = ProtectedPriority(token);
  }
  EXPECT_THAT(AllocateWith("0", layer, 4)[0], ElementsAre(5, 3)) << "a window of 2, then 9 8 7 and 5";
  EXPECT_THAT(AllocateWith("0", layer, 2)[0], ElementsAre(2, 2)) << "nothing is left beside the window";
}

TEST(Ada, EveryHeadKeepsAnEntry) {
  EXPECT_THAT(AllocateWith("0", {{9, 9, 9}, {1, 1, 1}, {0, 0, 0}}, 1)[0], ElementsAre(1, 1, 1));
  EXPECT_THAT(AllocateWith("0", {{9, 9, 9}, {1, 1, 1}, {0, 0, 0}}, 2)[0], ElementsAre(3, 2, 1));
}

class AdaTotals : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Compat, AdaTotals, testing::Values("none", "kvpress"));

TEST_P(AdaTotals, AreExactAndWithinTheHeads) {
  std::mt19937 random(5);
  for (int repeat = 0; repeat < 200; ++repeat) {
    const int num_heads = 1 + random() % 8, num_tokens = 1 + random() % 60, entries = 1 + random() % num_tokens;
    const int window = random() % (num_tokens + 1);
    PerSlot layer(num_heads, std::vector<float>(num_tokens));
    for (int head = 0; head < num_heads; ++head) {
      for (float& value : layer[head]) value = static_cast<float>(random() % 50) * static_cast<float>(head + 1);
      for (int token = num_tokens - window; token < num_tokens; ++token) layer[head][token] = ProtectedPriority(token);
    }
    const std::vector<int> budgets = AllocateWith("0.2", layer, entries, GetParam())[0];
    EXPECT_EQ(std::accumulate(budgets.begin(), budgets.end(), 0), num_heads * entries) << "repeat " << repeat;
    for (int budget : budgets) {
      EXPECT_GE(budget, std::max(1, std::min(window, entries) * (GetParam() == "none")));
      EXPECT_LE(budget, num_tokens);
    }
  }
}

}  // namespace
}  // namespace kvscope
