// SPDX-License-Identifier: Apache-2.0
// A workbench answers what the engine answers, and its histories what the caches held.
#include "replay/workbench.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "core/error.h"
#include "replay/analysis.h"
#include "replay/sweep.h"
#include "tests/support/core_tiny_trace.h"

namespace kvscope {
namespace {

using testing::HasSubstr;

constexpr TinyShape kShape{.layers = 3, .heads = 4, .kv_heads = 2, .head_dim = 16, .tokens = 48, .steps = 6};
// A window in the middle layer.
constexpr TinyShape kWindowed{
    .layers = 3, .heads = 4, .kv_heads = 2, .head_dim = 16, .tokens = 48, .steps = 6, .window = 20, .softcap = 5};
constexpr int kNumTokens = 54;
const std::atomic<bool> kGoesOn{false};

PlanRequest RequestOf(const TraceSource& trace, const std::string& spec, double keep_fraction) {
  return {PolicySpec::Parse(spec),
          {BudgetSpec::Unit::kFraction, keep_fraction},
          {},
          DecisionToken(trace.info(), Protocol::kPrompt)};
}

// Counts how often a KV head is read.
class CountingSource final : public TraceSource {
 public:
  explicit CountingSource(const TraceSource& source) : source_(source) {}
  const TraceInfo& info() const override { return source_.info(); }
  const TraceTokens& tokens() const override { return source_.tokens(); }
  const TraceAnswer& answer() const override { return source_.answer(); }
  const std::vector<int>& q_token(int layer) const override { return source_.q_token(layer); }
  std::shared_ptr<const KvHeadData> ReadKvHead(int layer, int kv_head) const override {
    ++reads;
    return source_.ReadKvHead(layer, kv_head);
  }
  mutable std::atomic<int> reads{0};

