// SPDX-License-Identifier: Apache-2.0
#include "capture/rope_scaling.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "tests/support/capture_tiny_gguf.h"
#include "tests/support/core_message.h"

namespace kvscope {
namespace {

constexpr int kHeadDim = 64;

GgufFile With(const std::function<void(GgufBuilder&)>& add) {
  GgufBuilder file;
  file.AddInt("llama.context_length", 32768);
  file.AddFloat("llama.rope.freq_base", 1e6f);
  add(file);
  return GgufFile::FromBytes("model", file.Bytes());
}

RopeSet Read(const GgufFile& gguf, int max_tokens = 0) {
  return ReadRope(gguf, "llama", kHeadDim, max_tokens);
}

TEST(RopeScaling, IsPlainWithoutKeys) {
  const RopeSet set = Read(With([](GgufBuilder&) {}));
  ASSERT_EQ(set.inv_freq.size(), 32u);
  for (int i = 0; i < 32; ++i) EXPECT_DOUBLE_EQ(set.inv_freq[i], std::pow(1e6, -i / 32.0));
  EXPECT_EQ(set.attention_scaling, 1);
}

TEST(RopeScaling, LinearDividesEveryFrequency) {
  const RopeSet typed = Read(With([](GgufBuilder& file) {
    file.AddString("llama.rope.scaling.type", "linear");
    file.AddFloat("llama.rope.scaling.factor", 8);
  }));
  const RopeSet older = Read(With([](GgufBuilder& file) { file.AddFloat("llama.rope.scale_linear", 8); }));
  for (int i = 0; i < 32; ++i) EXPECT_DOUBLE_EQ(typed.inv_freq[i], std::pow(1e6, -i / 32.0) / 8);
  EXPECT_EQ(typed.inv_freq, older.inv_freq);
  const RopeSet none = Read(With([](GgufBuilder& file) { file.AddFloat("llama.rope.scaling.factor", 0); }));
  EXPECT_EQ(none.inv_freq[0], 1);
}

TEST(RopeScaling, YarnKeepsFastDimsAndScalesSlowOnes) {
  const RopeSet set = Read(With([](GgufBuilder& file) {
    file.AddString("llama.rope.scaling.type", "yarn");
    file.AddFloat("llama.rope.scaling.factor", 4);
    file.AddInt("llama.rope.scaling.original_context_length", 32768);
  }));
  // A dim turns 32768 * inv_freq / 2 pi times: 32 turns at dim 11.8, one at dim 19.8; the ramp goes from 11 to 20.
  for (int i = 0; i < 32; ++i) {
    const double scaled_part = i <= 11 ? 0 : i >= 20 ? 1 : (i - 11) / 9.0;
    EXPECT_NEAR(set.inv_freq[i] / std::pow(1e6, -i / 32.0), 1 - scaled_part + scaled_part / 4, 1e-12) << i;
  }
  EXPECT_NEAR(set.attention_scaling, 1.1386294361, 1e-9);
}

TEST(RopeScaling, FactorsOfEachFrequencyDivideIt) {
  std::string factors;
  for (int i = 0; i < 32; ++i) {
    const float factor = i < 16 ? 1.0f : 8.0f;
    factors.append(reinterpret_cast<const char*>(&factor), sizeof factor);
  }
  const RopeSet set =
      Read(With([&](GgufBuilder& file) { file.AddTensor("rope_freqs.weight", GgufType::kF32, {32}, factors); }));
  EXPECT_DOUBLE_EQ(set.inv_freq[15], std::pow(1e6, -15 / 32.0));
  EXPECT_DOUBLE_EQ(set.inv_freq[16], std::pow(1e6, -16 / 32.0) / 8);
}

TEST(RopeScaling, TakesTheLongTableBeyondTheOriginalContext) {
  const GgufFile gguf = With([](GgufBuilder& file) {
    const auto table = [](float factor) {
      std::string bytes;
      for (int i = 0; i < 32; ++i) bytes.append(reinterpret_cast<const char*>(&factor), sizeof factor);
      return bytes;
    };
    file.AddInt("llama.rope.scaling.original_context_length", 4096);
    file.AddFloat("llama.rope.scaling.attn_factor", 1.19f);
    file.AddTensor("rope_factors_long.weight", GgufType::kF32, {32}, table(4));
    file.AddTensor("rope_factors_short.weight", GgufType::kF32, {32}, table(2));
  });
  EXPECT_EQ(Read(gguf, 4096).inv_freq[0], 0.5);
  EXPECT_EQ(Read(gguf, 4097).inv_freq[0], 0.25);
  EXPECT_FLOAT_EQ(Read(gguf, 0).attention_scaling, 1.19f);
  EXPECT_EQ(ShortRopeContext(gguf, "llama"), 4096);
}

TEST(RopeScaling, RefusesWhatItDoesNotKnow) {
  const auto line = [](const std::function<void(GgufBuilder&)>& add) { return MessageOf([&] { Read(With(add)); }); };
  EXPECT_EQ(
      line([](GgufBuilder& file) { file.AddString("llama.rope.scaling.type", "longrope"); }),
      "model:llama.rope.scaling.type: expected none, linear or yarn, found 'longrope'; use a variant of the model "
      "without it");
  EXPECT_EQ(line([](GgufBuilder& file) { file.AddFloat("llama.rope.scaling.factor", -1); }),
            "model:llama.rope.scaling.factor: expected a number from 0 to 1e+06, found -1; the file is damaged");
  EXPECT_EQ(line([](GgufBuilder& file) {
              file.AddTensor("rope_freqs.weight", GgufType::kF32, {32}, std::string(128, '\0'));
            }),
            "model:rope_freqs.weight: expected factors above 0, found 0 at 0; the file is damaged");
}

}  // namespace
}  // namespace kvscope
