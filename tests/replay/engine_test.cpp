// SPDX-License-Identifier: Apache-2.0
// The engine against sums written out in double, on traces small enough for that.
#include "replay/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <mutex>
#include <numeric>
#include <set>

#include "core/error.h"
#include "replay/analysis.h"
#include "tests/support/core_tiny_trace.h"

namespace kvscope {
namespace {

using testing::HasSubstr;

constexpr TinyShape kShape{.layers = 2, .heads = 4, .kv_heads = 2, .head_dim = 16, .tokens = 48, .steps = 4};

PlanRequest RequestOf(const TraceSource& trace, const std::string& spec, int keep_tokens,
                      Protocol protocol = Protocol::kPrompt) {
  const BudgetSpec budget{BudgetSpec::Unit::kTokens, double(keep_tokens)};
  return {PolicySpec::Parse(spec), budget, {}, DecisionToken(trace.info(), protocol)};
}

EvaluateOptions OptionsFor(const TraceSource& trace, int decision) {
  EvaluateOptions options;
  options.answer_begin = trace.info().prompt_tokens;
  options.needle_tokens = NeedleTokens(trace.info(), decision);
  return options;
}

// Output of one head over `tokens` with weights renormalised over them.
std::vector<double> OutputOver(const TinyRun& run, int layer, int head, int query, const std::set<int>& tokens,
                               int num_tokens = kShape.tokens + kShape.steps) {
  const std::vector<double> weights = ExactWeights(run.info.layers[layer], run.layers[layer], head, query);
  const int dim = kShape.head_dim;
  std::vector<double> out(dim);
  double sum = 0;
  for (const int token : tokens) {
    sum += weights[token];
    const size_t row = (size_t(head / 2) * num_tokens + token) * dim;
    for (int i = 0; i < dim; ++i) out[i] += weights[token] * FloatFromHalf(run.layers[layer].v.halves()[row + i]);
  }
  for (double& value : out) value /= sum;
  return out;
}

class EngineProtocol : public testing::TestWithParam<Protocol> {};
INSTANTIATE_TEST_SUITE_P(Both, EngineProtocol, testing::Values(Protocol::kPrompt, Protocol::kContext),
                         [](const auto& test) { return std::string(Name(test.param)); });

TEST_P(EngineProtocol, MetricsOfARecentWindowAreThoseWrittenOut) {
  const TinyRun run = MakeTinyRun(kShape);
  const auto trace = MakeTinyTrace(kShape);
  const int decision = DecisionToken(run.info, GetParam()), last = kShape.tokens + kShape.steps;
  EXPECT_EQ(decision, GetParam() == Protocol::kPrompt ? 48 : 42);
  const auto plans = MakePlans(*trace, {RequestOf(*trace, "recent_window:every=0:growth=append", 20, GetParam())}, {});
  const auto metrics = Evaluate(*trace, plans, OptionsFor(*trace, decision));
  ASSERT_EQ(metrics[0].num_queries, last - decision);
  ASSERT_EQ(metrics[0].num_answer_queries, kShape.steps);
  for (int layer = 0; layer < kShape.layers; ++layer) {
    const LayerMetrics& found = metrics[0].layers[layer];
    for (int head = 0; head < kShape.heads; ++head) {
      double loss = 0, error = 0, needle = 0, full_needle = 0, overlap = 0;
      for (int query = decision; query < last; ++query) {
        const std::vector<double> weights = ExactWeights(run.info.layers[layer], run.layers[layer], head, query);
        std::set<int> seen, all;
        for (int token = 0; token <= query; ++token) {
          all.insert(token);
          if (token >= decision - 20) seen.insert(token);
        }
        double kept = 0;
        for (const int token : seen) kept += weights[token];
        loss += 1 - kept;
        const auto out = OutputOver(run, layer, head, query, seen), full = OutputOver(run, layer, head, query, all);
        double difference = 0, size = 0;
        for (int i = 0; i < kShape.head_dim; ++i)
          difference += std::pow(out[i] - full[i], 2), size += full[i] * full[i];
        error += std::sqrt(difference / size);
        overlap += double(seen.size()) / double(all.size());  // fewer than 64 tokens: all of them are the top
        if (query < kShape.tokens) continue;
        for (const int token : {24, 25}) {
          full_needle += weights[token];
          if (seen.contains(token)) needle += weights[token] / kept;
        }
      }
      EXPECT_NEAR(found.loss_head[head], loss, 1e-4);
      EXPECT_NEAR(found.error_head[head], error, 1e-4);
      EXPECT_NEAR(found.overlap_head[head], overlap, 1e-9);
      EXPECT_NEAR(found.needle_weight_head[head], needle, 1e-4);
      EXPECT_NEAR(found.full_needle_weight_head[head], full_needle, 1e-4);
    }
    const double kept_share = GetParam() == Protocol::kPrompt ? 0.0 : 1.0;  // 24, 25 lie in [22, 42), not in [28, 48)
    EXPECT_NEAR(found.retention_kv_head[0], kept_share * kShape.steps, 1e-9);
    EXPECT_EQ(found.decision_entries, 2 * 20);
    EXPECT_EQ(found.bytes_query[0], 2 * 21 * 64.0);
  }
}

TEST(Engine, StepwisePoliciesSeeWeightsOverTheirOwnCache) {
  // Keeps the newest `budget` entries and writes down what it saw.
  struct Watcher final : Policy {
    struct Log {
      std::mutex mutex;
      std::vector<std::string> complaints;
      int seen = 0;
    };
    Watcher(const TinyRun* the_run, Log* the_log) : run(the_run), log(the_log) {}
    const TinyRun* run;
    Log* log;
    PolicyNeeds Needs(const ModelShape&) const override { return {}; }
    void AfterLayer(const LayerView&) override {}
    Budgets Allocate(const ModelShape& shape, std::span<const PolicyBudget> asked) override {
      const int entries = asked[0].uniform_entries;
      return Budgets(shape.num_layers, std::vector<int>(shape.num_kv_heads, entries));
    }
    LayerPlan Select(int, const std::vector<int>& budget) override { return Newest(48, budget); }
    static LayerPlan Newest(int slots, const std::vector<int>& budget) {
      LayerPlan plan(budget.size());
      for (size_t head = 0; head < budget.size(); ++head) {
        for (int slot = slots - budget[head]; slot < slots; ++slot) plan[head].keep.push_back(slot);
      }
      return plan;
    }
    bool WatchesSteps() const override { return true; }
    std::optional<LayerPlan> AfterStep(const StepView& step, const std::vector<int>& budget) override {
      const std::lock_guard lock(log->mutex);
      for (int head = 0; head < 4; ++head) {
        const auto full = ExactWeights(run->info.layers[step.layer_index()], run->layers[step.layer_index()], head,
                                       step.query_token());
        double kept = 0;
        for (const int token : step.TokenFromSlot(head / 2)) kept += full[token];
        for (size_t slot = 0; slot < step.Weight(head).size(); ++slot) {
          const double expected = full[step.TokenFromSlot(head / 2)[slot]] / kept;
          if (std::fabs(step.Weight(head)[slot] - expected) > 1e-4)
            log->complaints.push_back(StrCat("head ", head, " slot ", slot));
        }
        ++log->seen;
      }
      return Newest(static_cast<int>(step.TokenFromSlot(0).size()), budget);
    }
    std::unique_ptr<Policy> Snapshot() const override { return std::make_unique<Watcher>(*this); }
  };
  const TinyRun run = MakeTinyRun(kShape);
  const auto trace = MakeTinyTrace(kShape);
  Watcher::Log log;
  PlanRequest request = RequestOf(*trace, "recent_window", 10);
  request.make_policy = [&] { return std::make_unique<Watcher>(&run, &log); };
  const auto plans = MakePlans(*trace, {request}, {});
  const auto metrics = Evaluate(*trace, plans, OptionsFor(*trace, 48));
  EXPECT_THAT(log.complaints, testing::IsEmpty());
  EXPECT_EQ(log.seen, kShape.layers * kShape.steps * kShape.heads);
  // Evicted after every query: the size stays, whatever the spec's own growth.
  EXPECT_EQ(metrics[0].layers[0].bytes_query.back(), 2 * 10 * 64.0);
}

// The second layer sees 30 tokens. 25 .. 47 are kept in both; the needle is 24, 25.
TEST(Engine, WindowsAndSoftCapsAreThoseOfTheLayer) {
  TinyShape shape = kShape;
  shape.steps = 12, shape.window = 30, shape.softcap = 3;
  const TinyRun run = MakeTinyRun(shape);
  const auto trace = MakeTinyTrace(shape);
  const auto plans = MakePlans(
      *trace, {RequestOf(*trace, "recent_window:every=0:growth=append", 23), RequestOf(*trace, "full", 48)}, {});
  EXPECT_EQ(plans[0].FullBytes(), 2 * (48 + 30) * 64.0);
  EXPECT_EQ(plans[1].layers[1][0].keep.size(), 30u);
  EvaluateOptions options = OptionsFor(*trace, 48);
  std::vector<CacheAction> actions;
  std::mutex mutex;
  options.see_actions = [&](size_t, std::span<const CacheAction> of_query) {
    const std::lock_guard lock(mutex);
    actions.insert(actions.end(), of_query.begin(), of_query.end());
  };
  const auto metrics = Evaluate(*trace, plans, options);
  EXPECT_TRUE(actions.empty()) << "what leaves the window is not evicted";
  for (int layer = 0; layer < 2; ++layer) {
    const LayerMetrics& found = metrics[0].layers[layer];
    for (int head = 0; head < shape.heads; ++head) {
      double loss = 0, error = 0, needle = 0;
      for (int query = 48; query < 60; ++query) {
        const std::vector<double> weights = ExactWeights(run.info.layers[layer], run.layers[layer], head, query);
        std::set<int> seen, all;
        for (int token = layer == 1 ? query - 29 : 0; token <= query; ++token) {
          all.insert(token);
          if (token >= 25) seen.insert(token);
        }
        double kept = 0;
        for (const int token : seen) kept += weights[token];
        loss += 1 - kept;
        if (seen.contains(25)) needle += weights[25] / kept;
        const auto out = OutputOver(run, layer, head, query, seen, 60),
                   full = OutputOver(run, layer, head, query, all, 60);
        double difference = 0, size = 0;
        for (int i = 0; i < shape.head_dim; ++i) difference += std::pow(out[i] - full[i], 2), size += full[i] * full[i];
        error += std::sqrt(difference / size);
      }
      EXPECT_NEAR(found.loss_head[head], loss, 1e-4);
      EXPECT_NEAR(found.error_head[head], error, 2e-4);
      EXPECT_NEAR(found.needle_weight_head[head], needle, 1e-4);
      EXPECT_LT(metrics[1].layers[layer].error_head[head], 1e-5);
      EXPECT_LT(metrics[1].layers[layer].loss_head[head], 1e-5);
    }
    for (int query = 0; query < 12; ++query) {
      const int entries = std::min(23 + query + 1, layer == 1 ? 30 : 60);
      EXPECT_EQ(found.bytes_query[query], 2 * entries * 64.0);
      EXPECT_EQ(bool{found.sees_needle_query[query] != 0}, layer == 0 || 48 + query - 29 <= 25);
    }
  }
  ResultRow row;
  std::vector<NamedArray> arrays;
  metrics[0].FillRow(plans[0].FullBytes(), row, arrays);
  // Of the window layer's queries, six see both needle tokens and one the second alone.
  EXPECT_NEAR(*row.Number("needle_retention"), (0.5 + (6 * 0.5 + 1) / 7) / 2, 1e-6);
  EXPECT_NEAR(*row.Number("kept_fraction"), 46.0 / 78, 1e-9);
}

// A policy that watches is told what has left, so that its slots stay those of the cache.
TEST(Engine, RelevanceFollowsTheWindow) {
  TinyShape shape = kShape;
  shape.steps = 30, shape.window = 20;
  const auto trace = MakeTinyTrace(shape);
  for (const char* spec : {"h2o", "adkvc:every=4", "tova", "mikv", "adkvc@mixed:source=original"}) {
    PlanRequest request = RequestOf(*trace, spec, 0);
    request.budget = {BudgetSpec::Unit::kFraction, 0.6};
    const auto metrics = Evaluate(*trace, MakePlans(*trace, {request}, {}), OptionsFor(*trace, 48));
    EXPECT_EQ(metrics[0].num_queries, 30) << spec;
    EXPECT_LE(metrics[0].layers[1].bytes_query.back(), 2 * 20 * (64.0 + 8)) << spec;
  }
}

TEST(Engine, TokensThatGoOnAndWindowsAreRefusedTogether) {
  const auto trace = MakeTinyTrace({.layers = 4, .head_dim = 16, .window = 20});
  EXPECT_THAT(WhyRefused(*trace, RequestOf(*trace, "fastkv", 10)),
              HasSubstr("lets a part of the tokens go on, and layer 1 sees a window of 20 tokens"));
  const auto wide = MakeTinyTrace({.layers = 4, .head_dim = 16, .window = 100});
  EXPECT_EQ(WhyRefused(*wide, RequestOf(*wide, "fastkv", 10)), "");
}

TEST(Engine, BudgetsThatShareAPolicyEqualThoseThatDoNot) {
  const auto trace = MakeTinyTrace(kShape);
  const std::vector<PlanRequest> both = {RequestOf(*trace, "snapkv:window=4", 20),
                                         RequestOf(*trace, "snapkv:window=4", 10),
                                         RequestOf(*trace, "snapkv:window=4", 10, Protocol::kContext)};
  const auto together = MakePlans(*trace, both, {});
  for (size_t i = 0; i < both.size(); ++i) {
    const auto alone = MakePlans(*trace, {both[i]}, {});
    for (int layer = 0; layer < kShape.layers; ++layer) {
      for (int kv_head = 0; kv_head < kShape.kv_heads; ++kv_head) {
        EXPECT_EQ(together[i].layers[layer][kv_head].keep, alone[0].layers[layer][kv_head].keep);
      }
    }
  }
}

// Both decide first after 16 tokens, but not for the same whole.
TEST(Engine, ProtocolsThatDecideFirstAtTheSameTokenStayApart) {
  const auto trace = MakeTinyTrace(kShape);
  std::vector<PlanRequest> both;
  for (const Protocol protocol : {Protocol::kPrompt, Protocol::kContext}) {
    both.push_back(RequestOf(*trace, "h2o:prefill_chunk=16", 1, protocol));
    both.back().budget = {BudgetSpec::Unit::kFraction, 0.5};
  }
  const auto together = MakePlans(*trace, both, {});
  for (size_t i = 0; i < both.size(); ++i) {
    const auto alone = MakePlans(*trace, {both[i]}, {});
    EXPECT_EQ(together[i].request.decision_token, both[i].decision_token);
    EXPECT_EQ(together[i].asked[0].uniform_entries, alone[0].asked[0].uniform_entries);
    EXPECT_EQ(together[i].FullBytes(), alone[0].FullBytes());
  }
  EXPECT_NE(together[0].asked[0].uniform_entries, together[1].asked[0].uniform_entries);
}

TEST(Engine, QuantisedStoresErrEvenWhenTheyKeepEverything) {
  const auto trace = MakeTinyTrace(kShape);
  const auto plans = MakePlans(
      *trace, {RequestOf(*trace, "full", 48), RequestOf(*trace, "full@int8", 48), RequestOf(*trace, "full@int4", 48)},
      {});
  const auto metrics = Evaluate(*trace, plans, OptionsFor(*trace, 48));
  double error[3] = {}, loss = 0;
  for (int i = 0; i < 3; ++i) {
    for (const LayerMetrics& layer : metrics[i].layers) {
      for (const double value : layer.error_head) error[i] += value;
      for (const double value : layer.loss_head) loss += value;
    }
  }
  EXPECT_EQ(error[0], 0) << "the full cache is the reference, bit for bit";
  EXPECT_GT(error[1], 1e-3);
  EXPECT_GT(error[2], 2 * error[1]);
  EXPECT_EQ(loss, 0);
}

TEST(Engine, RefusesWithAReason) {
  const auto trace = MakeTinyTrace({.head_dim = 16, .tokens = 48, .query_rows = "last:8"});
  EXPECT_EQ(WhyRefused(*trace, RequestOf(*trace, "snapkv:window=8", 10)), "");
  EXPECT_THAT(WhyRefused(*trace, RequestOf(*trace, "h2o", 10)),
              HasSubstr("statistic sum needs the query rows of tokens 0 to 47"));
  const auto relevance = MakeTinyTrace({.head_dim = 16, .level = TraceLevel::kRelevance});
  EXPECT_THAT(WhyRefused(*relevance, RequestOf(*relevance, "full", 10)), HasSubstr("level relevance"));
  TinyRun run = MakeTinyRun(kShape);
  for (Segment& segment : run.info.segments) segment.decide_at = false;
  MemoryTrace unmarked(run.info);
  unmarked.AppendTokens(run.tokens);
  for (size_t i = 0; i < run.layers.size(); ++i) unmarked.AppendChunk(int(i), 0, run.layers[i]);
  EXPECT_EQ(DecisionToken(run.info, Protocol::kContext), -1);
  EXPECT_THAT(WhyRefused(unmarked, RequestOf(unmarked, "full", 10, Protocol::kContext)), HasSubstr("marks no segment"));
  EXPECT_EQ(WhyRefused(unmarked, RequestOf(unmarked, "full", 10)), "");
}

TEST(Engine, DamagedNumbersAreAnErrorAndNotACrash) {
  for (const float bad : {NAN, INFINITY, -1e4f, 1e4f}) {
    TinyRun run = MakeTinyRun(kShape);
    for (float& lse : run.layers[1].lse) lse = bad;
    MemoryTrace trace(run.info);
    trace.AppendTokens(run.tokens);
    for (size_t i = 0; i < run.layers.size(); ++i) trace.AppendChunk(int(i), 0, run.layers[i]);
    for (const char* spec : {"h2o", "recent_window"}) {
      try {
        const auto plans = MakePlans(trace, {RequestOf(trace, spec, 10)}, {});
        Evaluate(trace, plans, OptionsFor(trace, 48));
        ADD_FAILURE() << spec << " with lse " << bad;
      } catch (const Error& error) {
        EXPECT_THAT(error.what(), HasSubstr("damaged"));
      }
    }
  }
}

}  // namespace
}  // namespace kvscope
