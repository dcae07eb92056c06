// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/replay_views.h"

namespace kvscope {
namespace {

using testing::ElementsAre;

const ModelShape kShape{.num_layers = 1, .num_heads = 2, .num_kv_heads = 1, .head_dim_k = 4, .head_dim_v = 4};

TEST(StreamingLlm, KeepsSinksAndASlidingWindow) {
  const auto moments = Play("streaming_llm:sinks=2", RandomAttention(kShape, 12, 1), 9, 5);
  EXPECT_THAT(moments[0][0], ElementsAre(0, 1, 6, 7, 8));
  EXPECT_THAT(moments[1][0], ElementsAre(0, 1, 7, 8, 9));
  EXPECT_THAT(moments[3][0], ElementsAre(0, 1, 9, 10, 11));
}

TEST(StreamingLlm, KeepsTheFirstSinksWhenTheBudgetIsBelowThem) {
  EXPECT_THAT(Play("streaming_llm", RandomAttention(kShape, 9, 1), 9, 3)[0][0], ElementsAre(0, 1, 2));
}

TEST(StreamingLlm, WithoutSinksIsARecentWindow) {
  const TinyAttention attention = RandomAttention(kShape, 12, 1);
  EXPECT_EQ(Play("streaming_llm:sinks=0", attention, 9, 5), Play("recent_window", attention, 9, 5));
}

}  // namespace
}  // namespace kvscope
