// SPDX-License-Identifier: Apache-2.0
// The flags that say which policies at which budgets; `run` and `live` share them.
#pragma once

#include <string>
#include <vector>

#include "replay/sweep.h"

namespace CLI {
class App;
}

namespace kvscope {

struct SweepFlags {
  std::vector<std::string> policies;  // each a comma-separated list of specs
  std::vector<std::string> keep_fractions, keep_tokens, compression_ratios, decide_at;  // comma-separated numbers
  std::string guard;
  uint64_t seed = 0;
};

void AddSweepFlags(CLI::App& app, SweepFlags& flags);
// Checked: throws Error for numbers out of range, unknown policies, no budget.
SweepOptions OptionsOf(const SweepFlags& flags);
// "sinks=4,recent=32"
Guards ParseGuards(const std::string& text);

// Throws Error when results could not be written to `path`, or would overwrite one of `inputs`: asked before any work
// is done.
void CheckOutput(const std::string& path, const std::vector<std::string>& inputs = {});

}  // namespace kvscope
