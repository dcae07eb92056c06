// SPDX-License-Identifier: Apache-2.0
// What a layer makes of q·k before softmax, and which tokens a row sees.
#pragma once

#include <algorithm>
#include <cmath>

namespace kvscope {

struct LayerInfo;

struct AttentionRule {
  float scale = 1;    // score = scale * q·k ...
  float softcap = 0;  // ... and, above 0, softcap * tanh(score / softcap). Gemma 2, https://arxiv.org/abs/2408.00118
  int window = 0;     // a row sees the newest `window` tokens, its own among them; 0: all up to its own

  // The specification; the tiled kernels' scores are f32.
  double Score(double product) const {
    const double score = product * scale;
    return softcap > 0 ? softcap * std::tanh(score / softcap) : score;
  }
  int FirstSeen(int token) const { return window > 0 ? std::max(0, token - window + 1) : 0; }
  friend bool operator==(const AttentionRule&, const AttentionRule&) = default;
};

AttentionRule RuleOf(const LayerInfo& layer);  // of a trace

}  // namespace kvscope
