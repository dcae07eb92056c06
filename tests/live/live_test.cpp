// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <filesystem>

#include "capture/cpu_engine.h"
#include "capture/full_cache.h"
#include "capture/recorder.h"
#include "capture/run.h"
#include "core/error.h"
#include "core/trace_reader.h"
#include "replay/live/forks.h"
#include "replay/live/live_run.h"
#include "replay/live/policy_cache.h"
#include "replay/sweep.h"
#include "tests/support/capture_tiny_gguf.h"

namespace kvscope {
namespace {

TinyGgufOptions TinyModel() {
  TinyGgufOptions options;
  options.layers = 3, options.heads = 6, options.kv_heads = 2, options.head_dim = 16, options.seed = 11;
  return options;
}

class Live : public testing::Test {
 protected:
  Live()
      : gguf_(GgufFile::FromBytes("tiny", TinyGgufBytes(TinyModel()))),
        tokenizer_(Tokenizer::FromGguf(gguf_)),
        model_(LoadModel(gguf_)),
        decoder_(*model_) {
    prompt_.file_stem = "tiny";
    prompt_.ids =
        tokenizer_.Encode("It was the best of times, it was the worst of times, it was the age of wisdom.", false);
    prompt_.max_new = 6;
    const int tokens = static_cast<int>(prompt_.ids.size());
    prompt_.segments = {{"context", 0, 0, tokens - 9, true}, {"question", 0, tokens - 9, tokens, false}};
    prompt_.task.name = "prompt";
    prompt_.task.priming_text = "times";
    prompt_.task.scored_text = " 12";
    prompt_.task.expected_answers = {"12"};
    prompt_.task.scorer = "contains";
  }

  static PlanRequest Request(const std::string& spec, double keep_fraction) {
    PlanRequest request;
    request.spec = PolicySpec::Parse(spec);
    request.budget = {BudgetSpec::Unit::kFraction, keep_fraction};
    return request;
  }

  std::vector<Results::Row> Run(const std::vector<PlanRequest>& requests, Protocol protocol = Protocol::kPrompt) {
    LiveOptions options;
    options.protocol = protocol;
    options.measures_speed = false;
    return RunLive(decoder_, tokenizer_, prompt_, requests, options);
  }

  // As Gemma 2 has them: soft-capped scores, a window in every other layer.
  void AddWindows() {
    for (LayerConfig& layer : model_->config.layers) layer.attention.softcap = 3;
    model_->config.layers[1].attention.window = 20;
  }

  void ExpectReplayKeepsTheSame() {
    const std::filesystem::path path =
        std::filesystem::temp_directory_path() / ("kvscope_live_" + std::to_string(getpid()) + ".kvtrace.h5");
    const TraceInfo info = MakeTraceInfo(*model_, "", prompt_, {});
    {
      Recorder recorder(path, info, {.writer = {.overwrite = true}});
      CpuEngine engine(*model_, DType::kF16);
      RunPrompt(engine, &tokenizer_, prompt_, {}, info, &recorder);
      recorder.Finish();
    }
    const std::vector<std::string> specs{
        "snapkv:window=4", "snapkv+ada:window=4",   "h2o",    "tova",
        "adkvc",           "streaming_llm:sinks=2", "random", "snapkv@int4:window=4",
        "adkvc/block=4",   "adkvc+quantile",        "mikv",   "snapkv@kivi:bits=4:window=4"};
    for (const Protocol protocol : {Protocol::kPrompt, Protocol::kContext}) {
      SweepOptions sweep;
      sweep.policies = specs;
      sweep.budgets = {{BudgetSpec::Unit::kFraction, 0.4}};
      sweep.protocols = {protocol};
      sweep.is_bare = true;
      Results replay;
      ReplayTrace(*TraceReader::Open(path), path, sweep, replay);
      std::vector<PlanRequest> requests;
      for (const std::string& spec : specs) requests.push_back(Request(spec, 0.4));
      const std::vector<Results::Row> live = Run(requests, protocol);
      ASSERT_EQ(live.size(), replay.rows.size());
      for (size_t i = 0; i < live.size(); ++i) {
        ASSERT_NE(live[i].Find("kept"), nullptr) << specs[i] << live[i].figures.Text("refused_reason");
        EXPECT_EQ(live[i].Find("kept")->values, replay.rows[i].Find("kept")->values) << specs[i];
        const NamedArray* bits = live[i].Find("bits");
        if (bits) {
          EXPECT_EQ(bits->values, replay.rows[i].Find("bits")->values) << specs[i];
        }
        EXPECT_EQ(live[i].figures.Number("kept_bytes_prefill"), replay.rows[i].figures.Number("kept_bytes_prefill"))
            << specs[i];
      }
    }
    std::filesystem::remove(path);
  }

