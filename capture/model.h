// SPDX-License-Identifier: Apache-2.0
// A model in memory: every weight with its shape. Read this header to know what the decoder multiplies.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "capture/architecture.h"
#include "capture/gguf.h"
#include "core/trace.h"
#include "kernels/attention_rule.h"
#include "kernels/matmul.h"

namespace kvscope {

struct LayerConfig {
  AttentionRule attention;
  int rope_set = 0;  // of ModelConfig::rope_sets
};

struct ModelConfig {
  std::string name;
  Architecture architecture;
  int num_layers = 0, num_heads = 0, num_kv_heads = 0;
  int head_dim = 0;  // of q, k and v; a multiple of 16
  int hidden = 0, vocab = 0, context_length = 0;
  int ffn = 0;                            // of an expert where there are experts
  int num_experts = 0, experts_used = 0;  // 0: one feed-forward block for all tokens
  float rms_epsilon = 0;
  float embedding_scale = 1;
  float logit_softcap = 0;  // 0: none
  std::vector<RopeSet> rope_sets;
  std::vector<LayerConfig> layers;  // [num_layers]
};

float DefaultScale(int head_dim);  // 1 / sqrt(head_dim)

struct FeedForward {
  PackedMatrix gate, up;  // [ffn, hidden]
  PackedMatrix down;      // [hidden, ffn]
};

// A vector that a family does not have is empty.
struct LayerWeights {
  std::vector<float> attn_norm;               // [hidden]
  PackedMatrix q;                             // [heads * head_dim, hidden], rotate-half order
  PackedMatrix k;                             // [kv_heads * head_dim, hidden], rotate-half order
  PackedMatrix v;                             // [kv_heads * head_dim, hidden]
  std::vector<float> q_bias, k_bias, v_bias;  // as many as q, k and v have rows
  std::vector<float> q_norm, k_norm;          // [head_dim]
  PackedMatrix attn_out;                      // [hidden, heads * head_dim]
  std::vector<float> post_attn_norm;          // [hidden]
  std::vector<float> ffn_norm;                // [hidden]
  FeedForward ffn;                            // empty where there are experts
  PackedMatrix router;                        // [experts, hidden]
  std::vector<FeedForward> experts;
  std::vector<float> post_ffn_norm;  // [hidden]
};

struct Model {
  ModelConfig config;
  PackedMatrix embedding;  // [vocab, hidden]; also the output head when the file ties them
  PackedMatrix output;     // [vocab, hidden]; empty when tied
  std::vector<LayerWeights> layers;
  std::vector<float> output_norm;  // [hidden]
  const PackedMatrix& head() const { return output.outputs() > 0 ? output : embedding; }
};

// What the file's keys say, without a look at the weights. vocab is that of the embedding. max_tokens: of the longest
// run to come; it matters to models with two RoPE tables (Phi 3 with 128k of context), which without it are made for
// their original context.
ModelConfig ReadModelConfig(const GgufFile& gguf, int max_tokens = 0);

// Both throw Error naming key or tensor: architecture, tensor type, shape or value that we cannot take, a tensor that
// this architecture has no use for.
std::unique_ptr<Model> LoadModel(const GgufFile& gguf, int max_tokens = 0);

}  // namespace kvscope
