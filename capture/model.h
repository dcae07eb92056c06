// SPDX-License-Identifier: Apache-2.0
// A model in memory: every weight with its shape. Read this header to know what the decoder multiplies.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "capture/gguf.h"
#include "core/trace.h"
#include "kernels/attention_rule.h"
#include "kernels/matmul.h"

namespace kvscope {

// What differs between model families. A family is a row of the table in model.cpp, not a decoder of its own.
struct Architecture {
  std::string name;             // general.architecture of the GGUF
  bool interleaved_qk = false;  // the file pairs RoPE dims (0, 1), (2, 3) ...; the loader un-permutes q and k
};
const Architecture& FindArchitecture(const std::string& name, const std::string& place);  // throws, listing those known

struct LayerConfig {
  AttentionRule attention;
  int rope_set = 0;  // of ModelConfig::rope_sets
};

struct ModelConfig {
  std::string name;
  Architecture architecture;
  int num_layers = 0, num_heads = 0, num_kv_heads = 0;
  int head_dim = 0;  // of q, k and v; a multiple of 16
  int hidden = 0, ffn = 0, vocab = 0, context_length = 0;
  float rms_epsilon = 0;
  std::vector<RopeSet> rope_sets;
  std::vector<LayerConfig> layers;  // [num_layers]
};

RopeSet PlainRope(int head_dim, double base);  // inv_freq[i] = base^(-2 i / head_dim)
float DefaultScale(int head_dim);              // 1 / sqrt(head_dim)

struct LayerWeights {
  std::vector<float> attn_norm;  // [hidden]
  PackedMatrix q;                // [heads * head_dim, hidden], rotate-half order
  PackedMatrix k;                // [kv_heads * head_dim, hidden], rotate-half order
  PackedMatrix v;                // [kv_heads * head_dim, hidden]
  PackedMatrix attn_out;         // [hidden, heads * head_dim]
  std::vector<float> ffn_norm;   // [hidden]
  PackedMatrix gate, up;         // [ffn, hidden]
  PackedMatrix down;             // [hidden, ffn]
};

struct Model {
  ModelConfig config;
  PackedMatrix embedding;  // [vocab, hidden]; also the output head when the file ties them
  PackedMatrix output;     // [vocab, hidden]; empty when tied
  std::vector<LayerWeights> layers;
  std::vector<float> output_norm;  // [hidden]
  const PackedMatrix& head() const { return output.outputs() > 0 ? output : embedding; }
};

// Throws Error: architecture, tensor type, shape or value that we cannot take, by name.
std::unique_ptr<Model> LoadModel(const GgufFile& gguf);

}  // namespace kvscope
