// SPDX-License-Identifier: Apache-2.0
#include "capture/synthetic.h"

#include <random>

#include "capture/rope_scaling.h"
#include "core/error.h"
#include "core/units.h"

namespace kvscope {
namespace {

struct Shape {
  const char* name;
  int layers, heads, kv_heads, hidden, ffn, vocab;
  double rope_base;
};
constexpr int kHeadDim = 128, kContext = 131072;
constexpr Shape kShapes[] = {
    {"llama-3.1-8b", 32, 32, 8, 4096, 14336, 128256, 500000.0},
    {"qwen2.5-7b", 28, 28, 4, 3584, 18944, 152064, 1000000.0},
    {"llama-3.1-70b-layer", 1, 64, 8, 8192, 28672, 128256, 500000.0},
};

}  // namespace

ModelConfig SyntheticConfig(const std::string& name) {
  std::string known;
  for (const Shape& shape : kShapes) {
    known += StrCat(known.empty() ? "" : ", ", shape.name);
    if (name != shape.name) continue;
    ModelConfig config;
    config.name = StrCat(shape.name, " shape, random weights");
    config.architecture.name = "synthetic";
    config.num_layers = shape.layers;
    config.num_heads = shape.heads;
    config.num_kv_heads = shape.kv_heads;
    config.head_dim = kHeadDim;
    config.hidden = shape.hidden;
    config.ffn = shape.ffn;
    config.vocab = shape.vocab;
    config.context_length = kContext;
    config.rms_epsilon = 1e-5f;
    config.rope_sets = {PlainRope("default", kHeadDim, shape.rope_base)};
    config.layers.assign(config.num_layers, {.attention = {.scale = DefaultScale(kHeadDim)}});
    return config;
  }
  throw Error(StrCat("--synthetic ", Escape(name), ": expected one of ", known));
}

std::vector<Prompt> SyntheticPrompts(const ModelConfig& config, const std::vector<int>& contexts, int max_new,
                                     uint64_t seed) {
  std::vector<Prompt> prompts;
  for (const int context : contexts) {
    if (context < 1 || context > config.context_length - max_new) {
      throw Error(StrCat("--context ", context, ": expected 1 to ", config.context_length - max_new,
                         ", which leaves room for --max-new ", max_new));
    }
    Prompt prompt;
    prompt.file_stem = StrCat("synthetic_c", context);
    std::mt19937_64 random(seed);
    for (int i = 0; i < context; ++i) prompt.ids.push_back(static_cast<int>(random() % config.vocab));
    prompt.max_new = max_new;
    prompt.segments = {{"context", 0, 0, context, true}};
    prompt.task.name = "synthetic";
    prompt.task.parameters_json = R"({"weights": "random", "ids": "random"})";
    prompt.task.seed = seed;
    prompt.task.scorer = "none";
    prompts.push_back(std::move(prompt));
  }
  return prompts;
}

}  // namespace kvscope
