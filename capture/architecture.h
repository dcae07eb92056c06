// SPDX-License-Identifier: Apache-2.0
// What differs between model families. A family is a row of the table in architecture.cpp, not a decoder of its own.
#pragma once

#include <string>
#include <vector>

#include "capture/gguf.h"
#include "kernels/glu.h"

namespace kvscope {

struct Architecture {
  std::string name;                // general.architecture of the GGUF
  std::string models;              // for people
  bool interleaved_qk = false;     // the file pairs RoPE dims (0, 1), (2, 3) ...; the loader un-permutes q and k
  bool has_qkv_bias = false;       // required; where it is false a file may have them all the same
  bool has_qk_norm = false;        // RMS norm of every head of q and k before RoPE
  bool has_post_norms = false;     // RMS norm of what attention and feed-forward give, before it is added
  bool has_fused_weights = false;  // q, k, v are one tensor, gate and up another
  bool scales_embedding = false;   // by the square root of the hidden size
  Gate gate = Gate::kSilu;
  // Of every `window_period` layers all but the last see a window only, if the file says one; 1: none, 0: all.
  int window_period = 1;
  int window = 0;                               // where the file says none, tokens; 0: none
  double window_rope_base = 0;                  // of layers with a window, unscaled; 0: as the others
  double score_softcap = 0, logit_softcap = 0;  // where the file says none
  // Layers of the variant whose queries are scaled by 1 / sqrt(hidden / heads) and not by 1 / sqrt(head_dim), which
  // no key says; llama.cpp knows it by the same number.
  int layers_of_odd_scale = 0;
};

// Throws Error, listing those known; names models whose caches hold something else than keys and values.
const Architecture& FindArchitecture(const GgufFile& gguf);
const std::vector<Architecture>& Architectures();

}  // namespace kvscope
