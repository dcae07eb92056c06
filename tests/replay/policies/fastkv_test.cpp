// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "core/error.h"
#include "replay/engine.h"
#include "replay/registry.h"
#include "tests/support/core_tiny_trace.h"
#include "tests/support/replay_views.h"

namespace kvscope {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

const ModelShape kShape{.num_layers = 2, .num_heads = 4, .num_kv_heads = 2, .head_dim_k = 4, .head_dim_v = 4};

// Window sums over eight tokens, a window of two.
TinyLayerView Layer(int layer_index) {
  TinyLayerView view(kShape, layer_index, 8);
  const StatisticSpec spec{.kind = StatisticSpec::Kind::kSum, .last_rows = 2};
  if (layer_index == 0) {
    view.Set(spec, 0, {6, 0, 0, 0, 3, 0, 9, 9});
    view.Set(spec, 1, {0, 0, 0, 0, 3, 0, 9, 9});
    view.Set(spec, 2, {0, 0, 0, 0, 0, 0, 9, 9});
    view.Set(spec, 3, {0, 0, 6, 0, 0, 0, 9, 9});
  } else {
    view.Set(spec, 0, {8, 2, 8, 4, 8, 8, 9, 9});
    for (const int head : {1, 2, 3}) view.Set(spec, head, {0, 0, 0, 2, 0, 0, 9, 9});
  }
  return view;
}

// Both layers seen and the budget shared out.
std::unique_ptr<Policy> Decided(const std::string& spec, int entries, const Guards& guards = {}) {
  auto policy = PolicySpec::Parse(spec).MakePolicy(guards);
  for (const int layer : {0, 1}) policy->AfterLayer(Layer(layer));
  AllocateAll(*policy, kShape, 8, entries);
  return policy;
}

PerSlot PrioritiesOf(const Policy& policy, int layer_index) {
  PerSlot priority;
  for (int kv_head = 0; kv_head < kShape.num_kv_heads; ++kv_head) {
    const std::span<const float> row = policy.Priority(layer_index, kv_head);
    priority.emplace_back(row.begin(), row.end());
  }
  return priority;
}

const std::string kSpec = "fastkv:window=2:pool=3:tsp=0.5";

TEST(FastKv, SumsAGroupsHeadsAndSmoothsLeftOfTheWindow) {
  // Sums over a window of 2: KV head 0 has 3 0 0 0 3 0, KV head 1 has 0 0 3 0 0 0.
  const PerSlot priority = PrioritiesOf(*Decided(kSpec, 2), 0);
  EXPECT_THAT(priority[0], ElementsAre(1, 1, 0, 1, 1, 1, ProtectedPriority(6), ProtectedPriority(7)));
  EXPECT_THAT(priority[1], ElementsAre(0, 1, 1, 1, 0, 0, ProtectedPriority(6), ProtectedPriority(7)));
  const PerSlot by_max = PrioritiesOf(*Decided(kSpec + ":pooling=max", 2), 0);
  EXPECT_THAT(by_max[1], ElementsAre(0, 3, 3, 3, 0, 0, ProtectedPriority(6), ProtectedPriority(7)));
}

TEST(FastKv, TheBestOfTheTspLayerGoOnAndTheWindow) {
  // Over both KV heads 1 2 1 2 1 1: four of eight tokens go on.
  const auto policy = Decided(kSpec, 2);
  EXPECT_EQ(policy->Propagates()->after_layer, 0);
  EXPECT_THAT(policy->Propagates()->tokens, ElementsAre(1, 3, 6, 7));
  EXPECT_THAT(Decided("fastkv:window=2:pool=3:tsp=0", 1)->Propagates()->tokens, ElementsAre(6, 7));
  EXPECT_EQ(Decided("fastkv:window=2:pool=3:tsp=1", 1)->Propagates()->tokens.size(), 8u);
}

TEST(FastKv, AsManyGoOnAsABudgetHolds) {
  EXPECT_THAT(Decided(kSpec, 5)->Propagates()->tokens, ElementsAre(0, 1, 3, 6, 7)) << "of the ties the lower token";
  EXPECT_EQ(Decided(kSpec, 30)->Propagates()->tokens.size(), 8u);
}

TEST(FastKv, UpperLayersRankAndSmoothWhatWentOnOnly) {
  // Tokens 1 and 3 have 1 and 2 + 1 in KV head 0, 0 and 2 in KV head 1; they are neighbours now.
  const PerSlot priority = PrioritiesOf(*Decided(kSpec, 2), 1);
  const float gone = kAbsentPriority, third = 1.0f / 3;
  EXPECT_THAT(priority[0],
              ElementsAre(gone, 4 * third, gone, 4 * third, gone, gone, ProtectedPriority(6), ProtectedPriority(7)));
  EXPECT_THAT(priority[1],
              ElementsAre(gone, 2 * third, gone, 2 * third, gone, gone, ProtectedPriority(6), ProtectedPriority(7)));
}

TEST(FastKv, GuardedTokensGoOnToo) {
  const auto policy = Decided(kSpec, 4, {.sinks = 1, .recent = 3});
  EXPECT_THAT(policy->Propagates()->tokens, ElementsAre(0, 1, 3, 5, 6, 7));
  const PerSlot priority = PrioritiesOf(*policy, 1);
  EXPECT_EQ(priority[0][0], GuardPriority(0));
  EXPECT_EQ(priority[0][5], GuardPriority(5));
}

TEST(FastKv, TheTspLayerIsTheMiddleUnlessNamed) {
  const auto layer_of = [](const std::string& spec, int num_layers) {
    return PolicySpec::Parse(spec).Needs({num_layers, 1, 1, 4, 4}).propagates_after;
  };
  EXPECT_EQ(layer_of("fastkv", 30), 14);
  EXPECT_EQ(layer_of("fastkv", 32), 15);
  EXPECT_EQ(layer_of("fastkv", 1), 0);
  EXPECT_EQ(layer_of("fastkv:tsp_layer=3", 30), 3);
  EXPECT_EQ(layer_of("snapkv", 30), -1);
  const ModelShape one_layer{1, 4, 2, 4, 4};
  const auto policy = PolicySpec::Parse(kSpec).MakePolicy({});
  TinyLayerView view(one_layer, 0, 8);
  for (int head = 0; head < 4; ++head) {
    view.Set({.kind = StatisticSpec::Kind::kSum, .last_rows = 2}, head, std::vector<float>(8, 1.0f));
  }
  policy->AfterLayer(view);
  AllocateAll(*policy, one_layer, 8, 3);
  EXPECT_FALSE(policy->Propagates()) << "there is no layer above";
}

TEST(FastKv, RefusesATspLayerThatIsTheLastAndDecisionsBeforeThePromptsEnd) {
  const auto message_of = [](const std::function<void()>& action) -> std::string {
    try {
      action();
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  };
  EXPECT_THAT(message_of([] { Decided("fastkv:window=2:tsp_layer=1", 4); }),
              HasSubstr("tsp_layer: expected a layer below the last, which is 1, found 1"));
  EXPECT_THAT(message_of([] { PolicySpec::Parse("fastkv:every=1:growth=fixed:prefill_chunk=64"); }),
              HasSubstr("prefill_chunk: expected 0"));
  EXPECT_THAT(message_of([] { PolicySpec::Parse("fastkv:pool=4"); }), HasSubstr("expected an odd number, found 4"));
}

// Whatever else a spec says, an upper layer keeps nothing that it never had.
TEST(FastKv, NoSpecKeepsWhatDidNotGoOn) {
  const auto trace = MakeTinyTrace({.layers = 4, .heads = 4, .kv_heads = 2, .head_dim = 16, .tokens = 90, .steps = 6});
  std::vector<std::string> specs{"fastkv",
                                 "fastkv/chunk=4",
                                 "fastkv/block=4",
                                 "fastkv+ada",
                                 "fastkv+dynamic",
                                 "fastkv+pyramid",
                                 "fastkv:every=1:growth=fixed"};
  if (Stores().contains("mixed")) specs.insert(specs.end(), {"fastkv+lambda@mixed", "fastkv+lambda/chunk=4@mixed"});
  for (const std::string& spec : specs) {
    for (const double fraction : {0.1, 0.3}) {
      PlanRequest request;
      request.spec = PolicySpec::Parse(spec);
      request.budget = {BudgetSpec::Unit::kFraction, fraction};
      request.decision_token = trace->info().prompt_tokens;
      const std::vector<Plan> plans = MakePlans(*trace, {request}, {});
      const Propagation propagation = *plans[0].policy->Propagates();
      EXPECT_LT(propagation.tokens.size(), 30u) << spec;
      for (int layer = propagation.after_layer + 1; layer < 4; ++layer) {
        for (const HeadPlan& head : plans[0].layers[layer]) {
          EXPECT_TRUE(std::ranges::includes(propagation.tokens, head.keep)) << spec << " layer " << layer;
        }
      }
      Evaluate(*trace, plans, {});
    }
  }
}

}  // namespace
}  // namespace kvscope