  GgufFile gguf_;
  Tokenizer tokenizer_;
  std::unique_ptr<Model> model_;
  Decoder decoder_;
  Prompt prompt_;
};

TEST_F(Live, TheFullPolicyIsTheFullCacheBitForBit) {
  for (const Protocol protocol : {Protocol::kPrompt, Protocol::kContext}) {
    const std::vector<Results::Row> rows = Run({Request("full", 1.0)}, protocol);
    EXPECT_EQ(rows[0].figures.Number("kl"), 0.0);
    EXPECT_EQ(rows[0].figures.Number("top1_agreement"), 1.0);
    EXPECT_EQ(rows[0].figures.Number("kept_fraction"), 1.0);
  }
}

TEST_F(Live, AForkInABatchGivesWhatItGivesAlone) {
  const std::vector<PlanRequest> requests{
      Request("snapkv:window=4", 0.5),         Request("h2o", 0.4),   Request("tova", 0.3),
      Request("snapkv@int4:window=4", 0.25),   Request("adkvc", 0.5), Request("int8", 1.0),
      Request("fastkv:window=4:tsp=0.4", 0.25)};
  for (const Protocol protocol : {Protocol::kPrompt, Protocol::kContext}) {
    const std::vector<Results::Row> together = Run(requests, protocol);
    for (size_t i = 0; i < requests.size(); ++i) {
      const std::vector<Results::Row> alone = Run({requests[i]}, protocol);
      for (const char* column : {"kl", "answer_nll", "answer_rank", "kept_bytes_mean", "kept_bytes_peak"}) {
        EXPECT_EQ(together[i].figures.Number(column), alone[0].figures.Number(column))
            << requests[i].spec.text << " " << column;
      }
    }
  }
}

TEST_F(Live, KeepsWhatReplayKeeps) {
  ExpectReplayKeepsTheSame();
}

TEST_F(Live, KeepsWhatReplayKeepsInLayersWithWindows) {
  AddWindows();
  ExpectReplayKeepsTheSame();
}

TEST_F(Live, InLayersWithWindowsTheFullPolicyIsTheFullCache) {
  AddWindows();
  for (const Protocol protocol : {Protocol::kPrompt, Protocol::kContext}) {
    const std::vector<Results::Row> rows = Run({Request("full", 1.0), Request("fastkv", 0.5)}, protocol);
    EXPECT_LT(*rows[0].figures.Number("kl"), 1e-9);
    EXPECT_EQ(rows[0].figures.Number("top1_agreement"), 1.0);
    EXPECT_EQ(rows[0].figures.Number("kept_fraction"), 1.0);
    EXPECT_NE(rows[1].figures.Text("refused_reason"), "");
  }
}

TEST_F(Live, ForksGoTheirOwnWay) {
  FullCache cache(model_->config, DType::kF16);
  std::vector<Fork> forks(1);
  forks[0] = {cache.Fork(), {}};
  Feed(decoder_, forks, prompt_.ids);
  const std::vector<float> before = forks[0].logits;
  std::vector<Fork> other;
  other.push_back(forks[0].Clone());
  const int id = 7;
  Feed(decoder_, other, {&id, 1});
  EXPECT_EQ(forks[0].cache->num_tokens(), static_cast<int>(prompt_.ids.size()));
  EXPECT_EQ(other[0].cache->num_tokens(), static_cast<int>(prompt_.ids.size()) + 1);
  EXPECT_EQ(forks[0].logits, before);
  EXPECT_NE(other[0].logits, before);
}

TEST_F(Live, AChainScoredInBlocksEqualsOneStepAtATime) {
  std::vector<int> ids;
  for (int i = 0; i < 37; ++i) ids.push_back((i * 31 + 3) % model_->config.vocab);
  FullCache cache(model_->config, DType::kF16);
  std::vector<Fork> start(1);
  start[0] = {cache.Fork(), {}};
  Feed(decoder_, start, prompt_.ids);
  std::vector<Fork> chain;
  chain.push_back(start[0].Clone());
  const ChainScore score = ScoreChain(decoder_, chain, ids)[0];
  ASSERT_EQ(score.nll.size(), ids.size());
  for (size_t i = 0; i < ids.size(); ++i) {
    EXPECT_NEAR(score.nll[i], LogSumExp(start[0].logits) - start[0].logits[ids[i]], 1e-5) << i;
    EXPECT_EQ(score.kl[i], 0.0);
    Feed(decoder_, start, {&ids[i], 1});
  }
}

TEST_F(Live, ForcedTextGivesPerplexity) {
  prompt_.forced_ids = {5, 60, 71, 90, 12, 33};
  prompt_.task = {};
  prompt_.task.name = "text";
  const std::vector<Results::Row> rows = Run({Request("full", 1.0), Request("tova", 0.3)});
  EXPECT_GT(rows[0].figures.Number("perplexity").value(), 1.0);
  EXPECT_EQ(rows[0].figures.Number("kl"), 0.0);
  EXPECT_GT(rows[1].figures.Number("kl").value(), 0.0);
  EXPECT_EQ(rows[1].figures.Number("n"), 6.0);
}

TEST_F(Live, SmallMemoryForForksChangesNoFigure) {
  const std::vector<PlanRequest> requests{Request("snapkv:window=4", 0.5), Request("tova", 0.3), Request("random", 0.3),
                                          Request("fastkv:window=4:tsp=0.4", 0.3)};
  const std::vector<Results::Row> expected = Run(requests);
  LiveOptions options;
  options.measures_speed = false;
  options.fork_bytes = 1;
  const std::vector<Results::Row> rows = RunLive(decoder_, tokenizer_, prompt_, requests, options);
  for (size_t i = 0; i < rows.size(); ++i) EXPECT_EQ(rows[i].figures.Number("kl"), expected[i].figures.Number("kl"));
}

TEST_F(Live, GuardsAboveTheBudgetAreRefused) {
  PlanRequest request = Request("tova", 0.3);
  request.guards = {40, 40};
  EXPECT_THROW(Run({request}), Error);
}

// A cache that is compressed as the prefill goes never holds the whole prompt.
TEST_F(Live, ChunkedPrefillHoldsLessThanThePrompt) {
  for (const std::string spec : {"adkvc:prefill_chunk=8:every=4", "h2o:prefill_chunk=8"}) {
    const std::vector<Results::Row> rows = Run({Request(spec, 0.4), Request("full", 1.0)});
    const ResultRow& figures = rows[0].figures;
    EXPECT_EQ(figures.Text("refused_reason"), "") << spec;
    EXPECT_LT(*figures.Number("prefill_bytes_peak"), 0.8 * *figures.Number("full_bytes")) << spec;
    EXPECT_LT(*figures.Number("kept_fraction"), 0.65) << spec;
    EXPECT_EQ(*rows[1].figures.Number("prefill_bytes_peak"), *figures.Number("full_bytes"));
  }
}

// Early decision with room for all and no loss of bits: the same as never having compressed.
TEST_F(Live, ChunkedPrefillWithRoomForAllIsTheFullCache) {
  PlanRequest request = Request("h2o:prefill_chunk=8", 1.0);
  request.budget = {BudgetSpec::Unit::kTokens, 1000};
  prompt_.max_new = 1;  // after it the budget, the prompt's size, makes entries go
  EXPECT_EQ(Run({request})[0].figures.Number("kl"), 0.0);
}

TEST_F(Live, SaysHowTheModelRan) {
  EXPECT_EQ(Run({Request("full", 1.0)})[0].figures.Text("engine_flags").find("int8"), std::string::npos);
  Decoder rounded(*model_, Activations::kInt8);
  LiveOptions options;
  options.measures_speed = false;
  const std::vector<Results::Row> rows = RunLive(rounded, tokenizer_, prompt_, {Request("full", 1.0)}, options);
  EXPECT_NE(rows[0].figures.Text("engine_flags").find("activations=int8"), std::string::npos);
}

TEST_F(Live, RefusesAnOracleThatOnlyATraceCanServe) {
  EXPECT_NE(Run({Request("adkvc:oracle=relevance", 0.4)})[0].figures.Text("refused_reason"), "");
}

}  // namespace
}  // namespace kvscope
