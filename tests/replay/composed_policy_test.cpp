// SPDX-License-Identifier: Apache-2.0
#include "replay/composed_policy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "replay/registry.h"
#include "tests/support/core_message.h"
#include "tests/support/replay_views.h"

namespace kvscope {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// Relevance is what the test says; later queries add their number of slots to every slot.
class Scripted final : public Scorer {
 public:
  Scripted(PerSlot relevance, Scope scope) : relevance_(std::move(relevance)), scope_(scope) {}
  PolicyNeeds Needs(const ModelShape&) const override {
    PolicyNeeds needs;
    needs.scope = scope_;
    needs.state_bytes_per_entry = 4;
    return needs;
  }
  void Seed(const LayerView&, PerSlot& relevance) override { relevance = relevance_; }
  void Update(const StepView& step, PerSlot& relevance) override {
    for (size_t kv_head = 0; kv_head < relevance.size(); ++kv_head) {
      seen_slots_.push_back(relevance[kv_head].size());
      for (size_t slot = 0; slot < relevance[kv_head].size(); ++slot) {
        relevance[kv_head][slot] += step.Weight(static_cast<int>(kv_head))[slot];
      }
    }
  }
  std::unique_ptr<Scorer> Clone() const override { return std::make_unique<Scripted>(*this); }

