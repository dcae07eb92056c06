// SPDX-License-Identifier: Apache-2.0
#include "capture/run.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "capture/cpu_engine.h"
#include "capture/recorder.h"
#include "core/error.h"
#include "core/trace_reader.h"
#include "kernels/column_stats.h"
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
    CpuEngine engine(*model_, options.kv_dtype);
    const RunOutcome result = RunPrompt(engine, &tokenizer_, prompt_, options, info, &recorder);
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

// The decoder's attention, the recorder and the file against verify's plain arithmetic, at every level, chunk by chunk.
TEST_F(Run, AWindowedAndSoftCappedLayerVerifies) {
  const auto before = Record({});
  model_->config.layers[1].attention.window = 6;
  model_->config.layers[2].attention = {.scale = 0.9f, .softcap = 2, .window = 9};
  for (const DType dtype : {DType::kF16, DType::kF32}) {
    const auto whole = Record({.kv_dtype = dtype, .prefill_chunk = 512});
    EXPECT_EQ(whole->info().layers[1].kind, "window");
    EXPECT_EQ(whole->info().layers[2].window, 9);
    EXPECT_EQ(whole->info().layers[2].softcap, 2);
    const VerifyResult verified = VerifyTrace(*whole);
    EXPECT_TRUE(verified.ok) << verified.worst_place;
    const RecordedRows rows = whole->ReadRows(1, 0);
    for (int token = 0; token < rows.row_token[0] - 5; ++token) EXPECT_EQ(FloatFromHalf(rows.weights[token]), 0);
    const auto parts = Record({.kv_dtype = dtype, .prefill_chunk = 4});
    EXPECT_EQ(whole->ReadKvHead(2, 1)->lse, parts->ReadKvHead(2, 1)->lse) << "bit for bit";
    EXPECT_NE(whole->ReadKvHead(2, 1)->lse, before->ReadKvHead(2, 1)->lse);
  }
  const auto columns = Record({.level = TraceLevel::kRelevance, .prefill_chunk = 4});
  const VerifyResult verified = VerifyTrace(*columns);
  EXPECT_TRUE(verified.ok) << verified.worst_place;
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

// What level relevance adds up while the model runs is what the vectors of the same run say afterwards.
TEST_F(Run, RelevanceEqualsTheStatisticsOfTheVectors) {
  prompt_.forced_ids.assign(70, 9);  // more than one interval between two times that statistics are written
  const auto vectors = Record({.level = TraceLevel::kQkv});
  const StatisticSpec specs[] = {{.kind = StatisticSpec::Kind::kSum}, {.kind = StatisticSpec::Kind::kMax}};
  const int tokens = static_cast<int>(prompt_.ids.size()) + 70;
  std::vector<std::vector<std::vector<double>>> expected;  // [layer * KV heads + KV head][spec][head of group, token]
  for (int layer = 0; layer < 3; ++layer) {
    for (int kv_head = 0; kv_head < 2; ++kv_head) {
      const auto data = vectors->ReadKvHead(layer, kv_head);
      ColumnStatsProblem problem;
      problem.q = data->q.data(), problem.k = data->k.data(), problem.dtype = data->q.dtype();
      problem.lse = data->lse.data(), problem.q_token = vectors->q_token(layer);
      problem.group = 2;
      problem.num_rows = problem.num_tokens = problem.row_end = tokens;
      problem.head_dim = 16;
      problem.rule = RuleOf(vectors->info().layers[layer]);
      cpu::ColumnStats(problem, specs, expected.emplace_back(2));
    }
  }
  for (const int chunk : {3, 512}) {
    for (const int part : {0, 1}) {  // all heads, and KV head 1 of layer 2
      const auto trace = Record({.level = TraceLevel::kRelevance,
                                 .prefill_chunk = chunk,
                                 .layers = part ? std::vector<int>{2} : std::vector<int>{},
                                 .kv_heads = part ? std::vector<int>{1} : std::vector<int>{}});
      EXPECT_EQ(trace->status(), TraceStatus::kComplete);
      EXPECT_TRUE(VerifyTrace(*trace).ok);
      for (size_t i = 0; i < trace->info().layers.size(); ++i) {
        const LayerInfo& layer = trace->info().layers[i];
        const ColumnStatistics found = trace->ReadColumnStatistics(static_cast<int>(i));
        ASSERT_EQ(found.num_rows, tokens);
        ASSERT_EQ(found.sum.size(), layer.heads.size() * tokens);
        for (size_t j = 0; j < found.sum.size(); ++j) {
          const int head = layer.heads[j / tokens];
          const auto& wanted = expected[layer.layer * 2 + head / 2];
          const size_t at = size_t(head % 2) * tokens + j % tokens;
          ASSERT_NEAR(found.sum[j], wanted[0][at], 1e-5 * wanted[0][at]) << chunk << " " << head << " " << j % tokens;
          ASSERT_NEAR(found.max[j], wanted[1][at], 1e-5 * wanted[1][at]) << chunk << " " << head << " " << j % tokens;
        }
      }
    }
  }
}

TEST_F(Run, RelevanceCountsAllRows) {
  EXPECT_THROW(MakeTraceInfo(*model_, "", prompt_, {.level = TraceLevel::kRelevance, .query_rows = "last:4"}), Error);
}

TEST_F(Run, RowsWithoutVectorsVerify) {
  for (const int chunk : {3, 512}) {
    RunOutcome outcome;
    const auto trace = Record({.level = TraceLevel::kRows, .prefill_chunk = chunk}, &outcome);
    EXPECT_EQ(trace->num_rows(), outcome.steps);
    const VerifyResult verified = VerifyTrace(*trace);
    EXPECT_TRUE(verified.ok) << verified.worst_place;
    EXPECT_EQ(verified.rows_checked, outcome.steps * 3 * 4);
    EXPECT_THROW(trace->ReadKvHead(0, 0), Error);
  }
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
