// SPDX-License-Identifier: Apache-2.0
// The tiled attention that capture, live and replay share, so that all three see the same bits.
//
// Keys are packed in panels of kPanelTokens tokens, transposed to [dim][token], as f32. A score is the f32 dot product
// accumulated over dim 0, 1, 2 ... in one fused multiply-add chain, times the rule's scale and soft-capped: it depends
// neither on the other rows nor on the other tokens of a call. Softmax runs online over tiles of kTileTokens tokens
// that begin at multiples of kTileTokens whatever a row sees, so a row's result does not depend on how queries were
// grouped into calls either: tiles outside its window change nothing, and they are skipped where no row of a block sees
// them.
#pragma once

#include <cstdint>
#include <span>

#include "core/dtype.h"
#include "kernels/attention_rule.h"

namespace kvscope {

inline constexpr int kPanelTokens = 32;
inline constexpr int kTileTokens = 256;  // a multiple of kPanelTokens

constexpr int64_t PanelFloats(int64_t num_tokens, int head_dim) {
  return (num_tokens + kPanelTokens - 1) / kPanelTokens * kPanelTokens * head_dim;
}

// Transposes `count` rows of K [count, head_dim] (f16 or f32, contiguous) into panels; the last one is zero-padded.
// panels: PanelFloats(count, head_dim) floats, 64-byte aligned.
void PackKeyPanels(const void* k, DType dtype, int count, int head_dim, float* panels);

// scores[row, token] = what the rule's scale and softcap make of q[row]·k[token], for token < count rounded up to a
// panel (padding gives 0); which tokens a row sees is the caller's business. Soft-capping is off by less than 6e-7 of a
// score. q: [rows, head_dim] f32, row stride q_stride; scores: row stride `stride` >= count rounded up to a panel.
void ScoreTile(const float* q, int64_t q_stride, int rows, const float* panels, int count, int head_dim,
               const AttentionRule& rule, float* scores, int64_t stride);

// out[row, dim] += sum over token of weights[row, token] * v[token, dim], tokens in ascending order.
// v: [count, head_dim] f32 contiguous; head_dim a multiple of 16.
void AccumulateValues(const float* weights, int64_t weight_stride, int rows, const float* v, int count, int head_dim,
                      float* out, int64_t out_stride);

// values[i] = exp(values[i] - shift) and returns their sum in a fixed order. Relative error < 4e-7; arguments below
// -87 give 0. Every weight anywhere comes from this function.
float ExpShifted(std::span<float> values, float shift);

// Scores of tokens begin, begin + 1, ... up to at most the row's own, become its weights exp(score - lse), 0 for tokens
// that have left its window.
void WeightsFromScores(std::span<float> scores, int begin, int query_token, const AttentionRule& rule, float lse);

// Causal attention of `num_queries` consecutive tokens of one KV head over tokens 0 .. first_query+num_queries-1, of
// which each query sees what the rule says.
// q    [group, num_queries, head_dim_k], f32, already rounded to the cache dtype
// k, v [tokens, head_dim], dtype, contiguous
// out  [group, num_queries, head_dim_v] f32;  lse [group, num_queries]
// scores [group, num_queries, tokens], or null: scaled and soft-capped; of tokens that a query does not see they mean
//      nothing, or are not written
struct CausalAttention {
  const float* q = nullptr;
  int64_t q_head_stride = 0, q_row_stride = 0;
  const void* k = nullptr;
  const void* v = nullptr;
  DType dtype = DType::kF16;
  int group = 1, num_queries = 0, first_query = 0, head_dim_k = 0, head_dim_v = 0;
  AttentionRule rule{};
  float* out = nullptr;
  int64_t out_head_stride = 0, out_row_stride = 0;
  float* lse = nullptr;
  int64_t lse_head_stride = 0;
  float* scores = nullptr;
  int64_t scores_head_stride = 0, scores_row_stride = 0;
};
namespace cpu {
void Attend(const CausalAttention& problem);  // plain, double accumulation: the specification
}
namespace cpu_fast {
void Attend(const CausalAttention& problem);
}

// Where attention reads keys and values from, tile by tile: a trace, a cache, or a packed cache that decodes as it
// goes.
class KeyValueTiles {
 public:
  virtual ~KeyValueTiles() = default;
  // Keys of rows [begin, begin + count) into panels as PackKeyPanels does; returns the values [count, head_dim_v], f32,
  // for which `scratch` has room. Tiles come in ascending order; those that no query sees are not read.
  virtual const float* Read(int begin, int count, float* panels, float* scratch) = 0;
  // Scaled and soft-capped scores of a block of queries over the rows of the tile just read, before they become
  // weights; those of (head, query) stand at scores + (head * num_queries + query - first_query) * kTileTokens and may
  // be changed. Those of rows that the query does not see are there but mean nothing.
  virtual void SawScores(int first_query, int num_queries, int begin, int count, float* scores) {
    (void)first_query, (void)num_queries, (void)begin, (void)count, (void)scores;
  }
};
namespace cpu_fast {
// The same, and the same bits, over tiles; problem.k, v and dtype are not used. A query sees the rows up to
// first_query + its index, or the last rule.window of those: rows, not tokens. A cache whose rows are a choice of the
// tokens drops what has left the window itself and leaves rule.window 0.
void Attend(const CausalAttention& problem, KeyValueTiles& tiles);
}  // namespace cpu_fast

}  // namespace kvscope
