// SPDX-License-Identifier: Apache-2.0
// The same attention by wgmma (sm_90a), in the way of FlashAttention-3 (Shah et al. 2024,
// https://arxiv.org/abs/2407.08608) in its simple form. A block takes 128 queries of one head, each of two warpgroups
// 64, held in registers; keys and values come 128 tokens at a time into two slots each. The products of a tile's scores
// and of the values before them are in flight together, and the softmax of these scores runs beside the latter.
#pragma once

#include "kernels/attention_prefill.cuh"
#include "kernels/wgmma.cuh"

namespace kvscope::KVSCOPE_TWIN {
namespace {

// dim: of keys and values, filled up, 64 or 128.
template <int dim>
struct WgmmaTile {
  static constexpr int kDim = dim, kTokens = 128, kRows = 128, kThreads = 256;
  static constexpr int kSlotChunks = kTokens * kDim / 8;
  static constexpr int kAlignment = 1024;
  static constexpr int kSharedBytes = 4 * kSlotChunks * 16 + kAlignment - 16;
};

// The lane's part of the warp's 16 queries from `first` on.
template <typename T>
__device__ void LoadQueries(const Arguments& a, int head, int first, uint32_t (&words)[T::kDim / 16][4]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const __half* const q = a.q + head * a.q_head_stride;
#pragma unroll
  for (int step = 0; step < T::kDim / 16; ++step) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int query = first + lane / 4 + i % 2 * 8, column = step * 16 + lane % 4 * 2 + i / 2 * 8;
      const bool is_there = query < a.queries && column < a.dim_k;
      words[step][i] = is_there ? *reinterpret_cast<const uint32_t*>(q + query * a.q_row_stride + column) : 0;
    }
  }
}

// Starts score = queries keys^T.
template <typename T>
__device__ void StartScores(uint32_t (&queries)[T::kDim / 16][4], uint32_t keys, float (&score)[1][T::kTokens / 8][4]) {
  Settle<T::kDim / 16>(queries);
  Settle<T::kTokens / 8>(score[0]);
  FenceRegisters();
#pragma unroll
  for (int step = 0; step < T::kDim / 16; ++step) {
#pragma unroll
    for (int part = 0; part < T::kTokens / 64; ++part) {
      const uint32_t start = keys + step / 4 * T::kTokens * 128 + part * 64 * 128 + step % 4 * 32;
      MmaAsync<false>(score[0] + part * 8, queries[step], DescribeMatrix(start), step > 0);
    }
  }
  CommitMmas();
}

// Starts out += weights values.
template <typename T>
__device__ void StartValues(uint32_t (&weights)[T::kTokens / 16][4], uint32_t values, float (&out)[1][T::kDim / 8][4]) {
  Settle<T::kTokens / 16>(weights);
  Settle<T::kDim / 8>(out[0]);
  FenceRegisters();
#pragma unroll
  for (int step = 0; step < T::kTokens / 16; ++step) {
#pragma unroll
    for (int part = 0; part < T::kDim / 64; ++part) {
      const uint32_t start = values + part * T::kTokens * 128 + step * 16 * 128;
      MmaAsync<true>(out[0] + part * 8, weights[step], DescribeMatrix(start), true);
    }
  }
  CommitMmas();
}

template <typename Element, typename T, bool kIsPlain>
__global__ void __launch_bounds__(T::kThreads, 1) WgmmaPrefillKernel(Arguments a) {
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
  KVSCOPE_DYNAMIC_SHARED(uint4, shared);
  uint4* const aligned = shared + (T::kAlignment - SharedAddress(shared) % T::kAlignment) % T::kAlignment / 16;
  const int kv_head = static_cast<int>(blockIdx.z), head = kv_head * a.group + static_cast<int>(blockIdx.y);
  const int first_row = static_cast<int>(gridDim.x - 1 - blockIdx.x) * T::kRows;
  const int warp_row = first_row + static_cast<int>(threadIdx.x) / 32 * 16;
  const __half *k = a.k + kv_head * a.k_head_stride, *v = a.v + kv_head * a.v_head_stride;
  // Tokens that any row sees lie from first_tile on, before `end`.
  const int first_tile = FirstTile<kIsPlain, T::kTokens>(a, first_row);
  const int end = min(a.first_query + min(first_row + T::kRows, a.queries), a.tokens);
  const auto copy_keys = [&](int tile) {
    if (tile * T::kTokens >= end) return;
    CopyRows<T::kThreads, T::kDim, 8, T::kTokens>(k, a.k_row_stride, tile * T::kTokens, a.tokens, a.dim_k,
                                                  aligned + tile % 2 * T::kSlotChunks);
  };
  const auto copy_values = [&](int tile) {
    CopyRows<T::kThreads, T::kDim, 8, T::kTokens>(v, a.v_row_stride, tile * T::kTokens, a.tokens, a.dim_v,
                                                  aligned + (2 + tile % 2) * T::kSlotChunks);
  };
  const auto keys_at = [&](int tile) { return SharedAddress(aligned) + tile % 2 * T::kSlotChunks * 16; };
  const auto values_at = [&](int tile) { return SharedAddress(aligned) + (2 + tile % 2) * T::kSlotChunks * 16; };
  const auto meet = [] {  // what was copied is there for all, and what lay in the other slots has been read
    WaitCopies<0>();
    FenceCopies();
    __syncthreads();
  };

  copy_keys(first_tile);
  CommitCopies();
  uint32_t queries[T::kDim / 16][4], weights[T::kTokens / 16][4];
  LoadQueries<T>(a, head, warp_row, queries);
  float out[1][T::kDim / 8][4] = {}, score[1][T::kTokens / 8][4] = {};
  float highest[1][2] = {{-INFINITY, -INFINITY}}, sum[1][2] = {}, rescale[1][2];
  const auto weigh = [&](int tile) {
    ApplyRule<kIsPlain>(a, a.first_query + warp_row - tile * T::kTokens, score);
    WeightsFromScores<kIsPlain>(a.to_log2, score, highest, sum, rescale);
  };
  const auto pack = [&] {
#pragma unroll
    for (int step = 0; step < T::kTokens / 16; ++step) {
      PackWeights(score[0][2 * step], score[0][2 * step + 1], weights[step]);
    }
  };

  meet();
  copy_keys(first_tile + 1);
  copy_values(first_tile);
  CommitCopies();
  StartScores<T>(queries, keys_at(first_tile), score);
  WaitMmas<0>();
  Settle<T::kTokens / 8>(score[0]);
  weigh(first_tile);
  pack();
  int tile = first_tile + 1;
  for (; tile * T::kTokens < end; ++tile) {
    meet();
    copy_keys(tile + 1);
    copy_values(tile);
    CommitCopies();
    StartScores<T>(queries, keys_at(tile), score);
    StartValues<T>(weights, values_at(tile - 1), out);
    WaitMmas<1>();
    Settle<T::kTokens / 8>(score[0]);
    weigh(tile);
    WaitMmas<0>();
    Settle<T::kDim / 8>(out[0]);
    Rescale(rescale, out);
    pack();
  }
  meet();
  StartValues<T>(weights, values_at(tile - 1), out);
  WaitMmas<0>();
  Settle<T::kDim / 8>(out[0]);
  Store<Element>(a, head, warp_row, out, highest, sum);
#endif
}

}  // namespace
}  // namespace kvscope::KVSCOPE_TWIN
