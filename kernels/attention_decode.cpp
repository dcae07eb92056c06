// SPDX-License-Identifier: Apache-2.0
#include "kernels/attention_decode.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/error.h"
#include "core/half.h"
#include "kernels/attention_tile.h"

namespace kvscope {
namespace {

const std::byte* RowOf(const TensorView& cache, int64_t kv_head, int64_t token) {
  const int64_t elements = kv_head * cache.strides[0] + token * cache.strides[1];
  return static_cast<const std::byte*>(cache.data) + elements * static_cast<int64_t>(ElementBytes(cache.dtype));
}

double ElementOf(const std::byte* row, DType dtype, int64_t dim) {
  return dtype == DType::kF32 ? reinterpret_cast<const float*>(row)[dim]
                              : FloatFromHalf(reinterpret_cast<const Half*>(row)[dim]);
}

void Put(const TensorView& to, int64_t at, float value) {
  if (to.dtype == DType::kF32) {
    to.floats()[at] = value;
  } else {
    static_cast<Half*>(to.data)[at] = HalfFromFloat(value);
  }
}

void CheckShapes(const DecodeAttention& p) {
  KVSCOPE_CHECK_EQ(p.q.shape[0] % p.k.shape[0], 0);
  KVSCOPE_CHECK_EQ(p.k.shape[2], p.q.shape[1]);
  KVSCOPE_CHECK_EQ(p.v.shape[0], p.k.shape[0]);
  KVSCOPE_CHECK_EQ(p.v.shape[1], p.k.shape[1]);
  KVSCOPE_CHECK_EQ(p.out.shape[1], p.v.shape[2]);
  KVSCOPE_CHECK(p.v.dtype == p.k.dtype);
}

}  // namespace

void cpu::AttendDecode(const DecodeAttention& p) {
  CheckShapes(p);
  const int64_t group = p.q.shape[0] / p.k.shape[0], num_tokens = p.num_tokens ? *p.num_tokens : p.k.shape[1];
  KVSCOPE_CHECK_LE(num_tokens, p.k.shape[1]);
  const int64_t first_seen = p.rule.FirstSeen(static_cast<int>(num_tokens) - 1);
  for (int64_t head = 0; head < p.q.shape[0]; ++head) {
    const std::byte* q = RowOf(p.q, head, 0);
    std::vector<double> weights(num_tokens, -INFINITY);
    double max = -INFINITY, sum = 0;
    for (int64_t token = first_seen; token < num_tokens; ++token) {
      const std::byte* k = RowOf(p.k, head / group, token);
      double score = 0;
      for (int64_t dim = 0; dim < p.k.shape[2]; ++dim)
        score += ElementOf(q, p.q.dtype, dim) * ElementOf(k, p.k.dtype, dim);
      weights[token] = p.rule.Score(score);
      max = std::max(max, weights[token]);
    }
    for (double& weight : weights) sum += weight = std::exp(weight - max);
    for (double& weight : weights) weight /= sum;
    std::vector<double> out(p.v.shape[2], 0.0);
    for (int64_t token = first_seen; token < num_tokens; ++token) {
      const std::byte* v = RowOf(p.v, head / group, token);
      for (size_t dim = 0; dim < out.size(); ++dim) out[dim] += weights[token] * ElementOf(v, p.v.dtype, dim);
    }
    for (int64_t token = 0; p.weights.data && token < num_tokens; ++token) {
      Put(p.weights, head * p.weights.strides[0] + token, static_cast<float>(weights[token]));
    }
    std::copy(out.begin(), out.end(), p.out.floats() + head * p.out.strides[0]);
    p.lse.floats()[head] = static_cast<float>(max + std::log(sum));
  }
}

namespace {

// weights [group, tokens] of one KV head from the scores of the tiled attention and its lse.
void WriteWeights(const DecodeAttention& p, int64_t kv_head, int group) {
  const int num_tokens = static_cast<int>(p.k.shape[1]), head_dim = static_cast<int>(p.k.shape[2]);
  std::vector<float> panels(PanelFloats(kTileTokens, head_dim) + 16), scores(static_cast<size_t>(group) * kTileTokens);
  // 64-byte aligned, as PackKeyPanels wants it.
  auto* aligned = reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(panels.data()) + 63) / 64 * 64);
  const int first_seen = p.rule.FirstSeen(num_tokens - 1);
  for (int member = 0; member < group; ++member) {
    std::fill_n(p.weights.floats() + (kv_head * group + member) * p.weights.strides[0], first_seen, 0.0f);
  }
  for (int begin = first_seen; begin < num_tokens; begin += kTileTokens) {
    const int count = std::min(kTileTokens, num_tokens - begin);
    PackKeyPanels(RowOf(p.k, kv_head, begin), p.k.dtype, count, head_dim, aligned);
    ScoreTile(p.q.floats() + kv_head * group * p.q.strides[0], p.q.strides[0], group, aligned, count, head_dim, p.rule,
              scores.data(), kTileTokens);
    for (int member = 0; member < group; ++member) {
      const int64_t head = kv_head * group + member;
      float* target = p.weights.floats() + head * p.weights.strides[0] + begin;
      std::copy_n(scores.data() + static_cast<size_t>(member) * kTileTokens, count, target);
      ExpShifted({target, static_cast<size_t>(count)}, p.lse.floats()[head]);
    }
  }
}

}  // namespace

void cpu_fast::AttendDecode(const DecodeAttention& p) {
  CheckShapes(p);
  const int group = static_cast<int>(p.q.shape[0] / p.k.shape[0]), num_tokens = static_cast<int>(p.k.shape[1]);
  if (num_tokens == 0) return cpu::AttendDecode(p);
  KVSCOPE_CHECK(p.q.dtype == DType::kF32 && p.weights.dtype == DType::kF32 && !p.num_tokens);
  KVSCOPE_CHECK(p.k.strides[1] == p.k.shape[2] && p.v.strides[1] == p.v.shape[2]);
  for (int64_t kv_head = 0; kv_head < p.k.shape[0]; ++kv_head) {
    const int64_t head = kv_head * group;
    CausalAttention tile;
    tile.q = p.q.floats() + head * p.q.strides[0], tile.q_head_stride = tile.q_row_stride = p.q.strides[0];
    tile.k = RowOf(p.k, kv_head, 0), tile.v = RowOf(p.v, kv_head, 0), tile.dtype = p.k.dtype;
    tile.group = group, tile.num_queries = 1, tile.first_query = num_tokens - 1, tile.rule = p.rule;
    tile.head_dim_k = static_cast<int>(p.k.shape[2]), tile.head_dim_v = static_cast<int>(p.v.shape[2]);
    tile.out = p.out.floats() + head * p.out.strides[0], tile.out_head_stride = tile.out_row_stride = p.out.strides[0];
    tile.lse = p.lse.floats() + head, tile.lse_head_stride = 1;
    Attend(tile);
    if (p.weights.data) WriteWeights(p, kv_head, group);
  }
}

#ifndef KVSCOPE_HAVE_CUDA
void cuda::AttendDecode(const DecodeAttention&, const Workspace&) {
  throw Error("attention_decode on cuda: this build has no CUDA; rebuild with nvcc on PATH and -DKVSCOPE_CUDA=ON");
}
size_t cuda::DecodeWorkspaceBytes(const DecodeAttention&) {
  return 0;
}
#endif
}  // namespace kvscope
