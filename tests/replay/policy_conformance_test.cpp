// SPDX-License-Identifier: Apache-2.0
// What every policy must do, whoever wrote it: run for every registered policy and combination, with no list to edit.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <tbb/global_control.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <mutex>
#include <numeric>

#include "core/error.h"
#include "replay/engine.h"
#include "replay/registry.h"
#include "tests/support/core_tiny_trace.h"

namespace kvscope {
namespace {

constexpr TinyShape kShape{.layers = 3, .heads = 9, .kv_heads = 3, .head_dim = 16, .tokens = 72, .steps = 5};
// The same with soft-capped scores, and a window in the middle layer.
constexpr TinyShape kWindowed{
    .layers = 3, .heads = 9, .kv_heads = 3, .head_dim = 16, .tokens = 72, .steps = 5, .window = 30, .softcap = 4};

std::vector<std::string> AllSpecs() {
  std::vector<std::string> specs;
  for (const auto& [name, info] : Scorers()) specs.push_back(name);
  for (const auto& [name, info] : Combinations()) specs.push_back(name);
  for (const char* spec : {"snapkv@int4",
                           "snapkv+ada@int8",
                           "tova@int8",
                           "h2o/chunk=4",
                           "h2o:every=3",
                           "adkvc@int4",
                           "snapkv+pyramid/chunk=8",
                           "random@int4",
                           "recent_window@fp32",
                           "h2o+lambda@mixed",
                           "snapkv+lambda@mixed",
                           "adkvc+uniform",
                           "adkvc+quantile",
                           "adkvc+thresholds",
                           "adkvc_literal:ladder=16",
                           "adkvc:every=2:scope=kv_head",
                           "adkvc:share=layer",
                           "adkvc@mixed:balance=key",
                           "adkvc@mixed:source=original",
                           "adkvc:oracle=relevance:every=1",
                           "snapkv@kivi:bits=4",
                           "adkvc:prefill_chunk=24:every=4",
                           "h2o:prefill_chunk=24"}) {
    specs.push_back(spec);
  }
  return specs;
}

std::string TestName(const testing::TestParamInfo<std::string>& info) {
  std::string name;
  for (const char c : info.param) name += std::isalnum(static_cast<unsigned char>(c)) ? std::string(1, c) : "_";
  return name;
}

BudgetSpec Fraction(double value) {
  return {BudgetSpec::Unit::kFraction, value};
}

PlanRequest RequestOf(const TraceSource& trace, const std::string& spec, const BudgetSpec& budget,
                      Protocol protocol = Protocol::kPrompt, Guards guards = {}) {
  return {PolicySpec::Parse(spec), budget, guards, DecisionToken(trace.info(), protocol)};
}

struct Outcome {
  std::vector<Plan> plans;
  std::vector<PlanMetrics> metrics;
};

Outcome Replay(const TraceSource& trace, const std::vector<PlanRequest>& requests, EvaluateOptions options = {}) {
  Outcome outcome;
  outcome.plans = MakePlans(trace, requests, {.seed = 5, .add_evidence = {}, .see_layer = {}});
  options.answer_begin = trace.info().prompt_tokens;
  outcome.metrics = Evaluate(trace, outcome.plans, options);
  return outcome;
}

double FullBytes(const Plan& plan, const TraceInfo& info) {
  double tokens = 0;
  for (const LayerInfo& layer : info.layers) {
    tokens += layer.window > 0 ? std::min(layer.window, plan.request.decision_token) : plan.request.decision_token;
  }
  return 2.0 * (plan.shape.head_dim_k + plan.shape.head_dim_v) * plan.shape.num_kv_heads * tokens;
}

class PolicyConformance : public testing::TestWithParam<std::string> {
 protected:
  // The traces that this policy can run on.
  std::vector<std::unique_ptr<MemoryTrace>> Traces() const {
    std::vector<std::unique_ptr<MemoryTrace>> traces;
    for (const TinyShape& shape : {kShape, kWindowed}) {
      auto trace = MakeTinyTrace(shape);
      if (WhyRefused(*trace, RequestOf(*trace, GetParam(), Fraction(0.5))).empty()) traces.push_back(std::move(trace));
    }
    const bool propagates = PolicySpec::Parse(GetParam()).Needs({3, 1, 1, 16, 16}).propagates_after >= 0;
    EXPECT_EQ(traces.size(), propagates ? 1u : 2u);
    return traces;
  }
};
INSTANTIATE_TEST_SUITE_P(All, PolicyConformance, testing::ValuesIn(AllSpecs()), TestName);

TEST_P(PolicyConformance, KeepsItsBytesWithinTheBudget) {
  const auto traces = Traces();
  for (const auto& trace : traces)
    for (const Protocol protocol : {Protocol::kPrompt, Protocol::kContext}) {
      for (const double fraction : {0.6, 0.3}) {
        const Outcome outcome = Replay(*trace, {RequestOf(*trace, GetParam(), Fraction(fraction), protocol)});
        const Plan& plan = outcome.plans[0];
        if (plan.needs.fixed_rate) GTEST_SKIP() << "fixed rate: it has no budget";
        const double budget = fraction * FullBytes(plan, trace->info()), per_entry = plan.BytesPerEntry();
        double decision_bytes = 0;
        std::vector<double> bytes(outcome.metrics[0].num_queries), read(bytes.size());
        for (const LayerMetrics& layer : outcome.metrics[0].layers) {
          decision_bytes += layer.decision_bytes;
          for (size_t query = 0; query < bytes.size(); ++query) {
            bytes[query] += layer.bytes_query[query], read[query] += layer.read_bytes_query[query];
          }
        }
        const double entries_per_step = plan.shape.num_layers * plan.shape.num_kv_heads;
        const double between = (plan.request.spec.every - 1) * entries_per_step * per_entry;  // two triggers
        const bool is_early = plan.request.spec.prefill_chunk > 0;
        if (!plan.policy->ChoosesReads()) {
          EXPECT_LE(decision_bytes, budget * (1 + 1e-9) + (is_early ? between : 0));
        }
        ASSERT_FALSE(bytes.empty());
        for (size_t query = 0; query < bytes.size(); ++query) {
          const double added = (static_cast<double>(query) + 1) * entries_per_step * per_entry;
          if (plan.policy->ChoosesReads()) {
            EXPECT_LE(read[query], budget + added);
          } else if (plan.request.spec.growth == Growth::kFixed) {
            EXPECT_LE(bytes[query], budget + between);
          } else if (!plan.store->groups_tokens() && trace == traces[0]) {
            EXPECT_NEAR(bytes[query], decision_bytes + added, 1e-6);
          } else if (!plan.store->groups_tokens()) {
            EXPECT_LE(bytes[query], decision_bytes + added);  // some of it leaves the window
          }
        }
      }
    }
}

TEST_P(PolicyConformance, IsTheSameAtAnyNumberOfThreads) {
  for (const auto& trace : Traces()) {
    const std::vector<PlanRequest> requests = {RequestOf(*trace, GetParam(), Fraction(0.4)),
                                               RequestOf(*trace, GetParam(), Fraction(0.2), Protocol::kContext)};
    EvaluateOptions options;
    options.needle_tokens = {36, 37};
    std::vector<std::vector<ResultRow>> rows;
    std::vector<std::vector<uint32_t>> arrays;  // as bits: NaN where a window has left the needle
    for (const int threads : {1, 2, 4}) {
      tbb::global_control control(tbb::global_control::max_allowed_parallelism, threads);
      const Outcome outcome = Replay(*trace, requests, options);
      rows.emplace_back(), arrays.emplace_back();
      for (const PlanMetrics& metrics : outcome.metrics) {
        std::vector<NamedArray> named;
        metrics.FillRow(1000, rows.back().emplace_back(), named);
        for (const NamedArray& array : named) {
          for (const float value : array.values) arrays.back().push_back(std::bit_cast<uint32_t>(value));
        }
      }
    }
    EXPECT_EQ(rows[1], rows[0]);
    EXPECT_EQ(rows[2], rows[0]);
    EXPECT_EQ(arrays[1], arrays[0]);
    EXPECT_EQ(arrays[2], arrays[0]);
  }
}

TEST_P(PolicyConformance, SurvivesTheSmallestTraces) {
  for (const TinyShape& shape : {TinyShape{.heads = 4, .kv_heads = 2, .head_dim = 16, .tokens = 1, .steps = 3},
                                 TinyShape{.heads = 4, .kv_heads = 2, .head_dim = 16, .tokens = 1, .steps = 0},
                                 TinyShape{.heads = 4, .kv_heads = 2, .head_dim = 16, .tokens = 20, .steps = 0},
                                 TinyShape{.layers = 1, .heads = 1, .kv_heads = 1, .head_dim = 16, .tokens = 2}}) {
    const auto trace = MakeTinyTrace(shape);
    for (const double fraction : {0.01, 0.02, 0.04}) {
      const Outcome outcome = Replay(*trace, {RequestOf(*trace, GetParam(), Fraction(fraction))});
      const PlanMetrics& metrics = outcome.metrics[0];
      EXPECT_EQ(metrics.num_queries, shape.steps);
      for (const LayerMetrics& layer : metrics.layers) {
        EXPECT_GE(layer.decision_entries, shape.kv_heads) << "at least one entry per KV head";
      }
      if (fraction > 0.01) continue;
      EXPECT_TRUE(outcome.plans[0].is_minimum || outcome.plans[0].needs.fixed_rate);
    }
  }
}

TEST_P(PolicyConformance, WorksForEveryGroupSize) {
  for (const auto& [heads, kv_heads] : {std::pair{9, 3}, {8, 8}, {8, 1}}) {
    const auto trace =
        MakeTinyTrace({.layers = 2, .heads = heads, .kv_heads = kv_heads, .head_dim = 32, .tokens = 50, .steps = 3});
    const Outcome outcome = Replay(*trace, {RequestOf(*trace, GetParam(), Fraction(0.5))});
    for (const LayerMetrics& layer : outcome.metrics[0].layers) {
      for (const double loss : layer.loss_head) {
        EXPECT_GE(loss, 0);
        EXPECT_LT(loss, 3);  // queries
      }
    }
  }
}

TEST_P(PolicyConformance, WithRoomForEverythingEqualsTheFullCache) {
  const PolicySpec spec = PolicySpec::Parse(GetParam());
  if (spec.store != "fp16" && spec.store != "fp32") GTEST_SKIP() << "the store loses bits";
  for (const auto& trace : Traces()) {
    const Outcome outcome = Replay(*trace, {RequestOf(*trace, GetParam(), {BudgetSpec::Unit::kTokens, 1000})});
    // With growth=fixed the cache stays as large as the prompt, so the first query alone sees everything.
    const int queries = spec.growth == Growth::kFixed ? 1 : kShape.steps;
    for (const LayerMetrics& layer : outcome.metrics[0].layers) {
      for (int query = 0; query < queries; ++query) {
        EXPECT_LT(layer.error_query[query] / kShape.heads, 1e-5);
        EXPECT_LT(layer.loss_query[query] / kShape.heads, 1e-5);
      }
    }
  }
}

// With a window nothing is billed beyond it, however long it goes on.
TEST_P(PolicyConformance, HoldsNoMoreThanTheWindow) {
  const PolicySpec spec = PolicySpec::Parse(GetParam());
  if (spec.MakeStore()->groups_tokens()) GTEST_SKIP() << "entries leave by the group: see kivi_test";
  TinyShape shape = kWindowed;
  shape.steps = 40;
  const auto trace = MakeTinyTrace(shape);
  if (!WhyRefused(*trace, RequestOf(*trace, GetParam(), Fraction(1))).empty()) GTEST_SKIP() << "not with windows";
  const Outcome outcome = Replay(*trace, {RequestOf(*trace, GetParam(), {BudgetSpec::Unit::kTokens, 1000})});
  const Plan& plan = outcome.plans[0];
  const double most = plan.BytesPerEntry() * shape.kv_heads * shape.window;
  EXPECT_LE(outcome.metrics[0].layers[1].decision_bytes, most);
  for (const double bytes : outcome.metrics[0].layers[1].bytes_query) EXPECT_LE(bytes, most);
  EXPECT_GT(outcome.metrics[0].layers[0].bytes_query.back(), 2 * most);
}

TEST_P(PolicyConformance, NeverBeatsTheOracleWithTheSameCounts) {
  for (const auto& trace : Traces()) {
    EvaluateOptions options;
    std::mutex mutex;
    int seen = 0;
    options.see_query = [&](const QueryDetail& detail) {
      const int visible = detail.query_token + 1;
      std::vector<double> weight(visible);
      for (size_t head = 0; head < detail.kept_mass.size(); ++head) {
        for (int token = 0; token < visible; ++token) {
          weight[token] += detail.full_weights[static_cast<int64_t>(head) * detail.stride + token];
        }
      }
      std::sort(weight.begin(), weight.end(), std::greater<>());
      const double best = std::accumulate(weight.begin(), weight.begin() + detail.entries, 0.0);
      const double kept = std::accumulate(detail.kept_mass.begin(), detail.kept_mass.end(), 0.0);
      const std::lock_guard lock(mutex);
      EXPECT_LE(kept, best + 1e-5) << "layer " << detail.layer_index << ", KV head " << detail.kv_head;
      if (GetParam() == "top_k_oracle") {
        EXPECT_NEAR(kept, best, 1e-5);
      }
      ++seen;
    };
    Replay(*trace, {RequestOf(*trace, GetParam(), Fraction(0.3))}, options);
    EXPECT_EQ(seen, kShape.layers * kShape.kv_heads * kShape.steps);
  }
}

TEST_P(PolicyConformance, RespectsGuards) {
  if (PolicySpec::Parse(GetParam()).prefill_chunk > 0) GTEST_SKIP() << "the plan is that of an earlier decision";
  for (const auto& trace : Traces()) {
    const Guards guards{.sinks = 3, .recent = 4};
    // Evaluate checks the guards after every eviction; here those of the decision.
    const Outcome outcome = Replay(*trace, {RequestOf(*trace, GetParam(), Fraction(0.4), Protocol::kContext, guards)});
    const int decision = outcome.plans[0].request.decision_token;
    for (int layer = 0; layer < kShape.layers; ++layer) {
      const int window = trace->info().layers[layer].window;
      for (const HeadPlan& head : outcome.plans[0].layers[layer]) {
        for (const int token : {0, 1, 2, decision - 4, decision - 3, decision - 2, decision - 1}) {
          const bool has_left = window > 0 && token < decision - window;
          EXPECT_EQ(std::binary_search(head.keep.begin(), head.keep.end(), token), !has_left) << token;
        }
      }
    }
    if (outcome.plans[0].needs.fixed_rate) continue;
    EXPECT_THROW(
        MakePlans(*trace, {RequestOf(*trace, GetParam(), {BudgetSpec::Unit::kTokens, 5}, Protocol::kPrompt, guards)},
                  {}),
        Error)
        << "guards above the budget";
  }
}

// ---- properties of a few ------------------------------------------------------------------------------------------

// All keys alike: every row is uniform, so that relevance ties everywhere.
std::unique_ptr<MemoryTrace> MakeTiedTrace(const TinyShape& shape) {
  TinyRun run = MakeTinyRun(shape);
  for (size_t layer = 0; layer < run.layers.size(); ++layer) {
    LayerChunk& chunk = run.layers[layer];
    const std::span<Half> k = chunk.k.halves();
    for (size_t i = 0; i < k.size(); ++i) k[i] = k[i % shape.head_dim];
    for (int head = 0; head < shape.heads; ++head) {
      for (int token = 0; token < chunk.num_tokens; ++token) {
        double lse = 0;
        ExactWeights(run.info.layers[layer], chunk, head, token, &lse);
        chunk.lse[static_cast<size_t>(head) * chunk.num_tokens + token] = static_cast<float>(lse);
      }
    }
  }
  auto trace = std::make_unique<MemoryTrace>(run.info);
  trace->AppendTokens(run.tokens);
  for (size_t layer = 0; layer < run.layers.size(); ++layer)
    trace->AppendChunk(static_cast<int>(layer), 0, run.layers[layer]);
  return trace;
}

TEST(PolicyTies, GoToTheLowerToken) {
  const auto trace = MakeTiedTrace({.heads = 4, .kv_heads = 2, .head_dim = 16, .tokens = 40, .steps = 2});
  const BudgetSpec budget{BudgetSpec::Unit::kTokens, 12};
  for (const auto& [spec, window] : {std::pair{"tova", 0}, {"snapkv:window=4:pool=1", 4}}) {
    const auto plans = MakePlans(*trace, {RequestOf(*trace, spec, budget)}, {});
    std::vector<int> expected(12);
    std::iota(expected.begin(), expected.end(), 0);
    for (int i = 0; i < window; ++i) expected[12 - window + i] = 40 - window + i;
    for (const LayerPlan& layer : plans[0].layers) {
      for (const HeadPlan& head : layer) EXPECT_EQ(head.keep, expected) << spec;
    }
  }
}

class Broken : public Policy {
 public:
  PolicyNeeds Needs(const ModelShape&) const override { return {}; }
  void AfterLayer(const LayerView&) override {}
  Budgets Allocate(const ModelShape& shape, std::span<const PolicyBudget> asked) override {
    const int uniform_entries = asked[0].uniform_entries;
    return Budgets(shape.num_layers, std::vector<int>(shape.num_kv_heads, uniform_entries));
  }
  LayerPlan Select(int, const std::vector<int>& budget) override {
    LayerPlan plan(budget.size());
    for (size_t head = 0; head < plan.size(); ++head) {
      plan[head].keep.resize(budget[head]);
      std::iota(plan[head].keep.begin(), plan[head].keep.end(), 0);
    }
    return plan;
  }
  bool WatchesSteps() const override { return false; }
  std::optional<LayerPlan> AfterStep(const StepView&, const std::vector<int>&) override { return std::nullopt; }
  std::unique_ptr<Policy> Snapshot() const override { return std::make_unique<Broken>(*this); }
};

// One rule broken each.
template <typename Change>
class BrokenPlan final : public Broken {
 public:
  explicit BrokenPlan(Change change) : change_(change) {}
  LayerPlan Select(int layer, const std::vector<int>& budget) override {
    LayerPlan plan = Broken::Select(layer, budget);
    change_(plan);
    return plan;
  }
  std::unique_ptr<Policy> Snapshot() const override { return std::make_unique<BrokenPlan>(*this); }