 private:
  PerSlot relevance_;
  Scope scope_;
  std::vector<size_t> seen_slots_;
};

const ModelShape kTwoHeads{.num_layers = 1, .num_heads = 2, .num_kv_heads = 2, .head_dim_k = 4, .head_dim_v = 4};

ComposedPolicy MakePolicy(PerSlot relevance, const PolicySettings& settings, Scope scope = Scope::kKvHead,
                          const std::string& allocator = "uniform") {
  Params params;
  return {"test",
          {std::make_unique<Scripted>(std::move(relevance), scope), Allocators().at(allocator).make(params),
           Stores().at("fp16").make(params)},
          settings};
}

LayerPlan Decide(ComposedPolicy& policy, int num_tokens, int entries) {
  policy.AfterLayer(TinyLayerView(kTwoHeads, 0, num_tokens));
  return policy.Select(0, AllocateAll(policy, kTwoHeads, num_tokens, entries)[0]);
}

TEST(SelectSlots, KeepsTheBestAndTheLowerTokenOnATie) {
  const std::vector<int> tokens{3, 5, 6, 9};
  EXPECT_THAT(SelectSlots(tokens, std::vector<float>{1, 2, 2, 2}, {1}, 2), ElementsAre(1, 2));
  EXPECT_THAT(SelectSlots(tokens, std::vector<float>{1, 2, 2, 2}, {1}, 9), ElementsAre(0, 1, 2, 3));
}

TEST(SelectSlots, KeepsWholeChunksAndCutsTheLast) {
  std::vector<int> tokens(12);
  std::iota(tokens.begin(), tokens.end(), 0);
  const std::vector<float> priority{0, 9, 0, 0, /**/ 4, 4, 4, 4, /**/ 3, 1, 2, 0};  // means 2.25, 4, 1.5
  EXPECT_THAT(SelectSlots(tokens, priority, {4}, 4), ElementsAre(4, 5, 6, 7));
  EXPECT_THAT(SelectSlots(tokens, priority, {4}, 6), ElementsAre(0, 1, 4, 5, 6, 7)) << "9 and, of the zeros, the lower";
  EXPECT_THAT(SelectSlots(tokens, priority, {4}, 10), ElementsAre(0, 1, 2, 3, 4, 5, 6, 7, 8, 10));
}

TEST(SelectSlots, ChunksAreThoseOfTokensNotOfSlots) {
  const std::vector<int> tokens{0, 1, 6, 7, 8};  // chunks of 4: {0, 1}, {6, 7}, {8}
  EXPECT_THAT(SelectSlots(tokens, std::vector<float>{2, 2, 0, 3, 1.6f}, {4}, 3), ElementsAre(0, 1, 4));
}

TEST(SelectSlots, ProtectedEntriesComeBeforeChunks) {
  std::vector<int> tokens(8);
  std::iota(tokens.begin(), tokens.end(), 0);
  std::vector<float> priority{5, 5, 5, 5, 0, 0, 0, 0};
  priority[7] = ProtectedPriority(7);
  EXPECT_THAT(SelectSlots(tokens, priority, {4}, 1), ElementsAre(7));
  EXPECT_THAT(SelectSlots(tokens, priority, {4}, 2), ElementsAre(4, 7)) << "then the rest of its chunk";
  EXPECT_THAT(SelectSlots(tokens, priority, {4}, 5), ElementsAre(0, 4, 5, 6, 7));
}

TEST(SelectSlots, AbsentEntriesAreInNoChunk) {
  std::vector<int> tokens(8);
  std::iota(tokens.begin(), tokens.end(), 0);
  const float gone = kAbsentPriority;
  const std::vector<float> priority{gone, 3, gone, gone, 2, 2, 2, 2};  // means 3 and 2
  EXPECT_THAT(SelectSlots(tokens, priority, {4}, 3), ElementsAre(1, 4, 5));
  EXPECT_THAT(SelectSlots(tokens, priority, {4}, 5), ElementsAre(1, 4, 5, 6, 7));
}

TEST(ProtectedPriority, TellsNewerTokensApart) {
  for (int token : {0, 1, 1000, 8191, 131072, (1 << 22) - 1}) {
    EXPECT_LT(ProtectedPriority(token), ProtectedPriority(token + 1)) << token;
    EXPECT_LT(GuardPriority(token), GuardPriority(token + 1)) << token;
  }
  EXPECT_GT(GuardPriority(0), ProtectedPriority(1 << 22)) << "guards stand above a scorer's own window";
  EXPECT_TRUE(std::isfinite(GuardPriority(1 << 22)));
}

TEST(ComposedPolicy, KeepsTheMostRelevantOfEachKvHead) {
  ComposedPolicy policy = MakePolicy({{5, 1, 4, 2}, {1, 2, 3, 4}}, {});
  const LayerPlan plan = Decide(policy, 4, 2);
  EXPECT_THAT(plan[0].keep, ElementsAre(0, 2));
  EXPECT_THAT(plan[1].keep, ElementsAre(2, 3));
  EXPECT_FALSE(policy.WatchesSteps());
}

TEST(ComposedPolicy, BitsAreSpentOnBlocksByTheirBestEntryOnChunksByTheirMean) {
  const std::vector<float> row{0, 9, 0, 0, /**/ 3, 3, 3, 3, /**/ 1, 1, 1, ProtectedPriority(11)};
  for (const bool ranks_by_max : {true, false}) {
    Params params("test", {{"ladder", "16"}, {"floor", "0"}, {"harm", "relative"}});
    ComposedPolicy policy("test",
                          {std::make_unique<Scripted>(PerSlot{row, row}, Scope::kKvHead),
                           Allocators().at("lambda").make(params), Stores().at("mixed").make(params)},
                          {.granularity = {4, ranks_by_max}});
    policy.AfterLayer(TinyLayerView(RandomAttention(kTwoHeads, 12, 1), 0, 12));
    PolicyBudget budget = BudgetOfLayers(kTwoHeads, 12, 5);
    budget.entry_bytes[16] = 16, budget.entry_bytes[8] = 12, budget.entry_bytes[4] = 10, budget.entry_bytes[2] = 9;
    budget.bytes = 2 * 5 * 16;
    const LayerPlan plan = policy.Select(0, policy.Allocate(kTwoHeads, {&budget, 1})[0]);
    const int first = ranks_by_max ? 0 : 4;  // 9 against 3, or 2.25 against 3
    EXPECT_THAT(plan[1].keep, ElementsAre(first, first + 1, first + 2, first + 3, 11));
  }
}

TEST(ComposedPolicy, BitsThatAreAsBadAsNoneInOneKvHeadAreSoForItsLayer) {
  // Large keys in one KV head: its scores cannot be told at 2 bits; small ones in the other.
  for (const double size : {0.01, 100.0}) {
    TinyAttention attention = RandomAttention(kTwoHeads, 40, 1);
    for (auto& key : attention.k[1]) {
      for (double& value : key) value *= size;
    }
    for (auto& key : attention.k[0]) {
      for (double& value : key) value *= 0.01;
    }
    Params params("test", {{"floor", "0"}});
    const PerSlot relevance(2, std::vector<float>(40, 1.0f));
    ComposedPolicy policy("test",
                          {std::make_unique<Scripted>(relevance, Scope::kLayer), Allocators().at("lambda").make(params),
                           Stores().at("mixed").make(params)},
                          {});
    policy.AfterLayer(TinyLayerView(attention, 0, 40));
    PolicyBudget budget = BudgetOfLayers(kTwoHeads, 40, 10);
    budget.entry_bytes[16] = 16, budget.entry_bytes[8] = 12, budget.entry_bytes[4] = 10, budget.entry_bytes[2] = 3;
    budget.bytes = 2 * 40 * 3;
    const LayerPlan plan = policy.Select(0, policy.Allocate(kTwoHeads, {&budget, 1})[0]);
    EXPECT_EQ(std::count(plan[0].bits.begin(), plan[0].bits.end(), 2), size < 1 ? 40 : 0);
  }
}

TEST(ComposedPolicy, LayerScopeKeepsTheSameTokensInAllKvHeads) {
  ComposedPolicy policy = MakePolicy({{5, 1, 4, 2}, {5, 1, 4, 2}}, {}, Scope::kLayer);
  const LayerPlan plan = Decide(policy, 4, 2);
  EXPECT_EQ(plan[0].keep, plan[1].keep);
  EXPECT_THROW(MakePolicy({}, {}, Scope::kLayer, "ada").Needs(kTwoHeads), Error);
}

TEST(ComposedPolicy, GuardsStandAboveRelevance) {
  ComposedPolicy policy = MakePolicy({{0, 9, 9, 9, 0, 0}, {9, 0, 0, 9, 9, 9}}, {.guards = {.sinks = 1, .recent = 2}});
  const LayerPlan plan = Decide(policy, 6, 4);
  EXPECT_THAT(plan[0].keep, ElementsAre(0, 1, 4, 5));
  EXPECT_THAT(plan[1].keep, ElementsAre(0, 3, 4, 5));
}

TEST(ComposedPolicy, RefusesGuardsAboveTheBudget) {
  ComposedPolicy policy = MakePolicy({{0, 9, 9, 9, 0, 0}, {9, 0, 0, 9, 9, 9}}, {.guards = {.sinks = 2, .recent = 2}});
  try {
    Decide(policy, 6, 3);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("guards sinks=2,recent=2 hold 4 entries, above a budget of 3"));
  }
  ComposedPolicy on_a_short_prompt = MakePolicy({{1}, {1}}, {.guards = {.sinks = 4, .recent = 32}});
  EXPECT_THAT(Decide(on_a_short_prompt, 1, 1)[0].keep, ElementsAre(0)) << "one token cannot exceed a full budget";
}

