// SPDX-License-Identifier: Apache-2.0
// Models by shape only, for performance: random weights, made on the device, and prompts of random ids. Nothing that
// such a run records means anything, and everything that it writes says so.
#pragma once

#include <string>
#include <vector>

#include "capture/model.h"
#include "capture/task.h"

namespace kvscope {

// llama-3.1-8b, qwen2.5-7b or llama-3.1-70b-layer (one of its 80). Throws Error, listing them. Biases and RoPE scaling,
// which cost nothing, are left out.
ModelConfig SyntheticConfig(const std::string& name);

// One prompt of each length, with max_new tokens after it.
std::vector<Prompt> SyntheticPrompts(const ModelConfig& config, const std::vector<int>& contexts, int max_new,
                                     uint64_t seed);

}  // namespace kvscope
