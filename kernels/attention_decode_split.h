// SPDX-License-Identifier: Apache-2.0
// How decode attention is split over the context and merged again: the arithmetic that attention_decode.cu runs on the
// device and its test runs on the host. A plan depends on shapes only, not on the device, so that every device adds in
// the same order.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/ceil_divide.h"
#include "kernels/device.h"

namespace kvscope {

inline constexpr int kDecodeTileTokens = 64;    // tokens whose weights a block holds at a time
inline constexpr int kDecodeSplitTokens = 128;  // the shortest split: 2k tokens and 3 KV heads give 48 blocks
inline constexpr int kDecodeMaxSplits = 128;    // longer contexts get longer splits

// Of the tokens that are seen: num_tokens from first_token on.
struct DecodePlan {
  int num_heads = 0, num_kv_heads = 0, num_tokens = 0, head_dim_k = 0, head_dim_v = 0;
  int split_tokens = 0, num_splits = 0, first_token = 0;
};

// At least one split, which is empty when there are no tokens; otherwise none is.
KVSCOPE_HOST_DEVICE constexpr DecodePlan PlanDecode(int num_heads, int num_kv_heads, int num_tokens, int head_dim_k,
                                                    int head_dim_v) {
  const int needed = CeilDivide(CeilDivide(num_tokens, kDecodeMaxSplits), kDecodeTileTokens) * kDecodeTileTokens;
  const int split_tokens = needed > kDecodeSplitTokens ? needed : kDecodeSplitTokens;
  const int num_splits = num_tokens == 0 ? 1 : CeilDivide(num_tokens, split_tokens);
  return {num_heads, num_kv_heads, num_tokens, head_dim_k, head_dim_v, split_tokens, num_splits, 0};
}

// The same for a row that is the newest of num_tokens tokens and sees `window` of them (0: all); shapes: as another's.
KVSCOPE_HOST_DEVICE constexpr DecodePlan PlanWindow(const DecodePlan& shapes, int num_tokens, int window) {
  const int seen = window > 0 && window < num_tokens ? window : num_tokens;
  DecodePlan plan = PlanDecode(shapes.num_heads, shapes.num_kv_heads, seen, shapes.head_dim_k, shapes.head_dim_v);
  plan.first_token = num_tokens - seen;
  return plan;
}

// The most splits that num_tokens tokens or fewer are cut into: longer splits may make fewer of more tokens.
constexpr int MaxSplits(int num_tokens) {
  const int shortest = CeilDivide(num_tokens, kDecodeSplitTokens);
  return shortest < 1 ? 1 : shortest < kDecodeMaxSplits ? shortest : kDecodeMaxSplits;
}

KVSCOPE_HOST_DEVICE inline int EndToken(const DecodePlan& plan) {
  return plan.first_token + plan.num_tokens;
}
KVSCOPE_HOST_DEVICE inline int SplitBegin(const DecodePlan& plan, int split) {
  return plan.first_token + split * plan.split_tokens;
}
KVSCOPE_HOST_DEVICE inline int SplitEnd(const DecodePlan& plan, int split) {
  const int begin = SplitBegin(plan, split), left = EndToken(plan) - begin;
  return begin + (left < plan.split_tokens ? left : plan.split_tokens);
}

// Workspace, in floats: outputs [heads, splits, head_dim_v] relative to their split's maximum, then maxima
// [heads, splits], then sums [heads, splits].
KVSCOPE_HOST_DEVICE inline int64_t PartIndex(const DecodePlan& plan, int head, int split) {
  return static_cast<int64_t>(head) * plan.num_splits + split;
}
KVSCOPE_HOST_DEVICE inline int64_t PartCount(const DecodePlan& plan) {
  return PartIndex(plan, plan.num_heads, 0);
}
KVSCOPE_HOST_DEVICE inline int64_t PartMaximaOffset(const DecodePlan& plan) {
  return PartCount(plan) * plan.head_dim_v;
}
KVSCOPE_HOST_DEVICE inline int64_t PartSumsOffset(const DecodePlan& plan) {
  return PartMaximaOffset(plan) + PartCount(plan);
}
KVSCOPE_HOST_DEVICE inline int64_t WorkspaceFloats(const DecodePlan& plan) {
  return PartSumsOffset(plan) + PartCount(plan);
}

// A softmax over some tokens before normalisation: sum of exp(score - max). {-infinity, 0} is the empty one.
struct SoftmaxPart {
  float max = -INFINITY;
  float sum = 0;
};

// What weights relative to max `from` are multiplied with to be relative to max `to` >= from. An empty part gives 0.
KVSCOPE_HOST_DEVICE inline float RescaleFactor(float from, float to) {
  return from == -INFINITY ? 0.0f : expf(from - to);
}
KVSCOPE_HOST_DEVICE inline SoftmaxPart MergeParts(SoftmaxPart a, SoftmaxPart b) {
  const float max = fmaxf(a.max, b.max);
  return {max, a.sum * RescaleFactor(a.max, max) + b.sum * RescaleFactor(b.max, max)};
}
KVSCOPE_HOST_DEVICE inline float LogSumExp(SoftmaxPart part) {
  return part.sum > 0 ? part.max + logf(part.sum) : -INFINITY;
}
// 1 / sum, and 0 for the empty part, whose output is 0.
KVSCOPE_HOST_DEVICE inline float Normaliser(SoftmaxPart part) {
  return part.sum > 0 ? 1.0f / part.sum : 0.0f;
}

}  // namespace kvscope
