// SPDX-License-Identifier: Apache-2.0
#include "replay/sweep.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <tbb/global_control.h>

#include <atomic>

#include "core/error.h"
#include "replay/sweep_flags.h"
#include "tests/support/core_tiny_trace.h"

namespace kvscope {
namespace {

using testing::HasSubstr;

constexpr TinyShape kShape{.layers = 2, .heads = 6, .kv_heads = 2, .head_dim = 16, .tokens = 64, .steps = 4};

SweepOptions Options(std::vector<std::string> policies, std::vector<double> fractions) {
  SweepOptions options;
  options.policies = std::move(policies);
  for (const double fraction : fractions) options.budgets.push_back({BudgetSpec::Unit::kFraction, fraction});
  return options;
}

Results Replay(const TraceSource& trace, const SweepOptions& options) {
  Results results;
  ReplayTrace(trace, "tiny.kvtrace.h5", options, results);
  return results;
}

TEST(Sweep, AddsNothingWhenCancelled) {
  TinyShape many_layers = kShape;
  many_layers.layers = 6;  // more than are looked at together
  const auto trace = MakeTinyTrace(many_layers);
  SweepOptions options = Options({"snapkv"}, {0.5});
  std::atomic<bool> is_cancelled = true;
  options.is_cancelled = &is_cancelled;
  EXPECT_TRUE(Replay(*trace, options).rows.empty());
  // In the middle: after the first layer was seen.
  is_cancelled = false;
  options.progress = [&](double) { is_cancelled = true; };
  const Results results = Replay(*trace, options);
  EXPECT_TRUE(results.rows.empty());
  EXPECT_TRUE(results.traces.empty());
}

TEST(Sweep, HasARowForEveryCellAndTheThreeOfEveryTable) {
  const auto trace = MakeTinyTrace(kShape);
  SweepOptions options = Options({"snapkv", "full@int8", "random"}, {0.5, 0.25});
  options.protocols = {Protocol::kPrompt, Protocol::kContext};
  const Results results = Replay(*trace, options);
  std::vector<std::string> policies;
  for (size_t i = 0; i < results.rows.size() / 2; ++i) policies.push_back(results.rows[i].figures.Text("policy"));
  EXPECT_EQ(policies, (std::vector<std::string>{"full", "snapkv", "snapkv", "full@int8", "random", "random",
                                                "top_k_oracle", "top_k_oracle"}));
  for (size_t i = 0; i < results.rows.size(); ++i) {
    const ResultRow& row = results.rows[i].figures;
    EXPECT_EQ(row.Text("protocol"), i < policies.size() ? "prompt" : "context");
    EXPECT_EQ(row.Text("mode"), "replay");
    EXPECT_EQ(row.Text("run_id"), "tiny-1");
    const bool is_fixed_rate = row.Text("policy").starts_with("full");
    EXPECT_EQ(row.Has("keep_fraction_asked"), !is_fixed_rate);
    EXPECT_FALSE(row.Has("refused_reason"));
    for (const char* column :
         {"attention_loss", "output_error", "kept_bytes_prefill", "needle_retention", "topk_overlap"}) {
      EXPECT_TRUE(row.Has(column)) << column;
    }
    EXPECT_TRUE(results.rows[i].Find("kept"));
  }
  EXPECT_EQ(results.traces.size(), 1u);
  options.is_bare = true;
  options.analyzes = options.keeps_kept = false;
  const Results bare = Replay(*trace, options);
  EXPECT_EQ(bare.rows.size(), 2u * 5);
  EXPECT_TRUE(bare.traces.empty());
  EXPECT_FALSE(bare.rows[0].Find("kept"));
}

TEST(Sweep, QueryAwareIsWhoDecidedAtThePromptByReadingRows) {
  const auto trace = MakeTinyTrace(kShape);
  SweepOptions options = Options({"snapkv", "streaming_llm"}, {0.5});
  options.protocols = {Protocol::kPrompt, Protocol::kContext};
  for (const Results::Row& row : Replay(*trace, options).rows) {
    const bool expected = row.figures.Text("policy") == "top_k_oracle" ||
                          (row.figures.Text("policy") == "snapkv" && row.figures.Text("protocol") == "prompt");
    EXPECT_EQ(*row.figures.Number("query_aware") == 1, expected) << row.figures.Text("policy");
  }
}

TEST(Sweep, APolicyThatPropagatesIsAnApproximationInReplay) {
  const auto trace = MakeTinyTrace(kShape);
  const PlanRequest request{PolicySpec::Parse("fastkv"), {BudgetSpec::Unit::kFraction, 0.5}, {}, 64};
  EXPECT_EQ(DescribeRow(trace->info(), "tiny", request, Protocol::kPrompt, "replay", 0).Text("class_note"),
            "later layers as of the whole prefill");
  EXPECT_EQ(DescribeRow(trace->info(), "tiny", request, Protocol::kPrompt, "live", 0).Text("class_note"), "");
}

TEST(Sweep, BytesAreThoseOfTheKeptEntries) {
  const auto trace = MakeTinyTrace(kShape);
  const Results results = Replay(*trace, Options({"snapkv:window=4", "snapkv@int8:window=4"}, {0.5}));
  for (const Results::Row& row : results.rows) {
    const NamedArray* kept = row.Find("kept");
    ASSERT_TRUE(kept);
    double entries = 0;
    for (const float value : kept->values) entries += value;
    EXPECT_EQ(*row.figures.Number("kept_tokens"), entries / 4);
    EXPECT_EQ(*row.figures.Number("full_bytes"), 2.0 * 2 * 64 * 2 * 32);
    const double per_entry = row.figures.Text("policy").starts_with("snapkv@int8") ? 36 : 64;
    EXPECT_EQ(*row.figures.Number("kept_bytes_prefill"), entries * per_entry) << row.figures.Text("policy");
  }
}

TEST(Sweep, IsTheSameAtAnyNumberOfThreads) {
  const auto trace = MakeTinyTrace(kShape);
  const SweepOptions options = Options({"snapkv+ada", "h2o", "adkvc"}, {0.5, 0.3});
  std::vector<Results> all;
  for (const int threads : {1, 2, 4}) {
    tbb::global_control control(tbb::global_control::max_allowed_parallelism, threads);
    all.push_back(Replay(*trace, options));
  }
  for (size_t i = 1; i < all.size(); ++i) {
    for (size_t row = 0; row < all[0].rows.size(); ++row) {
      EXPECT_EQ(all[i].rows[row].figures, all[0].rows[row].figures);
      for (size_t array = 0; array < all[0].rows[row].arrays.size(); ++array) {
        EXPECT_EQ(all[i].rows[row].arrays[array].values, all[0].rows[row].arrays[array].values);
      }
    }
    for (size_t array = 0; array < all[0].traces[0].arrays.size(); ++array) {
      EXPECT_EQ(all[i].traces[0].arrays[array].values, all[0].traces[0].arrays[array].values);
    }
  }
}

TEST(Sweep, ARefusedPolicyGivesARowThatSaysWhy) {
  TinyShape shape = kShape;
  shape.query_rows = "last:32";
  const auto part = MakeTinyTrace(shape);
  const Results results = Replay(*part, Options({"h2o", "snapkv:window=16"}, {0.5}));
  for (const Results::Row& row : results.rows) {
    const bool is_h2o = row.figures.Text("policy") == "h2o";
    EXPECT_EQ(row.figures.Has("refused_reason"), is_h2o) << row.figures.Text("refused_reason");
    EXPECT_EQ(row.figures.Has("attention_loss"), !is_h2o);
  }
  shape.level = TraceLevel::kRelevance;
  const Results none = Replay(*MakeTinyTrace(shape), Options({"snapkv"}, {0.5}));
  ASSERT_EQ(none.rows.size(), 4u);
  for (const Results::Row& row : none.rows)
    EXPECT_THAT(row.figures.Text("refused_reason"), HasSubstr("level relevance"));
  EXPECT_TRUE(none.traces.empty());
}

TEST(Sweep, MinimumOfOneEntryIsMarked) {
  const auto trace = MakeTinyTrace(kShape);
  SweepOptions options = Options({"recent_window"}, {0.001});
  options.is_bare = true;
  const Results results = Replay(*trace, options);
  EXPECT_THAT(results.rows[0].figures.Text("class_note"), HasSubstr("minimum of one entry"));
  EXPECT_EQ(*results.rows[0].figures.Number("kept_tokens"), 1);
}

TEST(SweepFlags, ReadBudgetsProtocolsAndGuards) {
  SweepFlags flags;
  flags.policies = {"snapkv,h2o", "tova"};
  flags.keep_fractions = {"0.5,0.25"};
  flags.keep_tokens = {"128"};
  flags.decide_at = {"context"};
  flags.guard = "sinks=4,recent=32";
  const SweepOptions options = OptionsOf(flags);
  EXPECT_EQ(options.policies, (std::vector<std::string>{"snapkv", "h2o", "tova"}));
  ASSERT_EQ(options.budgets.size(), 3u);
  EXPECT_EQ(options.budgets[1].value, 0.25);
  EXPECT_TRUE(options.budgets[2].unit == BudgetSpec::Unit::kTokens);
  EXPECT_TRUE(options.protocols == std::vector<Protocol>{Protocol::kContext});
  EXPECT_EQ(options.guards.sinks, 4);
  EXPECT_EQ(options.guards.recent, 32);
}

TEST(SweepFlags, RefuseWhatIsNotANumberOrOutOfRange) {
  for (const char* bad : {"", "0", "1.5", "-0.1", "nan", "inf", "0.5,,0.2", "half", "0.5x", "1e999"}) {
    SweepFlags flags;
    flags.policies = {"snapkv"};
    flags.keep_fractions = {bad};
    EXPECT_THROW(OptionsOf(flags), Error) << bad;
  }
  for (const char* bad : {"", "sinks", "sinks=-1", "sinks=x", "windows=3", "sinks=4;recent=3", "recent=99999999999"}) {
    EXPECT_THROW(ParseGuards(bad), Error) << bad;
  }
  SweepFlags flags;
  flags.policies = {"snapkv"};
  EXPECT_THROW(OptionsOf(flags), Error) << "no budget";
  flags.keep_tokens = {"16"};
  flags.decide_at = {"later"};
  EXPECT_THROW(OptionsOf(flags), Error);
}

}  // namespace
}  // namespace kvscope
