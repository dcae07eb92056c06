// SPDX-License-Identifier: Apache-2.0
#include "capture/run.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "capture/recorder.h"
#include "core/error.h"
#include "core/trace_reader.h"
#include "tests/support/capture_tiny_gguf.h"

namespace kvscope {
namespace {

class Run : public testing::Test {
 protected:
  Run()
      : gguf_(GgufFile::FromBytes("tiny", TinyGgufBytes(Options()))),
        tokenizer_(Tokenizer::FromGguf(gguf_)),
        model_(LoadModel(gguf_)) {
    folder_ = std::filesystem::temp_directory_path() / ("kvscope_run_" + std::to_string(getpid()));
    std::filesystem::create_directories(folder_);
    prompt_.ids = tokenizer_.Encode("The quick brown fox jumps over the lazy dog, twice over.", false);
    prompt_.max_new = 5;
    const int tokens = static_cast<int>(prompt_.ids.size());
    prompt_.segments = {{"context", 0, 0, tokens - 7, true}, {"question", 0, tokens - 7, tokens, false}};
    prompt_.spans = {{"needle", 4, 9, "quick"}};
    prompt_.task.name = "prompt";
  }
  ~Run() override { std::filesystem::remove_all(folder_); }

  static TinyGgufOptions Options() {
    TinyGgufOptions options;
    options.layers = 3, options.heads = 4, options.kv_heads = 2, options.head_dim = 16;
    return options;
  }

  std::unique_ptr<TraceReader> Record(const RunOptions& options, RunOutcome* outcome = nullptr) {
    const std::string path = folder_ / "run.kvtrace.h5";
    const TraceInfo info = MakeTraceInfo(*model_, "", prompt_, options);
    Recorder recorder(path, info, {.writer = {.overwrite = true}});
    FullCache cache(model_->config, options.kv_dtype);
    Decoder decoder(*model_);
    const RunOutcome result = RunPrompt(decoder, tokenizer_, prompt_, options, info, cache, &recorder);
    if (outcome) *outcome = result;
    recorder.Finish();
    return TraceReader::Open(path);
  }

  std::filesystem::path folder_;
  GgufFile gguf_;
  Tokenizer tokenizer_;
  std::unique_ptr<Model> model_;
  Prompt prompt_;
};

TEST_F(Run, ATraceHoldsWhatAttentionSaw) {
  RunOutcome outcome;
  const auto trace = Record({.logprobs = true}, &outcome);
  const int tokens = static_cast<int>(prompt_.ids.size()) + outcome.steps;
  EXPECT_EQ(trace->status(), TraceStatus::kComplete);
  EXPECT_EQ(trace->info().prompt_tokens, static_cast<int>(prompt_.ids.size()));
  ASSERT_EQ(static_cast<int>(trace->tokens().ids.size()), tokens);
  EXPECT_TRUE(std::equal(prompt_.ids.begin(), prompt_.ids.end(), trace->tokens().ids.begin()));
  EXPECT_EQ(static_cast<int>(trace->q_token(0).size()), tokens);
  EXPECT_EQ(trace->info().spans.front().kind, "needle");
  for (int token = 1; token < tokens; ++token) EXPECT_LT(trace->tokens().logprobs[token], 0.0f) << token;
  const VerifyResult verified = VerifyTrace(*trace);
  EXPECT_TRUE(verified.ok) << verified.worst_place;
  EXPECT_GT(verified.rows_checked, 0);
}

TEST_F(Run, ChunkSizeDoesNotChangeABit) {
  const auto whole = Record({.prefill_chunk = 512});
  const std::shared_ptr<const KvHeadData> expected = whole->ReadKvHead(2, 1);
  const auto parts = Record({.prefill_chunk = 3});
  const std::shared_ptr<const KvHeadData> found = parts->ReadKvHead(2, 1);
  EXPECT_TRUE(std::ranges::equal(expected->q.halves(), found->q.halves()));
  EXPECT_TRUE(std::ranges::equal(expected->k.halves(), found->k.halves()));
  EXPECT_TRUE(std::ranges::equal(expected->v.halves(), found->v.halves()));
  EXPECT_EQ(expected->lse, found->lse);
}

TEST_F(Run, APartOfTheHeadsEqualsThatPartOfTheWhole) {
  const auto whole = Record({});
  const std::shared_ptr<const KvHeadData> expected = whole->ReadKvHead(2, 1);
  const auto part = Record({.layers = {2}, .kv_heads = {1}});
  ASSERT_EQ(part->info().layers.size(), 1u);
  EXPECT_EQ(part->info().layers[0].heads, (std::vector<int>{2, 3}));
  const std::shared_ptr<const KvHeadData> found = part->ReadKvHead(0, 0);
  EXPECT_TRUE(std::ranges::equal(expected->q.halves(), found->q.halves()));
  EXPECT_EQ(expected->lse, found->lse);
  EXPECT_TRUE(VerifyTrace(*part).ok);
}

TEST_F(Run, ForcedTokensGetTheirLogprobs) {
  prompt_.forced_ids = {5, 9, 77};
  RunOutcome outcome;
  const auto trace = Record({}, &outcome);
  EXPECT_EQ(outcome.answer_ids, prompt_.forced_ids);
  double nll = 0;
  for (int step = 0; step < 3; ++step) nll -= trace->tokens().logprobs[prompt_.ids.size() + step];
  EXPECT_NEAR(outcome.mean_nll, nll / 3, 1e-6);
}

TEST_F(Run, AWriterThatFailsStopsTheRunWithItsMessage) {
  const TraceInfo info = MakeTraceInfo(*model_, "", prompt_, {});
  EXPECT_THROW(Recorder("/nonexistent_folder/run.kvtrace.h5", info, {}), Error);
}

TEST(ChunkEnds, BreaksAtSegmentsAndAtTheChunkSize) {
  const std::vector<Segment> segments{{"context", 0, 0, 10, true}, {"question", 0, 10, 14, false}};
  EXPECT_EQ(ChunkEnds(0, 14, 4, segments), (std::vector<int>{4, 8, 10, 14}));
  EXPECT_EQ(ChunkEnds(10, 14, 512, segments), (std::vector<int>{14}));
  EXPECT_EQ(ChunkEnds(0, 14, 512, {}), (std::vector<int>{14}));
}

}  // namespace
}  // namespace kvscope
