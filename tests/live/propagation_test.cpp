// SPDX-License-Identifier: Apache-2.0
#include "replay/live/propagation.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <numeric>
#include <set>

#include "capture/full_cache.h"
#include "capture/run.h"
#include "core/half.h"
#include "replay/live/live_run.h"
#include "tests/support/capture_tiny_gguf.h"

namespace kvscope {
namespace {

TinyGgufOptions TinyModel() {
  TinyGgufOptions options;
  options.layers = 4, options.heads = 6, options.kv_heads = 2, options.head_dim = 16, options.seed = 7;
  return options;
}

PlanRequest Request(const std::string& spec, double keep_fraction) {
  PlanRequest request;
  request.spec = PolicySpec::Parse(spec);
  request.budget = {BudgetSpec::Unit::kFraction, keep_fraction};
  return request;
}

class PropagationTest : public testing::Test {
 protected:
  PropagationTest()
      : gguf_(GgufFile::FromBytes("tiny", TinyGgufBytes(TinyModel()))),
        tokenizer_(Tokenizer::FromGguf(gguf_)),
        model_(LoadModel(gguf_)),
        decoder_(*model_) {
    prompt_.file_stem = "tiny";
    prompt_.ids = tokenizer_.Encode(
        "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness.",
        false);
    prompt_.max_new = 6;
    num_tokens_ = static_cast<int>(prompt_.ids.size());
    prompt_.segments = {{"context", 0, 0, num_tokens_ - 9, true}, {"question", 0, num_tokens_ - 9, num_tokens_, false}};
    prompt_.task.name = "prompt";
    prompt_.task.priming_text = "times";
    prompt_.task.scored_text = " 12";
  }

  // The whole prefill, in memory, tapped.
  struct Whole {
    std::unique_ptr<MemoryTrace> trace;
    ResidualTaps taps;
    std::vector<float> logits;
  };
  Whole Prefilled(const std::string& spec) {
    Whole whole;
    TraceInfo info = MakeTraceInfo(*model_, "", prompt_, {.level = TraceLevel::kQkv});
    whole.trace = std::make_unique<MemoryTrace>(info);
    whole.trace->AppendTokens(TokensFromIds(&tokenizer_, prompt_.ids, 0));
    whole.taps = ResidualTaps({Request(spec, 0.5)}, ShapeOf(info));
    int next_token = 0;
    FullCache cache(model_->config, DType::kF16);
    const std::vector<float> hidden = Prefill(
        decoder_, cache, prompt_.ids, num_tokens_, 16, info.segments,
        [&](int layer, LayerChunk& chunk) { whole.trace->AppendChunk(layer, next_token, std::move(chunk)); },
        [&](int first_token, std::span<const float> rows) {
          next_token = first_token + static_cast<int>(rows.size() / model_->config.hidden);
        },
        whole.taps.Observer(model_->config.num_layers));
    whole.logits.resize(model_->config.vocab);
    decoder_.Logits(hidden, 1, whole.logits);
    return whole;
  }

  std::vector<Results::Row> Run(const std::vector<PlanRequest>& requests, Protocol protocol) {
    LiveOptions options;
    options.protocol = protocol;
    options.prefill_chunk = 16;
    options.measures_speed = false;
    return RunLive(decoder_, tokenizer_, prompt_, requests, options);
  }

  // Tokens that some KV head of a layer keeps.
  static std::set<int> KeptTokens(const Results::Row& row, int layer) {
    const NamedArray& kept = *row.Find("kept");
    const int num_tokens = static_cast<int>(kept.shape.at(2)), rows = static_cast<int>(kept.shape.at(1));
    std::set<int> tokens;
    for (int i = layer * rows * num_tokens; i < (layer + 1) * rows * num_tokens; ++i) {
      if (kept.values[i] > 0) tokens.insert(i % num_tokens);
    }
    return tokens;
  }

