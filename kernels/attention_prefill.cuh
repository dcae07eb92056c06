// SPDX-License-Identifier: Apache-2.0
// What the kernels of attention_prefill.cu share: tiles in shared memory, the online softmax over fragments of scores
// (mma.cuh; a wgmma leaves the same), and the end. [m][tile][i]: register i of the warp's m-th 16 rows and of columns
// [8 tile, 8 tile + 8).
#pragma once

#include <cstring>

#include "kernels/launch.cuh"
#include "kernels/mma.cuh"
#include "kernels/tile_copy.cuh"

namespace kvscope::KVSCOPE_TWIN {
namespace {

constexpr unsigned kAllLanes = 0xffffffffu;
constexpr float kLog2E = 1.44269504f, kLn2 = 0.693147181f;

struct Arguments {
  const __half *q, *k, *v;
  void* out;
  float* lse;
  int64_t q_head_stride, q_row_stride, k_head_stride, k_row_stride, v_head_stride, v_row_stride;
  int64_t out_head_stride, out_row_stride, lse_head_stride;
  int group, queries, first_query, tokens, dim_k, dim_v;
  int window;            // 0: none
  float to_tanh;         // 0: scores are not soft-capped; else scale / softcap
  float scale, to_log2;  // of q·k, or of its tanh: then scale is the softcap. to_log2: scale log2(e)
};

__device__ uint32_t Pack(float low, float high) {
  const __half2 pair = __floats2half2_rn(low, high);
  uint32_t word;
  memcpy(&word, &pair, sizeof word);
  return word;
}

__device__ void Put(__half* out, float low, float high) {
  *reinterpret_cast<uint32_t*>(out) = Pack(low, high);
}
__device__ void Put(float* out, float low, float high) {
  *reinterpret_cast<float2*>(out) = float2{low, high};
}

// Where chunk `chunk` (8 halves) of row `row` lies in a tile of kRows rows, in chunks from its start. A row is kept in
// pieces of kRowChunks, first all rows' first pieces; in each the chunks are permuted, so that the same chunk of eight
// rows lies in eight places of the 128 bytes that one cycle reads.
template <int kRows, int kRowChunks>
__device__ int ChunkAt(int row, int chunk) {
  return chunk / kRowChunks * kRows * kRowChunks + row * kRowChunks + (chunk % kRowChunks ^ row % 8);
}

// Starts to copy rows [first, first + kCount) of a matrix to a tile; zeros behind its last row and dimension.
template <int kThreads, int kDim, int kRowChunks, int kCount>
__device__ void CopyRows(const __half* matrix, int64_t stride, int first, int rows, int dim, uint4* to) {
  constexpr int kChunks = kDim / 8, kRowsAtOnce = kThreads / kChunks;
  static_assert(kCount % kRowsAtOnce == 0);
  const int thread = static_cast<int>(threadIdx.x), chunk = thread % kChunks, row = thread / kChunks;
  const int rows_left = chunk * 8 < dim ? rows - first - row : 0;
  const unsigned in_rows = static_cast<unsigned>(row) * static_cast<unsigned>(stride) + chunk * 8;  // one per thread
#pragma unroll 4
  for (int i = 0; i < kCount; i += kRowsAtOnce) {
    CopyAsync(to + ChunkAt<kCount, kRowChunks>(row + i, chunk), matrix + (first + i) * stride + in_rows,
              i < rows_left ? 16 : 0);
  }
}

// Maximum or sum over the four lanes that share a row of fragments.
__device__ float RowMax(float value) {
  value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, 1));
  return fmaxf(value, __shfl_xor_sync(kAllLanes, value, 2));
}
__device__ float RowSum(float value) {
  value += __shfl_xor_sync(kAllLanes, value, 1);
  return value + __shfl_xor_sync(kAllLanes, value, 2);
}

// The lanes' part of scores whose row r of a warp sees columns up to border + r (kLater), or from border + r on.
template <bool kLater, int kRowTiles, int kTiles>
__device__ void Hide(int border, float (&score)[kRowTiles][kTiles][4]) {
  const int lane = static_cast<int>(threadIdx.x) % 32, own_border = border + lane / 4 - lane % 4 * 2;
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int column = tile * 8 + i % 2 - m * 16 - i / 2 * 8;
        if (kLater ? column > own_border : column < own_border) score[m][tile][i] = -INFINITY;
      }
    }
  }
}

template <int kRowTiles, int kTiles>
__device__ void CapScores(float to_tanh, float (&score)[kRowTiles][kTiles][4]) {
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) score[m][tile][i] = tanhf(score[m][tile][i] * to_tanh);
    }
  }
}

