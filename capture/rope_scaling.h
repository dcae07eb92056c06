// SPDX-License-Identifier: Apache-2.0
// Inverse frequencies of rotary embedding, as a model file's keys say: plain, linear (Chen et al. 2023,
// https://arxiv.org/abs/2306.15595), YaRN (Peng et al. 2023, https://arxiv.org/abs/2309.00071), and factors of each
// frequency, which is how files state the scaling of Llama 3.1.
#pragma once

#include <string>

#include "capture/gguf.h"
#include "core/trace.h"

namespace kvscope {

RopeSet PlainRope(const std::string& name, int head_dim, double base);  // inv_freq[i] = base^(-2 i / head_dim)

struct YarnScaling {
  double factor = 1;            // new context over the old
  double original_context = 0;  // tokens
  double attention_factor = 1;  // on top of YaRN's own, 1 + 0.1 ln(factor)
  double beta_fast = 32,
         beta_slow = 1;  // turns over the original context: above, a frequency stays; below, it is scaled
};
RopeSet YarnRope(const std::string& name, int head_dim, double base, const YarnScaling& scaling);

// Set "default" from the keys "ARCHITECTURE.rope.*" and the tensor rope_freqs.weight. Throws Error naming the key for
// a scaling that is not known, and for numbers out of range.
RopeSet ReadRope(const GgufFile& gguf, const std::string& architecture, int head_dim);

}  // namespace kvscope