  GgufFile gguf_;
  Tokenizer tokenizer_;
  std::unique_ptr<Model> model_;
  Decoder decoder_;
  Prompt prompt_;
  int num_tokens_ = 0;
};

TEST_F(PropagationTest, WithAllTokensTheUpperLayersAreThoseOfTheWholePrefillBitForBit) {
  const Whole whole = Prefilled("fastkv");
  Propagation all{1, {}};
  all.tokens.resize(num_tokens_);
  std::iota(all.tokens.begin(), all.tokens.end(), 0);
  const PropagatedPrefill prefill = RunPropagated(decoder_, *whole.trace, whole.taps.at(1), all, 7);
  EXPECT_EQ(prefill.logits, whole.logits);
  for (int layer = 0; layer < 4; ++layer) {
    for (int kv_head = 0; kv_head < 2; ++kv_head) {
      const auto expected = whole.trace->ReadKvHead(layer, kv_head), found = prefill.trace->ReadKvHead(layer, kv_head);
      EXPECT_EQ(found->lse, expected->lse);
      ASSERT_EQ(found->k.size_bytes(), expected->k.size_bytes());
      ASSERT_EQ(found->q.size_bytes(), expected->q.size_bytes());
      EXPECT_EQ(std::memcmp(found->q.data(), expected->q.data(), found->q.size_bytes()), 0);
      EXPECT_EQ(std::memcmp(found->k.data(), expected->k.data(), found->k.size_bytes()), 0);
      EXPECT_EQ(std::memcmp(found->v.data(), expected->v.data(), found->v.size_bytes()), 0);
    }
  }
}

TEST_F(PropagationTest, UpperLayersAttendToWhatWentOnAndRepeatItsRows) {
  const Whole whole = Prefilled("fastkv");
  const Propagation some{1, {2, 3, 9, 20, 21, num_tokens_ - 2, num_tokens_ - 1}};
  const PropagatedPrefill prefill = RunPropagated(decoder_, *whole.trace, whole.taps.at(1), some, 3);
  EXPECT_NE(prefill.logits, whole.logits);
  EXPECT_EQ(prefill.trace->ReadKvHead(1, 0), whole.trace->ReadKvHead(1, 0)) << "a lower layer";
  const float scale = whole.trace->info().layers[2].scale;
  for (const int layer : {2, 3}) {
    const auto data = prefill.trace->ReadKvHead(layer, 1);
    ASSERT_EQ(data->num_tokens, num_tokens_);
    const std::span<const Half> k = std::as_const(*data).k.halves(), q = std::as_const(*data).q.halves();
    for (const auto& [token, shown] : {std::pair{0, 2}, {1, 2}, {4, 3}, {19, 9}, {30, 21}}) {
      EXPECT_EQ(std::memcmp(&k[token * 16], &k[shown * 16], 32), 0) << token;
    }
    // The last query's weights over the tokens that went on sum to one: its lse is theirs.
    for (int head = 0; head < data->group; ++head) {
      const size_t row = static_cast<size_t>(head) * num_tokens_ + num_tokens_ - 1;
      double sum = 0;
      for (const int token : some.tokens) {
        double score = 0;
        for (int i = 0; i < 16; ++i) score += double{FloatFromHalf(q[row * 16 + i])} * FloatFromHalf(k[token * 16 + i]);
        sum += std::exp(score * scale - data->lse[row]);
      }
      EXPECT_NEAR(sum, 1, 1e-4);
    }
  }
}

TEST_F(PropagationTest, TapsOnlyWhereARequestPropagates) {
  EXPECT_FALSE(ResidualTaps({Request("snapkv", 0.5)}, ModelShape{4, 6, 2, 16, 16}).Observer(4));
  const Whole whole = Prefilled("fastkv:tsp_layer=2");
  EXPECT_EQ(whole.taps.at(2).residual.size(), static_cast<size_t>(num_tokens_) * model_->config.hidden);
  EXPECT_GT(whole.taps.at(2).secs, 0);
  EXPECT_THROW(whole.taps.at(1), std::out_of_range);
}

TEST_F(PropagationTest, FastKvThatLetsAllGoOnIsItsRankingWithoutPropagation) {
  for (const Protocol protocol : {Protocol::kPrompt, Protocol::kContext}) {
    const std::vector<Results::Row> rows = Run(
        {Request("fastkv:window=4:tsp=1", 0.5), Request("snapkv:window=4:pool=7:reduce=sum:order=reduce_first", 0.5),
         Request("fastkv:window=4:tsp=1", 1.0)},
        protocol);
    EXPECT_EQ(rows[0].Find("kept")->values, rows[1].Find("kept")->values);
    for (const char* column : {"kl", "top1_agreement", "answer_nll", "answer_rank", "kept_bytes_mean"}) {
      EXPECT_EQ(rows[0].figures.Number(column), rows[1].figures.Number(column)) << column;
    }
    EXPECT_GT(rows[0].figures.Number("kl").value(), 0.0);
    EXPECT_EQ(rows[2].figures.Number("kl"), 0.0);
  }
}

TEST_F(PropagationTest, UpperLayersOfFastKvKeepOnlyWhatWentOn) {
  for (const Protocol protocol : {Protocol::kPrompt, Protocol::kContext}) {
    const std::vector<Results::Row> rows =
        Run({Request("fastkv:window=4:tsp=0.3", 0.2), Request("fastkv:window=4:tsp=1", 0.2)}, protocol);
    const int decision = protocol == Protocol::kPrompt ? num_tokens_ : num_tokens_ - 9;
    std::set<int> upper;
    for (const int layer : {2, 3}) upper.merge(KeptTokens(rows[0], layer));
    EXPECT_LE(static_cast<int>(upper.size()), std::ceil(0.3 * decision));
    for (int token = decision - 4; token < decision; ++token) EXPECT_TRUE(upper.contains(token));
    for (const int layer : {0, 1}) {
      EXPECT_EQ(KeptTokens(rows[0], layer), KeptTokens(rows[1], layer)) << "lower layers do not know of it";
    }
    EXPECT_NE(rows[0].figures.Number("kl"), rows[1].figures.Number("kl"));
    EXPECT_EQ(rows[0].figures.Number("kept_bytes_prefill"), rows[1].figures.Number("kept_bytes_prefill"));
    EXPECT_GT(rows[0].figures.Number("ttft_s").value(), 0.0);
  }
}

}  // namespace
}  // namespace kvscope
