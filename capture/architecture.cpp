// SPDX-License-Identifier: Apache-2.0
#include "capture/architecture.h"

#include <algorithm>

#include "core/error.h"

namespace kvscope {

const std::vector<Architecture>& Architectures() {
  static const std::vector<Architecture> kArchitectures{
      {.name = "llama",
       .models = "Llama 1 to 3.x, Mistral, Mixtral, SmolLM, TinyLlama",
       .interleaved_qk = true,
       .window_period = 0},
      {.name = "qwen2", .models = "Qwen 2 and 2.5", .has_qkv_bias = true},
      {.name = "qwen3", .models = "Qwen 3", .has_qk_norm = true},
      {.name = "qwen3moe", .models = "Qwen 3 with experts", .has_qk_norm = true},
      {.name = "gemma", .models = "Gemma", .scales_embedding = true, .gate = Gate::kGelu},
      {.name = "gemma2",
       .models = "Gemma 2",
       .has_post_norms = true,
       .scales_embedding = true,
       .gate = Gate::kGelu,
       .window_period = 2,
       .window = 4096,
       .score_softcap = 50,
       .logit_softcap = 30,
       .layers_of_odd_scale = 46},
      {.name = "gemma3",
       .models = "Gemma 3, text",
       .has_qk_norm = true,
       .has_post_norms = true,
       .scales_embedding = true,
       .gate = Gate::kGelu,
       .window_period = 6,
       .window_rope_base = 10000,
       .layers_of_odd_scale = 62},
      {.name = "phi3", .models = "Phi 3 and 3.5", .has_fused_weights = true, .window_period = 0},
  };
  return kArchitectures;
}

const Architecture& FindArchitecture(const GgufFile& gguf) {
  const std::string name(gguf.RequireString("general.architecture"));
  const std::string place = StrCat(gguf.path(), ":general.architecture: ");
  std::string known;
  for (const Architecture& architecture : Architectures()) known += (known.empty() ? "" : ", ") + architecture.name;
  const char* const latent[] = {"deepseek2", "minicpm3", "plm"};
  if (gguf.Has(name + ".attention.kv_lora_rank") ||
      std::any_of(std::begin(latent), std::end(latent), [&](const char* each) { return name == each; })) {
    throw Error(StrCat(place, "expected one of ", known, ", found '", Printable(name),
                       "', whose cache holds latents (multi-head latent attention, MLA) and not keys and values; "
                       "use another model"));
  }
  for (const Architecture& architecture : Architectures()) {
    if (architecture.name == name) return architecture;
  }
  throw Error(StrCat(place, "expected one of ", known, ", found '", Printable(name), "'; use another model"));
}

}  // namespace kvscope
