// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "tests/support/replay_views.h"

namespace kvscope {
namespace {

using testing::ElementsAre;

const ModelShape kShape{.num_layers = 1, .num_heads = 2, .num_kv_heads = 1, .head_dim_k = 4, .head_dim_v = 4};

std::unique_ptr<Policy> Decided(const std::string& spec, int num_tokens, int entries, const Guards& guards = {}) {
  auto policy = PolicySpec::Parse(spec).MakePolicy(guards);
  policy->AfterLayer(TinyLayerView(kShape, 0, num_tokens));
  EXPECT_EQ(policy->Select(0, AllocateAll(*policy, kShape, num_tokens, entries)[0])[0].keep.size(), size_t(num_tokens));
  return policy;
}

TEST(TopKOracle, ReadsWhatTheQueryWeighsMostOverTheGroup) {
  const TinyStepView query(kShape, 0, 4, {{0, 1, 2, 3, 4}}, {{0.1f, 0.5f, 0.2f, 0.1f, 0.1f}, {0.5f, 0, 0.4f, 0.1f, 0}});
  // Means 0.3, 0.25, 0.3, 0.1, 0.05.
  EXPECT_THAT(Decided("top_k_oracle:growth=fixed", 4, 2)->BeforeStep(query)->slots[0], ElementsAre(0, 2));
  EXPECT_THAT(Decided("top_k_oracle", 4, 2)->BeforeStep(query)->slots[0], ElementsAre(0, 1, 2)) << "one was added";
  EXPECT_THAT(Decided("top_k_oracle:growth=fixed", 4, 2, {.sinks = 0, .recent = 1})->BeforeStep(query)->slots[0],
              ElementsAre(0, 4));
}

TEST(TopKOracle, SaysWhatItIs) {
  const PolicyNeeds needs = PolicySpec::Parse("top_k_oracle").Needs(kShape);
  EXPECT_TRUE(needs.oracle);
  EXPECT_EQ(PolicySpec::Parse("top_k_oracle").kind, "oracle");
  EXPECT_THROW(Decided("top_k_oracle", 8, 3, {.sinks = 2, .recent = 2}), Error);
}

// The bound that it exists for: at equal counts no kept set holds more of the group's weight.
TEST(TopKOracle, HoldsMoreWeightThanAnyPolicyOfTheSameCount) {
  const TinyAttention attention = RandomAttention(kShape, 40, 9);
  for (const char* spec :
       {"snapkv:window=4", "h2o", "tova", "adkvc+uniform", "random", "streaming_llm", "recent_window"}) {
    const auto moments = Play(spec, attention, 30, 10);
    const auto oracle = Decided("top_k_oracle", 30, 10);
    for (int query = 30; query < 40; ++query) {
      std::vector<int> all(query + 1);
      std::iota(all.begin(), all.end(), 0);
      const TinyStepView view(attention, 0, query, {all});
      const auto weight_of = [&](const std::vector<int>& slots) {
        double sum = 0;
        for (int slot : slots) sum += double(view.Weight(0)[slot]) + view.Weight(1)[slot];
        return sum;
      };
      std::vector<int> kept = moments[query - 30][0];  // the cache that the query met, and its own token
      kept.push_back(query);
      const std::vector<int> read = oracle->BeforeStep(view)->slots[0];
      EXPECT_LE(kept.size(), read.size()) << spec;
      EXPECT_LE(weight_of(kept), weight_of(read) + 1e-6) << spec << " query " << query;
    }
  }
}

}  // namespace
}  // namespace kvscope
