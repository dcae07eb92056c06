// SPDX-License-Identifier: Apache-2.0
// From a model file's keys to a configuration. Key names are llama.cpp's.
#include <algorithm>
#include <cmath>

#include "capture/model.h"
#include "capture/rope_scaling.h"
#include "core/error.h"

namespace kvscope {
namespace {

class ConfigReader {
 public:
  ConfigReader(const GgufFile& gguf, int max_tokens) : gguf_(gguf), max_tokens_(max_tokens) {
    c_.architecture = FindArchitecture(gguf);
  }

  ModelConfig Read() {
    RefuseUnknown();
    ReadShape();
    ReadExperts();
    ReadAttention();
    return std::move(c_);
  }

 private:
  std::string Key(const std::string& suffix) const { return c_.architecture.name + "." + suffix; }
  int IntIn(const std::string& suffix, int64_t low, int64_t high) const {
    return static_cast<int>(gguf_.RequireIntIn(Key(suffix), low, high));
  }
  int IntIn(const std::string& suffix, int64_t low, int64_t high, int fallback) const {
    return gguf_.Has(Key(suffix)) ? IntIn(suffix, low, high) : fallback;
  }
  template <typename... Parts>
  [[noreturn]] void Fail(const std::string& suffix, const Parts&... parts) const {
    throw Error(StrCat(gguf_.path(), ":", Key(suffix), ": ", parts...));
  }

  // Keys that change what is computed in ways that the decoder does not know. At one value they change nothing.
  void RefuseUnknown() const {
    struct Harmless {
      const char* suffix;
      double value;
    };
    for (const Harmless& each : {Harmless{"attention.clamp_kqv", 0}, Harmless{"attention.max_alibi_bias", 0},
                                 Harmless{"expert_shared_count", 0}, Harmless{"expert_gating_func", 1},
                                 Harmless{"leading_dense_block_count", 0}, Harmless{"logit_scale", 1},
                                 Harmless{"residual_scale", 1}, Harmless{"embedding_scale", 1},
                                 Harmless{"rope.scaling.alpha", 0}, Harmless{"rope.scaling.yarn_log_multiplier", 0}}) {
      if (!gguf_.Has(Key(each.suffix))) continue;
      const double found = *gguf_.Float(Key(each.suffix));
      if (found != each.value && found != 0)
        Fail(each.suffix, "expected ", each.value, ", found ", found,
             "; kvscope does not know what it does, use another model");
    }
    if (!gguf_.Bool(Key("attention.causal")).value_or(true))
      Fail("attention.causal", "expected true, found false; kvscope records models that generate");
  }

  void ReadShape() {
    c_.name = gguf_.String("general.name").value_or(c_.architecture.name);
    c_.num_layers = IntIn("block_count", 1, 1024);
    c_.hidden = IntIn("embedding_length", 1, 1 << 20);
    c_.context_length = IntIn("context_length", 1, 1 << 28);
    // Without its long table a Phi 3 is made for its original context.
    if (const int limit = ShortRopeContext(gguf_, c_.architecture.name); limit > 0 && max_tokens_ <= limit)
      c_.context_length = std::min(c_.context_length, limit);
    c_.num_heads = IntIn("attention.head_count", 1, 1024);
    c_.num_kv_heads = IntIn("attention.head_count_kv", 1, c_.num_heads, c_.num_heads);
    c_.head_dim = IntIn("attention.key_length", 1, 4096, c_.hidden / c_.num_heads);
    const char* const epsilon = "attention.layer_norm_rms_epsilon";
    c_.rms_epsilon = static_cast<float>(gguf_.RequireFloat(Key(epsilon)));
    if (!(c_.rms_epsilon > 0 && c_.rms_epsilon < 1))
      Fail(epsilon, "expected a number between 0 and 1, found ", c_.rms_epsilon, "; the file is damaged");
    if (c_.num_heads % c_.num_kv_heads != 0) {
      Fail("attention.head_count_kv", "expected a divisor of head_count ", c_.num_heads, ", found ", c_.num_kv_heads,
           "; the file is damaged");
    }
    if (c_.head_dim % 16 != 0)
      Fail("attention.key_length", "expected a head dimension that is a multiple of 16, found ", c_.head_dim,
           "; use another model");
    for (const char* same : {"attention.value_length", "rope.dimension_count"}) {
      if (const int found = IntIn(same, 1, 4096, c_.head_dim); found != c_.head_dim)
        Fail(same, "expected the head dimension ", c_.head_dim, ", found ", found, "; use another model");
    }
    if (c_.architecture.scales_embedding) c_.embedding_scale = std::sqrt(static_cast<float>(c_.hidden));
  }