// A prompt that is shorter than the guards does not hide that they will not fit once tokens arrive.
TEST(ComposedPolicy, RefusesGuardsThatWillNotFitLater) {
  const PerSlot relevance(2, std::vector<float>(8, 1.0f));
  const Guards guards{.sinks = 4, .recent = 16};
  ComposedPolicy once = MakePolicy(relevance, {.guards = guards});
  EXPECT_EQ(Decide(once, 8, 8)[0].keep.size(), 8u);
  ComposedPolicy fixed = MakePolicy(relevance, {.guards = guards, .growth = Growth::kFixed, .every = 1});
  EXPECT_THAT(MessageOf([&] { Decide(fixed, 8, 8); }), testing::HasSubstr("hold 20 entries, above a budget of 8"));
}

// The second layer sees the newest three of eight tokens.
TEST(ComposedPolicy, ChoosesAmongWhatAWindowHolds) {
  const ModelShape two_layers{.num_layers = 2, .num_heads = 1, .num_kv_heads = 1, .head_dim_k = 4, .head_dim_v = 4};
  ComposedPolicy policy =
      MakePolicy({{9, 8, 7, 6, 5, 4, 3, 2}}, {.guards = {.sinks = 1}, .growth = Growth::kFixed, .every = 1});
  for (int layer = 0; layer < 2; ++layer) policy.AfterLayer(TinyLayerView(two_layers, layer, 8));
  std::vector<PolicyBudget> budgets(2);
  budgets[0] = {.layers = {0}, .first_token = 0, .num_tokens = 8, .uniform_entries = 4, .num_rows = 1};
  budgets[1] = {.layers = {1}, .first_token = 5, .num_tokens = 3, .uniform_entries = 2, .num_rows = 1};
  const Budgets entries = policy.Allocate(two_layers, budgets);
  EXPECT_EQ(entries, (Budgets{{4}, {2}}));
  EXPECT_THAT(policy.Priority(1, 0), ElementsAre(kAbsentPriority, kAbsentPriority, kAbsentPriority, kAbsentPriority,
                                                 kAbsentPriority, 4, 3, 2));
  EXPECT_THAT(policy.Select(0, entries[0])[0].keep, ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(policy.Select(1, entries[1])[0].keep, ElementsAre(5, 6)) << "the sink has left";
  policy.AfterWindow(1, 0, 1);  // 5 leaves, 8 and then 9 come
  const auto step = [&](int query, std::vector<int> tokens, std::vector<float> weight) {
    return policy.AfterStep(TinyStepView(two_layers, 1, query, {std::move(tokens)}, {std::move(weight)}), entries[1]);
  };
  EXPECT_FALSE(step(8, {6, 8}, {0.5f, 0.5f}));
  const auto plan = step(9, {6, 8, 9}, {0, 1, 0.25f});
  ASSERT_TRUE(plan);
  EXPECT_THAT((*plan)[0].keep, ElementsAre(0, 1)) << "6 has 3.5 of old, 8 has 1.5";
}

TEST(ComposedPolicy, FixedGrowthEvictsEveryNthQuery) {
  ComposedPolicy policy = MakePolicy({{5, 1, 4}, {1, 2, 3}}, {.growth = Growth::kFixed, .every = 2});
  EXPECT_TRUE(policy.WatchesSteps());
  EXPECT_THAT(Decide(policy, 3, 2)[0].keep, ElementsAre(0, 2));
  const std::vector<int> budgets{2, 2};
  // Head 0 holds tokens 0 and 2 with relevance 5 and 4, head 1 tokens 1 and 2 with 2 and 3.
  EXPECT_FALSE(
      policy.AfterStep(TinyStepView(kTwoHeads, 0, 3, {{0, 2, 3}, {1, 2, 3}}, {{0, 0, 7}, {4, 0, 1}}), budgets));
  const auto plan = policy.AfterStep(
      TinyStepView(kTwoHeads, 0, 4, {{0, 2, 3, 4}, {1, 2, 3, 4}}, {{0, 0, 0, 1}, {0, 0, 0, 9}}), budgets);
  ASSERT_TRUE(plan);
  EXPECT_THAT((*plan)[0].keep, ElementsAre(0, 2)) << "tokens 0 (5) and 3 (7)";
  EXPECT_THAT((*plan)[1].keep, ElementsAre(0, 3)) << "tokens 1 (6) and 4 (9)";
  // The relevance that stays is that of the kept tokens: 5, 7 and 6, 9.
  EXPECT_FALSE(
      policy.AfterStep(TinyStepView(kTwoHeads, 0, 5, {{0, 3, 5}, {1, 4, 5}}, {{1, 0, 6.5f}, {0, 0, 1}}), budgets));
  const auto next = policy.AfterStep(
      TinyStepView(kTwoHeads, 0, 6, {{0, 3, 5, 6}, {1, 4, 5, 6}}, {{0, 0, 0, 0}, {0, 0, 6, 0}}), budgets);
  ASSERT_TRUE(next);
  EXPECT_THAT((*next)[0].keep, ElementsAre(1, 2)) << "7 and 6.5 beat 6";
  EXPECT_THAT((*next)[1].keep, ElementsAre(1, 2)) << "9 and 7 beat 6";
}

TEST(ComposedPolicy, AppendGrowthEvictsNothingLater) {
  ComposedPolicy policy = MakePolicy({{5, 1, 4}, {1, 2, 3}}, {.growth = Growth::kAppend, .every = 1});
  EXPECT_FALSE(policy.WatchesSteps());
  EXPECT_EQ(policy.Needs(kTwoHeads).state_bytes_per_entry, 0);
  Decide(policy, 3, 2);
  EXPECT_FALSE(policy.AfterStep(TinyStepView(kTwoHeads, 0, 3, {{0, 2, 3}, {1, 2, 3}}, {{0, 0, 7}, {4, 0, 1}}), {2, 2}));
}

TEST(ComposedPolicy, SnapshotsGoOnAlone) {
  ComposedPolicy policy = MakePolicy({{5, 1, 4}, {1, 2, 3}}, {.growth = Growth::kFixed, .every = 1});
  Decide(policy, 3, 2);
  const std::unique_ptr<Policy> fork = policy.Snapshot();
  const TinyStepView third(kTwoHeads, 0, 3, {{0, 2, 3}, {1, 2, 3}}, {{0, 0, 7}, {4, 0, 1}});
  const TinyStepView other(kTwoHeads, 0, 3, {{0, 2, 3}, {1, 2, 3}}, {{0, 9, 0}, {0, 0, 9}});
  EXPECT_THAT((*policy.AfterStep(third, {2, 2}))[0].keep, ElementsAre(0, 2));
  EXPECT_THAT((*fork->AfterStep(other, {2, 2}))[0].keep, ElementsAre(0, 1));
}

}  // namespace
}  // namespace kvscope
