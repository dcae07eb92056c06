// SPDX-License-Identifier: Apache-2.0
#include "capture/decoder.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "capture/activations_flag.h"
#include "capture/full_cache.h"
#include "tests/support/capture_tiny_gguf.h"

namespace kvscope {
namespace {

std::string DefaultModelPath() {
  if (const char* path = std::getenv("KVSCOPE_MODEL")) return path;
  return KVSCOPE_SOURCE_DIR "/traces/cache/SmolLM2-135M-Instruct.Q4_1.gguf";
}

// The reference by transformers; tests/python/make_logits_fixture.py documents it.
class LogitsFixture : public testing::Test {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(DefaultModelPath()))
      GTEST_SKIP() << "no model at " << DefaultModelPath() << "; run traces/fetch_model";
    static const std::unique_ptr<Model> model = LoadModel(GgufFile::Open(DefaultModelPath()));
    model_ = model.get();
    std::ifstream(KVSCOPE_SOURCE_DIR "/tests/capture/fixtures/logits.json") >> header_;
    std::ifstream file(KVSCOPE_SOURCE_DIR "/tests/capture/fixtures/logits.bin", std::ios::binary);
    bytes_.assign(std::istreambuf_iterator<char>(file), {});
  }

  template <typename Element>
  std::vector<Element> Array(const std::string& name) const {
    const nlohmann::json& array = header_["arrays"][name];
    size_t count = 1;
    for (const size_t extent : array["shape"]) count *= extent;
    std::vector<Element> values(count);
    std::memcpy(values.data(), &bytes_.at(array["offset"].get<size_t>()), count * sizeof(Element));
    return values;
  }

  // Hidden states of all tokens, prefilled in chunks.
  std::vector<float> Prefill(KvCache& cache, std::span<const int> ids, int chunk) {
    Decoder decoder(*model_);
    std::vector<float> hidden;
    for (size_t begin = 0; begin < ids.size(); begin += chunk) {
      const DecoderInput input{&cache, ids.subspan(begin, std::min<size_t>(chunk, ids.size() - begin)), {}};
      const std::span<const float> rows = decoder.Run({&input, 1});
      hidden.insert(hidden.end(), rows.begin(), rows.end());
    }
    return hidden;
  }

  std::vector<float> LogitsAt(const std::vector<float>& hidden, int position) const {
    std::vector<float> logits(model_->config.vocab);
    Decoder(*model_).Logits(
        std::span(hidden).subspan(static_cast<size_t>(position) * model_->config.hidden, model_->config.hidden), 1,
        logits);
    return logits;
  }

  const Model* model_ = nullptr;
  nlohmann::json header_;
  std::vector<char> bytes_;
};

TEST_F(LogitsFixture, LogitsInFloat32EqualTransformers) {
  for (const nlohmann::json& prompt : header_["prompts"]) {
    FullCache cache(model_->config, DType::kF32);
    const std::vector<float> hidden = Prefill(cache, prompt["ids"].get<std::vector<int>>(), 512);
    const auto expected = Array<float>(prompt["logits"]["array"]);
    const std::vector<int> positions = prompt["logits"]["positions"];
    for (size_t i = 0; i < positions.size(); ++i) {
      const std::vector<float> logits = LogitsAt(hidden, positions[i]);
      double largest = 0, difference = 0;
      for (size_t id = 0; id < logits.size(); ++id) {
        const double reference = expected[i * logits.size() + id];
        largest = std::max(largest, std::fabs(reference));
        difference = std::max(difference, std::fabs(logits[id] - reference));
      }
      RecordProperty(prompt["name"].get<std::string>() + std::to_string(positions[i]),
                     std::to_string(difference / largest));
      EXPECT_LT(difference / largest, 1e-3) << prompt["name"] << " position " << positions[i];
      std::cout << prompt["name"] << " position " << positions[i] << ": max|difference| / max|logit| "
                << difference / largest << "\n";
    }
  }
}

