// SPDX-License-Identifier: Apache-2.0
// Causal attention of many consecutive tokens over a KV cache that holds them already, with the log-sum-exp that a
// trace keeps. On the device: tiles of queries and tokens with an online softmax (FlashAttention-2, Dao 2023,
// https://arxiv.org/abs/2307.08691). On the CPU capture uses attention_tile.h, whose bits replay shares.
#pragma once

#include "kernels/attention_rule.h"
#include "kernels/tensor.h"

namespace kvscope {

// How the device multiplies. kMma: on every device since sm_80. kWgmma: head dimensions up to 128 and devices of
// compute capability 9.0 whose image was built for sm_90a; else AttendPrefill throws. No device has run it yet, so it
// must be asked for; cuda::HasPath says where that is possible. The CPU has one way.
enum class PrefillPath { kMma, kWgmma };

// Query head h reads KV head h / (heads / kv_heads); query i is token first_query + i and sees tokens up to itself, of
// which those in the rule's window.
struct PrefillAttention {
  TensorView q;     // [heads, queries, head_dim] f16, as recorded; rows contiguous
  TensorView k, v;  // [kv_heads, tokens, head_dim or head_dim_v] f16; tokens >= first_query + queries
  int first_query = 0;
  AttentionRule rule;
  TensorView out;  // [heads, queries, head_dim_v] f16 or f32, any strides of heads and queries; written
  TensorView lse;  // [heads, queries] f32; written
  PrefillPath path = PrefillPath::kMma;
};

namespace cpu {
void AttendPrefill(const PrefillAttention& problem);  // double accumulation: the specification
}
namespace cuda {
// head_dim and head_dim_v multiples of 16, at most 256 (computed as 64, 128 or 256, whichever holds both); rows 16-byte
// aligned; rule.scale > 0. Weights are rounded to f16 before they meet the values (2^-11 of each), their sum is not.
void AttendPrefill(const PrefillAttention& problem, const Workspace& workspace);
bool HasPath(PrefillPath path);  // on the current device, in this build
}  // namespace cuda

}  // namespace kvscope