 private:
  Change change_;
};

class GreedyBudgets final : public Broken {
 public:
  Budgets Allocate(const ModelShape& shape, std::span<const PolicyBudget> asked) override {
    const int uniform_entries = asked[0].uniform_entries;
    Budgets budgets(shape.num_layers, std::vector<int>(shape.num_kv_heads, uniform_entries));
    ++budgets[0][0];
    return budgets;
  }
  std::unique_ptr<Policy> Snapshot() const override { return std::make_unique<GreedyBudgets>(*this); }
};

std::string ComplaintOf(const std::function<std::unique_ptr<Policy>()>& make_policy) {
  const auto trace = MakeTinyTrace(kShape);
  PlanRequest request = RequestOf(*trace, "recent_window", {BudgetSpec::Unit::kTokens, 10});
  request.make_policy = make_policy;
  try {
    MakePlans(*trace, {request}, {});
  } catch (const Error& error) {
    return error.what();
  }
  return "no complaint";
}

template <typename Change>
std::string ComplaintOfPlan(Change change) {
  return ComplaintOf([change] { return std::make_unique<BrokenPlan<Change>>(change); });
}

TEST(BrokenPolicy, IsCaughtAndNamed) {
  using testing::AllOf;
  using testing::HasSubstr;
  const auto named = HasSubstr("policy 'recent_window'");
  EXPECT_THAT(ComplaintOfPlan([](LayerPlan&) {}), HasSubstr("no complaint"));
  EXPECT_THAT(ComplaintOfPlan([](LayerPlan& plan) { plan[1].keep.push_back(11); }),
              AllOf(named, HasSubstr("at most 10 entries")));
  EXPECT_THAT(ComplaintOfPlan([](LayerPlan& plan) { std::swap(plan[2].keep[0], plan[2].keep[1]); }),
              AllOf(named, HasSubstr("ascending")));
  EXPECT_THAT(ComplaintOfPlan([](LayerPlan& plan) { plan[0].keep.back() = 72; }),
              AllOf(named, HasSubstr("slots from 0 to 71")));
  EXPECT_THAT(ComplaintOfPlan([](LayerPlan& plan) { plan[0].keep.clear(); }),
              AllOf(named, HasSubstr("at least 1 entry")));
  EXPECT_THAT(ComplaintOfPlan([](LayerPlan& plan) { plan.pop_back(); }), AllOf(named, HasSubstr("3 KV heads")));
  EXPECT_THAT(ComplaintOfPlan([](LayerPlan& plan) { plan[0].bits.assign(10, 17); }),
              AllOf(named, HasSubstr("do not rise")));
  EXPECT_THAT(ComplaintOf([] { return std::make_unique<GreedyBudgets>(); }),
              AllOf(named, HasSubstr("at most 90 entries")));
}

}  // namespace
}  // namespace kvscope
