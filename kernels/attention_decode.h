// SPDX-License-Identifier: Apache-2.0
// Attention of one query token over a KV cache, with the log-sum-exp of its scores, so that parts of a context can be
// attended to apart and merged: out = sum of exp(lse_part - lse) * out_part. The CUDA twin splits the context the same
// way (flash-decoding, Dao et al. 2023, https://crfm.stanford.edu/2023/10/12/flashdecoding.html).
//
// Query head h reads KV head h / (heads / kv_heads); the query is the newest token. No tokens at all give out 0 and lse
// -infinity. Where a policy kept a different number of tokens in every KV head, call once per KV head.
#pragma once

#include "kernels/attention_rule.h"
#include "kernels/tensor.h"

namespace kvscope {

struct DecodeAttention {
  TensorView q;        // [heads, head_dim] f32, or f16 but for cpu_fast
  TensorView k;        // [kv_heads, tokens, head_dim] f32 or f16; any head stride, token stride >= head_dim
  TensorView v;        // [kv_heads, tokens, head_dim_v], dtype of k
  AttentionRule rule;  // tokens outside its window are not read
  TensorView out;      // [heads, head_dim_v] f32, written
  TensorView lse;      // [heads] f32, written
  // [heads, tokens] f32, or f16 but for cpu_fast; written: exp(score - lse), 0 outside the window; null data: not
  // wanted
  TensorView weights;
  // Not for cpu_fast. Beside k: so many of k's tokens are there, and k's shape says how many it may be; null: all. A
  // CUDA graph that holds the call sees the number change.
  const int* num_tokens = nullptr;
};

namespace cpu {
void AttendDecode(const DecodeAttention& problem);  // double accumulation: the specification
}
namespace cpu_fast {
// The tiled attention of attention_tile.h: the same bits as capture's for the same tokens. K and V rows contiguous,
// head_dim_v a multiple of 16.
void AttendDecode(const DecodeAttention& problem);
}  // namespace cpu_fast
namespace cuda {
// head_dim and head_dim_v multiples of 8, at most 1024; rows of K and V 16-byte aligned.
// workspace: at least DecodeWorkspaceBytes(problem) on the device; two calls in flight need two of them.
void AttendDecode(const DecodeAttention& problem, const Workspace& workspace);
size_t DecodeWorkspaceBytes(const DecodeAttention& problem);
}  // namespace cuda

}  // namespace kvscope