 private:
  const TraceSource& source_;
};

class WorkbenchPolicy : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Each, WorkbenchPolicy,
                         testing::Values("snapkv:window=4", "h2o", "adkvc", "h2o@int4", "adkvc:prefill_chunk=16",
                                         "tova:every=1:growth=fixed", "top_k_oracle", "full"),
                         [](const auto& test) {
                           std::string name = test.param;
                           std::ranges::replace_if(
                               name, [](char c) { return !std::isalnum(c); }, '_');
                           return name;
                         });

// Budgets come in an order that makes it use what it knows.
TEST_P(WorkbenchPolicy, DecidesAndMeasuresAsTheEngineDoes) {
  const auto trace = MakeTinyTrace(kShape);
  Workbench bench(*trace);
  const std::vector<int> needle = bench.NeedleBefore(kShape.tokens);
  ASSERT_FALSE(needle.empty());
  for (const double keep : {0.5, 0.25, 0.5, 1.0}) {
    const PlanRequest request = RequestOf(*trace, GetParam(), keep);
    PlanOptions options;
    options.watched_tokens = needle;
    const std::vector<Plan> expected = MakePlans(*trace, {request}, options);
    const std::shared_ptr<const Plan> plan = bench.Decide(request, needle);
    ASSERT_EQ(plan->layers.size(), expected[0].layers.size());
    for (int layer = 0; layer < kShape.layers; ++layer) {
      for (int kv_head = 0; kv_head < kShape.kv_heads; ++kv_head) {
        EXPECT_EQ(plan->layers[layer][kv_head].keep, expected[0].layers[layer][kv_head].keep);
        EXPECT_EQ(plan->layers[layer][kv_head].bits, expected[0].layers[layer][kv_head].bits);
      }
    }
    EvaluateOptions evaluation;
    evaluation.needle_tokens = needle;
    evaluation.answer_begin = kShape.tokens;
    ResultRow figures;
    std::vector<NamedArray> arrays;
    Evaluate(*trace, expected, evaluation)[0].FillRow(expected[0].FullBytes(), figures, arrays);
    const std::optional<Trial> trial = bench.Measure(plan, kGoesOn);
    ASSERT_TRUE(trial);
    EXPECT_EQ(trial->figures, figures);
  }
}

// The masks that Evaluate reports, query by query, are the truth.
TEST_P(WorkbenchPolicy, HistoryIsWhatEachQuerySaw) {
  for (const TinyShape& shape : {kShape, kWindowed}) {
    const auto trace = MakeTinyTrace(shape);
    Workbench bench(*trace);
    const std::vector<int> needle = bench.NeedleBefore(kShape.tokens);
    const auto plan = bench.Decide(RequestOf(*trace, GetParam(), 0.4), needle);
    if (plan->policy->ChoosesReads()) GTEST_SKIP() << "what it reads is not what it holds";
    const auto trial = bench.Measure(plan, kGoesOn);
    ASSERT_TRUE(trial);
    std::mutex mutex;
    std::map<std::tuple<int, int, int>, int> entries;  // layer, kv_head, query
    std::map<std::tuple<int, int, int>, double> mass;
    EvaluateOptions options;
    options.needle_tokens = needle;
    options.answer_begin = kShape.tokens;
    options.see_query = [&](const QueryDetail& detail) {
      const std::lock_guard lock(mutex);
      const std::tuple key{detail.layer_index, detail.kv_head, detail.query_token};
      entries[key] = detail.entries;
      // What the full cache weighs on the entries that the history names: those after the query before that are still
      // in the window, and itself.
      std::vector<uint8_t> bits = trial->history->BitsAfter(detail.layer_index, detail.kv_head, detail.query_token - 1);
      bits.push_back(16);
      if (shape.window > 0 && detail.layer_index == 1) std::fill_n(bits.begin(), detail.query_token - 19, uint8_t{0});
      for (size_t token = 0; token < bits.size(); ++token) mass[key] += bits[token] ? detail.full_weights[token] : 0;
      EXPECT_EQ(std::ranges::count_if(bits, [](uint8_t b) { return b > 0; }), detail.entries);
      EXPECT_NEAR(mass[key], detail.kept_mass[0], 1e-5);
    };
    Evaluate(*trace, {plan.get(), 1}, options);
    EXPECT_EQ(entries.size(), size_t{kShape.layers} * kShape.kv_heads * kShape.steps);
  }
}

// Every needle token is either there at the end or has one loss, with its place in the ranking.
TEST_P(WorkbenchPolicy, EveryTokenIsThereOrWasLostOnce) {
  for (const TinyShape& shape : {kShape, kWindowed}) {
    const auto trace = MakeTinyTrace(shape);
    Workbench bench(*trace);
    const std::vector<int> watched = {5, 9, 21, 30, 40};
    const auto plan = bench.Decide(RequestOf(*trace, GetParam(), 0.3), watched);
    const auto trial = bench.Measure(plan, kGoesOn);
    ASSERT_TRUE(trial);
    int losses_seen = 0;
    for (int layer = 0; layer < kShape.layers; ++layer) {
      for (int kv_head = 0; kv_head < kShape.kv_heads; ++kv_head) {
        const auto losses = trial->history->LossesUntil(layer, kv_head, watched, kNumTokens - 1);
        const auto bits = trial->history->BitsAfter(layer, kv_head, kNumTokens - 1);
        std::set<int> lost;
        for (const TokenLoss& loss : losses) {
          EXPECT_TRUE(lost.insert(loss.token).second);
          const auto before = trial->history->BitsAfter(
              layer, kv_head, std::max(loss.query_token - 1, plan->request.FirstDecision() - 1));
          if (!loss.is_at_decision) {
            EXPECT_GT(before[loss.token], 0);
          }
          EXPECT_EQ(trial->history->BitsAfter(layer, kv_head, loss.query_token)[loss.token], 0);
          EXPECT_TRUE(loss.rank || loss.token >= plan->request.FirstDecision()) << "all of these policies rank";
          // Those that go one by one go because they rank below all that stay.
          if (loss.rank && plan->request.spec.granularity.chunk_tokens == 1) {
            EXPECT_LE(loss.rank->priority, loss.rank->lowest_kept);
            EXPECT_GE(loss.rank->num_before, 1);
          }
          ++losses_seen;
        }
        const int in_window = trial->history->FirstInWindow(layer, kNumTokens - 1);
        EXPECT_EQ(in_window, shape.window > 0 && layer == 1 ? 34 : 0);
        for (const int token : watched) {
          if (token >= in_window) {
            EXPECT_EQ(lost.contains(token), bits[token] == 0) << token;
          } else {
            EXPECT_EQ(bits[token], 0) << token;
          }
          if (token < trial->history->FirstInWindow(layer, plan->request.FirstDecision() - 1)) {
            EXPECT_FALSE(lost.contains(token)) << token << " was not the policy's to lose";
          }
        }
      }
    }
    // Whatever else was evicted has its place, too, in every KV head.
    for (int layer = 0; layer < kShape.layers; ++layer) {
      for (int query = 0; query < kNumTokens; ++query) {
        for (const CacheAction& action : trial->history->ActionsOf(layer, query))
          EXPECT_EQ(action.rank.has_value(), action.bits == 0);
      }
    }
    const bool keeps_all = plan->needs.fixed_rate || plan->policy->ChoosesReads();
    EXPECT_EQ(losses_seen > 0, !keeps_all);
  }
}

TEST(Workbench, KeepsProtocolsApart) {
  const auto trace = MakeTinyTrace(kShape);
  Workbench bench(*trace);
  PlanRequest request = RequestOf(*trace, "snapkv:window=4", 0.25);
  const auto after_prompt = bench.Decide(request, {});
  request.decision_token = DecisionToken(trace->info(), Protocol::kContext);
  ASSERT_LT(request.decision_token, kShape.tokens);
  const auto after_context = bench.Decide(request, {});
  const std::vector<Plan> expected = MakePlans(*trace, {request}, {});
  EXPECT_EQ(after_context->request.decision_token, request.decision_token);
  EXPECT_EQ(after_context->layers[1][1].keep, expected[0].layers[1][1].keep);
  EXPECT_NE(after_context->layers[1][1].keep, after_prompt->layers[1][1].keep);
}

// The second looks at what the first computed, in every layer.
TEST(Workbench, PoliciesShareStatistics) {
  const auto trace = MakeTinyTrace(kShape);
  Workbench bench(*trace);
  bench.Decide(RequestOf(*trace, "snapkv:window=4", 0.25), {});
  const PlanRequest request = RequestOf(*trace, "snapkv+ada:window=4", 0.25);
  const auto plan = bench.Decide(request, {});
  const std::vector<Plan> expected = MakePlans(*trace, {request}, {});
  for (int layer = 0; layer < kShape.layers; ++layer) {
    for (int kv_head = 0; kv_head < kShape.kv_heads; ++kv_head)
      EXPECT_EQ(plan->layers[layer][kv_head].keep, expected[0].layers[layer][kv_head].keep);
  }
}

TEST(EntryRank, CountsThoseBeforeAndTheLowestThatStays) {
  const std::vector<float> priority = {5, 1, 3, 3, 2};
  const auto rank = RankOf(priority, 3, std::vector<int>{0, 2, 4});
  ASSERT_TRUE(rank);
  EXPECT_EQ(rank->priority, 3);
  EXPECT_EQ(rank->num_before, 2) << "of equal ones the lower slot comes first";
  EXPECT_EQ(rank->lowest_kept, 2);
  EXPECT_FALSE(RankOf({}, 3, std::vector<int>{0}));
}

TEST(Workbench, AnotherBudgetReadsNothing) {
  const auto trace = MakeTinyTrace(kShape);
  const CountingSource source(*trace);
  Workbench bench(source);
  bench.Decide(RequestOf(source, "snapkv", 0.5), {});
  EXPECT_EQ(source.reads, kShape.layers * kShape.kv_heads);
  const auto plan = bench.Decide(RequestOf(source, "snapkv", 0.1), {});
  bench.Decide(RequestOf(source, "h2o", 0.1), {});
  bench.Measure(plan, kGoesOn);
  EXPECT_EQ(source.reads, kShape.layers * kShape.kv_heads);
}

TEST(Workbench, SaysWhyAPolicyCannotRun) {
  const auto trace = MakeTinyTrace(kShape);
  Workbench bench(*trace);
  PlanRequest request = RequestOf(*trace, "snapkv", 0.5);
  request.decision_token = -1;
  try {
    bench.Decide(request, {});
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("policy 'snapkv': the trace marks no segment"));
  }
}

TEST(Workbench, StopsWhenCancelled) {
  const auto trace = MakeTinyTrace(kShape);
  Workbench bench(*trace);
  const std::atomic<bool> is_cancelled{true};
  EXPECT_FALSE(bench.Measure(bench.Decide(RequestOf(*trace, "h2o", 0.5), {}), is_cancelled));
}

}  // namespace
}  // namespace kvscope