TEST_F(LogitsFixture, DivergenceOfTheHalfPrecisionCacheIsTiny) {
  const nlohmann::json& prompt = header_["prompts"][1];
  ASSERT_EQ(prompt["name"], "prose");
  FullCache cache(model_->config, DType::kF16);
  const std::vector<float> hidden = Prefill(cache, prompt["ids"].get<std::vector<int>>(), 512);
  const nlohmann::json& part = prompt["logprobs"];
  const auto codes = Array<uint16_t>(part["array"]);
  const std::vector<int> positions = part["positions"];
  double mean = 0, largest = 0;
  for (size_t i = 0; i < positions.size(); ++i) {
    const std::vector<float> logits = LogitsAt(hidden, positions[i]);
    const double lse = LogSumExp(logits), minimum = part["minimum"][i], step = part["step"][i];
    double mass = 0, kl = 0;
    for (size_t id = 0; id < logits.size(); ++id) mass += std::exp(minimum + step * codes[i * logits.size() + id]);
    for (size_t id = 0; id < logits.size(); ++id) {
      const double reference = minimum + step * codes[i * logits.size() + id] - std::log(mass);
      kl += std::exp(reference) * (reference - (logits[id] - lse));
    }
    mean += kl / positions.size();
    largest = std::max(largest, kl);
  }
  std::cout << "KL to transformers, f16 cache: mean " << mean << ", largest " << largest << "\n";
  EXPECT_LT(mean, 1e-5);
  EXPECT_LT(largest, 1e-3);
}

TEST_F(LogitsFixture, Int8ActivationsStayCloseToFloatOnes) {
  const nlohmann::json& prompt = header_["prompts"][1];
  ASSERT_EQ(prompt["name"], "prose");
  std::vector<int> ids = prompt["ids"];
  ids.resize(std::min<size_t>(ids.size(), 256));
  const double mean = MeanKlOfInt8(*model_, ids);
  std::cout << "KL of int8 activations from float ones: mean " << mean << "\n";
  EXPECT_LT(mean, 0.02);
  EXPECT_GT(mean, 0.0);  // it is another computation
}

TEST_F(LogitsFixture, GreedyTokensAgreeUntilTheReferenceIsUndecided) {
  for (const nlohmann::json& prompt : header_["prompts"]) {
    FullCache cache(model_->config, DType::kF16);
    const std::vector<float> hidden = Prefill(cache, prompt["ids"].get<std::vector<int>>(), 512);
    std::vector<float> logits = LogitsAt(hidden, static_cast<int>(prompt["ids"].size()) - 1);
    Decoder decoder(*model_);
    const nlohmann::json& greedy = prompt["greedy"];
    size_t step = 0;
    for (; step < greedy["ids"].size(); ++step) {
      const double margin =
          greedy["top2_logprobs"][step][0].get<double>() - greedy["top2_logprobs"][step][1].get<double>();
      if (margin < 0.05) break;
      const int id = ArgMax(logits);
      ASSERT_EQ(id, greedy["ids"][step].get<int>()) << prompt["name"] << " step " << step;
      const DecoderInput input{&cache, {&id, 1}, {}};
      decoder.Logits(decoder.Run({&input, 1}), 1, logits);
    }
    EXPECT_GT(step, 0u);
  }
}

class EveryFamily : public testing::TestWithParam<std::string> {};

TEST_P(EveryFamily, GivesTheSameBitsInChunksAndBatches) {
  TinyGgufOptions options;
  options.layers = 3, options.head_dim = 16, options.matrix_type = GgufType::kQ4_1, options.ffn = 96;
  options.architecture = GetParam();
  options.sliding_window = 11;
  options.experts = GetParam() == "qwen3moe" ? 5 : 0;
  const std::unique_ptr<Model> model = LoadModel(GgufFile::FromBytes("tiny", TinyGgufBytes(options)));
  std::vector<int> ids;
  for (int i = 0; i < 40; ++i) ids.push_back((i * 37 + 5) % options.vocab);

  FullCache whole(model->config, DType::kF16);
  Decoder decoder(*model);
  const DecoderInput all{&whole, ids, {}};
  const std::span<const float> rows = decoder.Run({&all, 1});
  const std::vector<float> expected(rows.begin(), rows.end());

  // Two sequences advance as one batch in chunks of different sizes; each must see what it would see alone.
  FullCache a(model->config, DType::kF16), b(model->config, DType::kF16);
  const int hidden = model->config.hidden;
  for (int begin = 0; begin < 40; begin += 8) {
    const std::vector<DecoderInput> both{{&a, std::span(ids).subspan(begin, 8), {}},
                                         {&b, std::span(ids).subspan(begin / 8, 1), {}}};
    const std::span<const float> part = decoder.Run(both);
    for (int i = 0; i < 8 * hidden; ++i) ASSERT_EQ(part[i], expected[begin * hidden + i]);
    for (int i = 0; i < hidden; ++i) ASSERT_EQ(part[8 * hidden + i], expected[begin / 8 * hidden + i]);
  }
  EXPECT_EQ(whole.Bytes(), a.Bytes());
}

