// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "capture/model.h"
#include "core/error.h"
#include "tests/support/capture_tiny_gguf.h"
#include "tests/support/core_message.h"

namespace kvscope {
namespace {

using testing::HasSubstr;

// Keys that every family needs, and the one tensor that is looked at; `add` comes first.
GgufFile Model(const std::string& architecture, int layers, const std::function<void(GgufBuilder&)>& add = {}) {
  GgufBuilder file;
  file.AddString("general.architecture", architecture);
  if (add) add(file);
  for (const auto& [suffix, value] : std::initializer_list<std::pair<const char*, int>>{{"block_count", layers},
                                                                                        {"embedding_length", 96},
                                                                                        {"feed_forward_length", 128},
                                                                                        {"context_length", 8192},
                                                                                        {"attention.head_count", 4},
                                                                                        {"attention.head_count_kv", 2},
                                                                                        {"attention.key_length", 32}})
    file.AddInt(architecture + "." + suffix, static_cast<uint32_t>(value));
  file.AddFloat(architecture + ".attention.layer_norm_rms_epsilon", 1e-6f);
  file.AddTensor("token_embd.weight", GgufType::kF32, {96, 7}, std::string(96 * 7 * 4, '\0'));
  return GgufFile::FromBytes("model", file.Bytes());
}

std::vector<int> Windows(const ModelConfig& config) {
  std::vector<int> windows;
  for (const LayerConfig& layer : config.layers) windows.push_back(layer.attention.window);
  return windows;
}

TEST(ModelConfig, ALlamaSeesEverythingAtOneScale) {
  const ModelConfig config = ReadModelConfig(Model("llama", 3));
  EXPECT_EQ(config.vocab, 7);
  EXPECT_EQ(config.head_dim, 32);
  EXPECT_EQ(config.embedding_scale, 1);
  EXPECT_EQ(Windows(config), (std::vector<int>{0, 0, 0}));
  EXPECT_EQ(config.layers[2].attention, (AttentionRule{.scale = DefaultScale(32)}));
  EXPECT_EQ(config.rope_sets.size(), 1u);
}

TEST(ModelConfig, AMistralSeesAWindowInEveryLayer) {
  const ModelConfig config = ReadModelConfig(
      Model("llama", 3, [](GgufBuilder& file) { file.AddInt("llama.attention.sliding_window", 4096); }));
  EXPECT_EQ(Windows(config), (std::vector<int>{4096, 4096, 4096}));
  EXPECT_EQ(config.layers[0].rope_set, 0);
}

TEST(ModelConfig, AGemma2AlternatesAndCaps) {
  const ModelConfig config = ReadModelConfig(Model("gemma2", 4));
  EXPECT_EQ(Windows(config), (std::vector<int>{4096, 0, 4096, 0}));  // older files do not say these three
  EXPECT_EQ(config.layers[1].attention.softcap, 50);
  EXPECT_EQ(config.logit_softcap, 30);
  EXPECT_FLOAT_EQ(config.embedding_scale, std::sqrt(96.0f));
  EXPECT_EQ(config.layers[0].attention.scale, DefaultScale(32));
  EXPECT_EQ(ReadModelConfig(Model("gemma2", 46)).layers[0].attention.scale, DefaultScale(96 / 4));  // the 27B
}

TEST(ModelConfig, AGemma3HasARopeOfItsOwnInItsWindows) {
  const ModelConfig config = ReadModelConfig(Model("gemma3", 8, [](GgufBuilder& file) {
    file.AddInt("gemma3.attention.sliding_window", 512);
    file.AddFloat("gemma3.rope.freq_base", 1e6f);
    file.AddString("gemma3.rope.scaling.type", "linear");
    file.AddFloat("gemma3.rope.scaling.factor", 8);
  }));
  EXPECT_EQ(Windows(config), (std::vector<int>{512, 512, 512, 512, 512, 0, 512, 512}));
  ASSERT_EQ(config.rope_sets.size(), 2u);
  EXPECT_EQ(config.layers[5].rope_set, 0);
  EXPECT_EQ(config.layers[6].rope_set, 1);
  EXPECT_EQ(config.rope_sets[1].name, "window");
  EXPECT_DOUBLE_EQ(config.rope_sets[1].inv_freq[8], std::pow(10000.0, -0.5));
  EXPECT_DOUBLE_EQ(config.rope_sets[0].inv_freq[8], std::pow(1e6, -0.5) / 8);
}

TEST(ModelConfig, AWindowPatternIsATruthValuePerLayerOrAPeriod) {
  const char* const key = "gemma3.attention.sliding_window_pattern";
  const auto read = [](const std::function<void(GgufBuilder&)>& add) {
    return ReadModelConfig(Model("gemma3", 5, [&](GgufBuilder& file) {
      file.AddInt("gemma3.attention.sliding_window", 512);
      file.AddFloat("gemma3.rope.freq_base", 1e6f);
      add(file);
    }));
  };
  const ModelConfig irregular = read([&](GgufBuilder& file) { file.AddBools(key, {false, true, true, false, true}); });
  EXPECT_EQ(Windows(irregular), (std::vector<int>{0, 512, 512, 0, 512}));
  EXPECT_EQ(irregular.layers[0].rope_set, 0);
  EXPECT_EQ(irregular.layers[1].rope_set, 1);
  const ModelConfig none = read([&](GgufBuilder& file) { file.AddBools(key, std::vector<bool>(5, false)); });
  EXPECT_EQ(Windows(none), std::vector<int>(5, 0));
  EXPECT_EQ(none.rope_sets.size(), 1u);
  EXPECT_EQ(Windows(read([&](GgufBuilder& file) { file.AddInt(key, 2); })), (std::vector<int>{512, 0, 512, 0, 512}));
  EXPECT_EQ(Windows(read([&](GgufBuilder& file) { file.AddInt(key, 1); })), std::vector<int>(5, 0));
  EXPECT_EQ(Windows(read([&](GgufBuilder& file) { file.AddInt(key, 0); })), std::vector<int>(5, 512));

  const std::string place = StrCat("model:", key, ": ");
  EXPECT_EQ(MessageOf([&] { read([&](GgufBuilder& file) { file.AddBools(key, std::vector<bool>(6, true)); }); }),
            place +
                "expected a truth value for each of the 5 layers, found 6; the file is damaged, convert the model "
                "again");
  EXPECT_THAT(MessageOf([&] { read([&](GgufBuilder& file) { file.AddBools(key, {}); }); }),
              HasSubstr("5 layers, found 0"));
  EXPECT_THAT(MessageOf([&] { read([&](GgufBuilder& file) {
                                file.AddInts(key, {1, 1, 1, 1, 0});
                              }); }),
              HasSubstr(place + "expected an array of truth values, found an array of a 32-bit integer"));
  EXPECT_THAT(MessageOf([&] { read([&](GgufBuilder& file) { file.AddInt(key, 1025); }); }),
              HasSubstr("from 0 to 1024"));
}

TEST(ModelConfig, ExpertsHaveAWidthOfTheirOwn) {
  const ModelConfig config = ReadModelConfig(Model("qwen3moe", 2, [](GgufBuilder& file) {
    file.AddInt("qwen3moe.expert_count", 16);
    file.AddInt("qwen3moe.expert_used_count", 4);
    file.AddInt("qwen3moe.expert_feed_forward_length", 64);
  }));
  EXPECT_EQ(config.num_experts, 16);
  EXPECT_EQ(config.experts_used, 4);
  EXPECT_EQ(config.ffn, 64);
}

TEST(ModelConfig, RefusesLatentAttentionByName) {
  const auto line = [](const GgufFile& gguf) { return MessageOf([&] { ReadModelConfig(gguf); }); };
  EXPECT_THAT(line(Model("deepseek2", 2)),
              HasSubstr("found 'deepseek2', whose cache holds latents (multi-head latent"));
  EXPECT_THAT(line(Model("llama", 2, [](GgufBuilder& file) { file.AddInt("llama.attention.kv_lora_rank", 512); })),
              HasSubstr("multi-head latent attention, MLA"));
  EXPECT_THAT(line(Model("mamba", 2)), HasSubstr("model:general.architecture: expected one of llama, qwen2, "));
  EXPECT_THAT(line(Model("a\nb", 2)), HasSubstr("found 'a\\x0ab'; use another model"));
}

TEST(ModelConfig, RefusesKeysThatChangeWhatIsComputed) {
  const auto line = [](const char* key, float value) {
    return MessageOf([&] {
      ReadModelConfig(Model("llama", 2, [&](GgufBuilder& file) { file.AddFloat(StrCat("llama.", key), value); }));
    });
  };
  EXPECT_EQ(line("attention.clamp_kqv", 8),
            "model:llama.attention.clamp_kqv: expected 0, found 8; kvscope does not know "
            "what it does, use another model");
  EXPECT_EQ(line("attention.clamp_kqv", 0), "");
  EXPECT_EQ(line("logit_scale", 1), "");
  EXPECT_THAT(line("attn_logit_softcapping", -1), HasSubstr("expected a number from 0 to 1e+06, found -1"));
}

TEST(ModelConfig, RefusesMoreTokensThanTheEmbeddingHas) {
  const GgufFile gguf = Model("llama", 2, [](GgufBuilder& file) {
    file.AddStrings("tokenizer.ggml.tokens", {"a", "b", "c", "d", "e", "f", "g", "h"});
  });
  EXPECT_EQ(MessageOf([&] { ReadModelConfig(gguf); }),
            "model:tokenizer.ggml.tokens: expected at most the 7 tokens that token_embd.weight has rows for, found 8; "
            "convert the model again");
}

TEST(LoadModel, RefusesATensorWithoutAUse) {
  TinyGgufOptions options;
  options.head_dim = 16;
  const std::string plain = TinyGgufBytes(options);
  EXPECT_EQ(MessageOf([&] { LoadModel(GgufFile::FromBytes("tiny", plain)); }), "");
  options.extra_tensor = "blk.0.ssm_a";
  EXPECT_EQ(MessageOf([&] { LoadModel(GgufFile::FromBytes("tiny", TinyGgufBytes(options))); }),
            "tiny:blk.0.ssm_a: expected no such tensor in a model of architecture llama, found one of shape [16]; "
            "kvscope does not know what it does, use another model");
}

}  // namespace
}  // namespace kvscope
