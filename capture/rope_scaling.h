// SPDX-License-Identifier: Apache-2.0
// Inverse frequencies of rotary embedding, as a model file's keys say: plain, linear (Chen et al. 2023,
// https://arxiv.org/abs/2306.15595), YaRN (Peng et al. 2023, https://arxiv.org/abs/2309.00071), and factors of each
// frequency, which is how files state the scaling of Llama 3.1 and, with two tables, that of Phi 3 (LongRoPE, Ding et
// al. 2024, https://arxiv.org/abs/2402.13753).
#pragma once

#include <string>

#include "capture/gguf.h"
#include "core/trace.h"

namespace kvscope {

RopeSet PlainRope(const std::string& name, int head_dim, double base);  // inv_freq[i] = base^(-2 i / head_dim)

struct YarnScaling {
  double factor = 1;            // new context over the old
  double original_context = 0;  // tokens
  double beta_fast = 32;        // turns over the original context above which a frequency stays as it is
  double beta_slow = 1;         // below these it is scaled wholly
};
RopeSet YarnRope(const std::string& name, int head_dim, double base, const YarnScaling& scaling);

// Set "default" from the keys "ARCHITECTURE.rope.*" and the tensors rope_freqs and rope_factors. max_tokens: of the
// longest run; Phi 3 has another table for runs beyond its original context. Throws Error naming the key for a scaling
// that is not known, and for numbers out of range.
RopeSet ReadRope(const GgufFile& gguf, const std::string& architecture, int head_dim, int max_tokens);

// The tokens up to which a Phi 3 uses its short table; 0: the model has one table or none.
int ShortRopeContext(const GgufFile& gguf, const std::string& architecture);

}  // namespace kvscope