  void ReadExperts() {
    constexpr int kMaxExperts = 1024;
    c_.num_experts = IntIn("expert_count", 0, kMaxExperts, 0);
    if (c_.num_experts > 0) c_.experts_used = IntIn("expert_used_count", 1, c_.num_experts);
    const bool has_own = c_.num_experts > 0 && gguf_.Has(Key("expert_feed_forward_length"));
    c_.ffn = IntIn(has_own ? "expert_feed_forward_length" : "feed_forward_length", 1, 1 << 22);
  }

  void ReadAttention() {
    AttentionRule rule{.scale = DefaultScale(c_.head_dim)};
    if (c_.architecture.layers_of_odd_scale == c_.num_layers) rule.scale = DefaultScale(c_.hidden / c_.num_heads);
    if (const double scale = gguf_.Float(Key("attention.scale")).value_or(0); scale > 0)
      rule.scale = static_cast<float>(scale);
    rule.softcap = Softcap("attn_logit_softcapping", c_.architecture.score_softcap);
    c_.logit_softcap = Softcap("final_logit_softcapping", c_.architecture.logit_softcap);
    c_.rope_sets = {ReadRope(gguf_, c_.architecture.name, c_.head_dim, max_tokens_)};
    c_.layers.assign(c_.num_layers, {.attention = rule});

    const std::vector<bool> windowed = WindowedLayers();
    const int window = IntIn("attention.sliding_window", 0, 1 << 30, c_.architecture.window);
    if (window == 0 || std::ranges::find(windowed, true) == windowed.end()) return;
    const double own_base = gguf_.Float(Key("rope.freq_base_swa")).value_or(c_.architecture.window_rope_base);
    if (own_base > 1) c_.rope_sets.push_back(PlainRope("window", c_.head_dim, own_base));
    for (int layer = 0; layer < c_.num_layers; ++layer) {
      if (!windowed[layer]) continue;
      c_.layers[layer].attention.window = window;
      c_.layers[layer].rope_set = static_cast<int>(c_.rope_sets.size()) - 1;
    }
  }

  // [layers] of a model with windows. The key is an array of truth values, one per layer, or, as the table's rows, the
  // length of a period whose last layer sees everything.
  std::vector<bool> WindowedLayers() const {
    const char* const suffix = "attention.sliding_window_pattern";
    if (gguf_.HasArray(Key(suffix))) {
      std::vector<bool> windowed = *gguf_.BoolArray(Key(suffix));
      if (windowed.size() != static_cast<size_t>(c_.num_layers)) {
        Fail(suffix, "expected a truth value for each of the ", c_.num_layers, " layers, found ", windowed.size(),
             "; the file is damaged, convert the model again");
      }
      return windowed;
    }
    const int period = IntIn(suffix, 0, 1024, c_.architecture.window_period);
    std::vector<bool> windowed(c_.num_layers, true);
    for (int layer = period - 1; period > 0 && layer < c_.num_layers; layer += period) windowed[layer] = false;
    return windowed;
  }

  float Softcap(const char* suffix, double fallback) const {
    constexpr double kHighest = 1e6;
    const double cap = gguf_.Float(Key(suffix)).value_or(fallback);
    if (cap < 0 || cap > kHighest)
      Fail(suffix, "expected a number from 0 to ", kHighest, ", found ", cap, "; the file is damaged");
    return static_cast<float>(cap);
  }

  const GgufFile& gguf_;
  const int max_tokens_;
  ModelConfig c_;
};

}  // namespace

float DefaultScale(int head_dim) {
  return static_cast<float>(1 / std::sqrt(static_cast<double>(head_dim)));
}

ModelConfig ReadModelConfig(const GgufFile& gguf, int max_tokens) {
  ModelConfig config = ConfigReader(gguf, max_tokens).Read();
  const GgufTensor* embedding = gguf.Find("token_embd.weight");
  if (!embedding || embedding->shape.size() != 2 || embedding->Rows() > (1 << 24)) {
    throw Error(StrCat(gguf.path(), ":token_embd.weight: expected this tensor with shape [", config.hidden,
                       ", vocabulary], found ", embedding ? ShapeText(embedding->shape) : "none",
                       "; the file is not a complete model, convert it again"));
  }
  config.vocab = static_cast<int>(embedding->Rows());
  const size_t tokens = gguf.StringArray("tokenizer.ggml.tokens").value_or(std::vector<std::string_view>{}).size();
  if (tokens > static_cast<size_t>(config.vocab)) {
    throw Error(StrCat(gguf.path(), ":tokenizer.ggml.tokens: expected at most the ", config.vocab,
                       " tokens that token_embd.weight has rows for, found ", tokens, "; convert the model again"));
  }
  return config;
}

}  // namespace kvscope