std::vector<std::string> FamilyNames() {
  std::vector<std::string> names;
  for (const Architecture& family : Architectures()) names.push_back(family.name);
  return names;
}
std::string TestName(const testing::TestParamInfo<std::string>& family) {
  return family.param;
}
INSTANTIATE_TEST_SUITE_P(Families, EveryFamily, testing::ValuesIn(FamilyNames()), TestName);

// Runs layers 1 and up on some tokens' residual stream after layer 0, two chunks.
struct FromLayerOne {
  std::vector<float> hidden;                 // of all rows
  std::map<int, std::vector<uint16_t>> key;  // [layer] bits of the second chunk's keys
};

FromLayerOne RunFromLayerOne(const Model& model, const std::vector<float>& residual, const std::vector<int>& tokens) {
  const size_t width = model.config.hidden, half = tokens.size() / 2;
  FullCache cache(model.config, DType::kF16);
  Decoder decoder(model);
  FromLayerOne result;
  for (const auto& [begin, end] : {std::pair{size_t{0}, half}, {half, tokens.size()}}) {
    std::vector<float> rows;
    for (size_t i = begin; i < end; ++i)
      rows.insert(rows.end(), residual.begin() + tokens[i] * width, residual.begin() + (tokens[i] + 1) * width);
    const LayerObserver observer = [&](int layer, LayerChunk& chunk) {
      for (const Half value : chunk.k.halves()) result.key[layer].push_back(value.bits);
    };
    const DecoderInput input{&cache, {},   begin == 0 ? LayerObserver{} : observer,
                             {},     rows, std::span(tokens).subspan(begin, end - begin)};
    const std::span<const float> hidden = decoder.Run({&input, 1}, 1);
    result.hidden.insert(result.hidden.end(), hidden.begin(), hidden.end());
  }
  EXPECT_EQ(cache.num_tokens(), static_cast<int>(tokens.size()));
  return result;
}

TEST(Decoder, ARunFromALayerOnGoesOnBitForBit) {
  TinyGgufOptions options;
  options.layers = 3, options.head_dim = 16, options.kv_heads = 1;
  const std::unique_ptr<Model> model = LoadModel(GgufFile::FromBytes("tiny", TinyGgufBytes(options)));
  std::vector<int> ids, all;
  for (int i = 0; i < 40; ++i) ids.push_back((i * 37 + 5) % options.vocab), all.push_back(i);
  FullCache cache(model->config, DType::kF16);
  Decoder decoder(*model);
  std::vector<float> residual;
  const ResidualObserver tap = [&](int layer, std::span<const float> rows) {
    if (layer == 0) residual.insert(residual.end(), rows.begin(), rows.end());
  };
  std::vector<float> expected;
  for (int begin = 0; begin < 40; begin += 10) {
    const DecoderInput input{&cache, std::span(ids).subspan(begin, 10), {}, tap};
    const std::span<const float> rows = decoder.Run({&input, 1});
    expected.insert(expected.end(), rows.begin(), rows.end());
  }
  ASSERT_EQ(residual.size(), expected.size());
  EXPECT_EQ(RunFromLayerOne(*model, residual, all).hidden, expected);

  // Without some tokens: keys of the next layer are those of the same positions, the ones above are not.
  const std::vector<int> some{0, 3, 4, 9, 21, 30, 38, 39};
  const FromLayerOne part = RunFromLayerOne(*model, residual, some);
  const size_t dim = model->config.head_dim;
  for (const int layer : {1, 2}) {
    std::vector<uint16_t> full;
    for (const int token : {21, 30, 38, 39}) {
      const auto* key = static_cast<const Half*>(cache.Keys(layer, 0)) + token * dim;
      for (size_t i = 0; i < dim; ++i) full.push_back(key[i].bits);
    }
    EXPECT_EQ(part.key.at(layer) == full, layer == 1) << layer;
  }
}

TEST(Decoder, ATooLargeKeyStopsWithLayerAndToken) {
  TinyGgufOptions options;
  options.head_dim = 16;
  std::unique_ptr<Model> model = LoadModel(GgufFile::FromBytes("tiny", TinyGgufBytes(options)));
  for (float& weight : model->layers[1].attn_norm) weight *= 1e7f;
  FullCache cache(model->config, DType::kF16);
  Decoder decoder(*model);
  const std::vector<int> ids{1, 2, 3};
  const DecoderInput input{&cache, ids, {}};
  try {
    decoder.Run({&input, 1});
    FAIL() << "expected an Error";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("layer 1, token"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("--kv-dtype f32"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace kvscope