// What the rule makes of the products of a warp whose first row sees the tile's columns up to last_seen, before they
// become weights. kIsPlain: no window, no soft-cap.
template <bool kIsPlain, int kRowTiles, int kTiles>
__device__ void ApplyRule(const Arguments& a, int last_seen, float (&score)[kRowTiles][kTiles][4]) {
  if constexpr (!kIsPlain) {
    if (a.to_tanh > 0) CapScores(a.to_tanh, score);
    const int first_seen = last_seen - a.window + 1;
    if (a.window > 0 && first_seen + kRowTiles * 16 > 1) Hide</*kLater=*/false>(first_seen, score);
  }
  if (last_seen < kTiles * 8 - 1) Hide</*kLater=*/true>(last_seen, score);
}

// The tile in which the first token is that any row from `first_row` on sees.
template <bool kIsPlain, int kTokens>
__device__ int FirstTile(const Arguments& a, int first_row) {
  if (kIsPlain || a.window == 0) return 0;
  return max(0, a.first_query + first_row - a.window + 1) / kTokens;
}

// A step of the online softmax: scores become weights under the highest score so far. rescale: by what goes down what
// was summed under the highest before; `sum` (of this lane's columns) has been, outputs have not. Without a window
// every row sees token 0, in its first tile, so that no maximum stays infinite; with one a row may see nothing of some
// tiles.
template <bool kIsPlain, int kRowTiles, int kTiles>
__device__ void WeightsFromScores(float to_log2, float (&score)[kRowTiles][kTiles][4], float (&highest)[kRowTiles][2],
                                  float (&sum)[kRowTiles][2], float (&rescale)[kRowTiles][2]) {
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float now = highest[m][half];
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        now = fmaxf(now, fmaxf(score[m][tile][2 * half], score[m][tile][2 * half + 1]));
      }
      now = RowMax(now);
      const float base = kIsPlain || now > -INFINITY ? now : 0.0f, shift = -base * to_log2;
      rescale[m][half] = Exp2((highest[m][half] - base) * to_log2);
      highest[m][half] = now;
      float tile_sum = 0;
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
        for (int i = 2 * half; i < 2 * half + 2; ++i) {
          score[m][tile][i] = Exp2(fmaf(score[m][tile][i], to_log2, shift));
          tile_sum += score[m][tile][i];
        }
      }
      sum[m][half] = fmaf(sum[m][half], rescale[m][half], tile_sum);
    }
  }
}

template <int kRowTiles, int kOutTiles>
__device__ void Rescale(const float (&rescale)[kRowTiles][2], float (&out)[kRowTiles][kOutTiles][4]) {
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
    for (int tile = 0; tile < kOutTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) out[m][tile][i] *= rescale[m][i / 2];
    }
  }
}

// 16 tokens' weights as the left operand of the second product: scores lie as the results of the first one.
__device__ void PackWeights(const float (&left)[4], const float (&right)[4], uint32_t (&words)[4]) {
  words[0] = Pack(left[0], left[1]), words[1] = Pack(left[2], left[3]);
  words[2] = Pack(right[0], right[1]), words[3] = Pack(right[2], right[3]);
}

// Writes what the warp whose first query is `first_query` of the problem's has summed.
template <typename Element, int kRowTiles, int kOutTiles>
__device__ void Store(const Arguments& a, int head, int first_query, const float (&out)[kRowTiles][kOutTiles][4],
                      const float (&highest)[kRowTiles][2], const float (&sum)[kRowTiles][2]) {
  const int lane = static_cast<int>(threadIdx.x) % 32, row = lane / 4, pair = lane % 4;
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float total = RowSum(sum[m][half]), share = 1 / total;
      const int query = first_query + m * 16 + half * 8 + row;
      if (query >= a.queries) continue;
      Element* const target = static_cast<Element*>(a.out) + head * a.out_head_stride + query * a.out_row_stride;
#pragma unroll
      for (int tile = 0; tile < kOutTiles; ++tile) {
        if (tile * 8 >= a.dim_v) continue;
        const float(&pairs)[4] = out[m][tile];
        Put(target + tile * 8 + pair * 2, pairs[2 * half] * share, pairs[2 * half + 1] * share);
      }
      if (pair == 0) a.lse[head * a.lse_head_stride + query] = highest[m][half] * a.scale + log2f(total) * kLn2;
    }
  }
}

}  // namespace
}  // namespace kvscope::KVSCOPE_TWIN
