// SPDX-License-Identifier: Apache-2.0
// A block takes 64 queries of one head, a warp 16 of them; keys and values come into shared memory 64 tokens at a time.
// Scores and outputs stay in registers as tensor core fragments (mma.cuh): the weights of a tile leave the first
// product in the layout in which the second one wants them. Values are transposed on their way in, so that a fragment's
// two halves are neighbours. Blocks with the longest context start first.
#include <algorithm>
#include <cstring>

#include "core/error.h"
#include "kernels/attention_prefill.h"
#include "kernels/launch.cuh"
#include "kernels/mma.cuh"

namespace kvscope::KVSCOPE_TWIN {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / 32;
constexpr int kWarpRows = 16, kBlockRows = kWarps * kWarpRows;
constexpr int kTokens = 64, kTokenTiles = kTokens / 8;
constexpr int kPad = 4;                           // words after a row, so that a fragment's rows lie in other banks
constexpr int kValueStride = kTokens / 2 + kPad;  // words of a dim's values
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr float kLog2E = 1.44269504f, kLn2 = 0.693147181f;

struct Arguments {
  const __half *q, *k, *v;
  void* out;
  float* lse;
  int64_t q_head_stride, q_row_stride, k_head_stride, k_row_stride, v_head_stride, v_row_stride;
  int64_t out_head_stride, out_row_stride, lse_head_stride;
  int group, queries, first_query, tokens, dim_k, dim_v;
  float scale;
};

__device__ uint32_t Pack(float low, float high) {
  const __half2 pair = __floats2half2_rn(low, high);
  uint32_t word;
  memcpy(&word, &pair, sizeof word);
  return word;
}

__device__ void Put(__half* out, float low, float high) {
  out[0] = __float2half_rn(low), out[1] = __float2half_rn(high);
}
__device__ void Put(float* out, float low, float high) {
  out[0] = low, out[1] = high;
}

// Rows [first, first + kTokens) of K as they are, 16 bytes a thread at a time; zeros behind the last.
__device__ void LoadKeys(const Arguments& a, const __half* k, int first, uint32_t* keys) {
  const int vectors = a.dim_k / 8, stride = a.dim_k / 2 + kPad;
  for (int i = static_cast<int>(threadIdx.x); i < kTokens * vectors; i += kThreads) {
    const int row = i / vectors, vector = i % vectors, token = first + row;
    uint4 words{0, 0, 0, 0};
    if (token < a.tokens) words = reinterpret_cast<const uint4*>(k + token * a.k_row_stride)[vector];
    *reinterpret_cast<uint4*>(keys + row * stride + vector * 4) = words;
  }
}

// The same rows of V, transposed: values[dim][token].
__device__ void LoadValues(const Arguments& a, const __half* v, int first, __half* values) {
  const int vectors = a.dim_v / 8;
  for (int i = static_cast<int>(threadIdx.x); i < kTokens * vectors; i += kThreads) {
    const int row = i % kTokens, vector = i / kTokens, token = first + row;  // neighbours take neighbouring tokens
    uint4 words{0, 0, 0, 0};
    if (token < a.tokens) words = reinterpret_cast<const uint4*>(v + token * a.v_row_stride)[vector];
    __half halves[8];
    memcpy(halves, &words, sizeof words);
#pragma unroll
    for (int dim = 0; dim < 8; ++dim) values[(vector * 8 + dim) * 2 * kValueStride + row] = halves[dim];
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

template <typename Element, int kMaxDim>
__global__ void __launch_bounds__(kThreads) PrefillKernel(Arguments a) {
  KVSCOPE_DYNAMIC_SHARED(uint32_t, shared);
  uint32_t* const keys = shared;                                     // [kTokens, dim_k / 2 + kPad]
  uint32_t* const values = shared + kTokens * (a.dim_k / 2 + kPad);  // [dim_v, kValueStride]
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, row = lane / 4, pair = lane % 4;
  const int head = static_cast<int>(blockIdx.y), kv_head = head / a.group;
  const int first_row = static_cast<int>(gridDim.x - 1 - blockIdx.x) * kBlockRows;
  const int low = first_row + thread / 32 * kWarpRows + row, high = low + 8;  // this lane's queries
  const __half *k = a.k + kv_head * a.k_head_stride, *v = a.v + kv_head * a.v_head_stride;

  uint32_t q[kMaxDim / 16][4] = {};
#pragma unroll
  for (int step = 0; step < kMaxDim / 16; ++step) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int query = i % 2 == 0 ? low : high, word = step * 8 + pair + i / 2 * 4;
      if (step * 16 >= a.dim_k || query >= a.queries) continue;
      q[step][i] = reinterpret_cast<const uint32_t*>(a.q + head * a.q_head_stride + query * a.q_row_stride)[word];
    }
  }

  float out[kMaxDim / 8][4] = {};
  float highest[2] = {-INFINITY, -INFINITY}, sum[2] = {};  // of scores before `scale`; sum: of this lane's columns
  const float to_log2 = a.scale * kLog2E;
  const int end = min(a.first_query + min(first_row + kBlockRows, a.queries), a.tokens);  // tokens that any row sees
  for (int first = 0; first < end; first += kTokens) {
    __syncthreads();  // the tile before has been read
    LoadKeys(a, k, first, keys);
    LoadValues(a, v, first, reinterpret_cast<__half*>(values));
    __syncthreads();

    float score[kTokenTiles][4] = {};
#pragma unroll
    for (int step = 0; step < kMaxDim / 16; ++step) {
      if (step * 16 >= a.dim_k) continue;
#pragma unroll
      for (int tile = 0; tile < kTokenTiles; ++tile) {
        const uint32_t* key = keys + (tile * 8 + row) * (a.dim_k / 2 + kPad) + step * 8 + pair;
        const uint32_t columns[2] = {key[0], key[4]};
        Mma(score[tile], q[step], columns);
      }
    }
    float tile_highest[2] = {-INFINITY, -INFINITY};
#pragma unroll
    for (int tile = 0; tile < kTokenTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int token = first + tile * 8 + pair * 2 + i % 2, query = a.first_query + (i < 2 ? low : high);
        if (token > query) score[tile][i] = -INFINITY;
        tile_highest[i / 2] = fmaxf(tile_highest[i / 2], score[tile][i]);
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {  // token 0 is in the first tile, so that no maximum stays infinite
      const float now = fmaxf(highest[half], RowMax(tile_highest[half]));
      const float rescale = exp2f((highest[half] - now) * to_log2);
      highest[half] = now;
      sum[half] *= rescale;
#pragma unroll
      for (int tile = 0; tile < kMaxDim / 8; ++tile) out[tile][2 * half] *= rescale, out[tile][2 * half + 1] *= rescale;
    }
#pragma unroll
    for (int tile = 0; tile < kTokenTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        score[tile][i] = exp2f((score[tile][i] - highest[i / 2]) * to_log2);
        sum[i / 2] += score[tile][i];
      }
    }
#pragma unroll
    for (int step = 0; step < kTokens / 16; ++step) {
      const float(&left)[4] = score[2 * step], (&right)[4] = score[2 * step + 1];
      const uint32_t weights[4] = {Pack(left[0], left[1]), Pack(left[2], left[3]), Pack(right[0], right[1]),
                                   Pack(right[2], right[3])};
#pragma unroll
      for (int tile = 0; tile < kMaxDim / 8; ++tile) {
        if (tile * 8 >= a.dim_v) continue;
        const uint32_t* value = values + (tile * 8 + row) * kValueStride + step * 8 + pair;
        const uint32_t columns[2] = {value[0], value[4]};
        Mma(out[tile], weights, columns);
      }
    }
  }

#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float total = RowSum(sum[half]);
    const int query = half == 0 ? low : high;
    if (query >= a.queries) continue;
    Element* const target = static_cast<Element*>(a.out) + head * a.out_head_stride + query * a.out_row_stride;
#pragma unroll
    for (int tile = 0; tile < kMaxDim / 8; ++tile) {
      if (tile * 8 >= a.dim_v) continue;
      Put(target + tile * 8 + pair * 2, out[tile][2 * half] / total, out[tile][2 * half + 1] / total);
    }
    if (pair == 0) a.lse[head * a.lse_head_stride + query] = highest[half] * a.scale + log2f(total) * kLn2;
  }
}

template <typename Element, int kMaxDim>
void LaunchFor(const Arguments& a, int heads, void* stream) {
  const dim3 grid((a.queries + kBlockRows - 1) / kBlockRows, heads);
  const size_t words = kTokens * (a.dim_k / 2 + kPad) + a.dim_v * kValueStride;
  Launch("PrefillKernel", PrefillKernel<Element, kMaxDim>, grid, kThreads, words * sizeof(uint32_t), stream, a);
}

template <typename Element>
void LaunchOf(const Arguments& a, int heads, void* stream) {
  std::max(a.dim_k, a.dim_v) <= 64 ? LaunchFor<Element, 64>(a, heads, stream)
                                   : LaunchFor<Element, 128>(a, heads, stream);
}

void CheckRows(const TensorView& rows) {
  KVSCOPE_CHECK(rows.device == kTwinDevice && rows.dtype == DType::kF16);
  KVSCOPE_CHECK_EQ(rows.shape[2] % 16, 0);
  KVSCOPE_CHECK_LE(rows.shape[2], 128);
  KVSCOPE_CHECK_EQ(rows.strides[0] % 8, 0);
  KVSCOPE_CHECK_EQ(rows.strides[1] % 8, 0);
  KVSCOPE_CHECK_EQ(reinterpret_cast<uintptr_t>(rows.data) % 16, 0u);
}

}  // namespace

void AttendPrefill(const PrefillAttention& p, const Workspace& workspace) {
  CheckRows(p.q);
  CheckRows(p.k);
  CheckRows(p.v);
  KVSCOPE_CHECK(p.out.device == kTwinDevice && p.lse.device == kTwinDevice);
  KVSCOPE_CHECK_EQ(p.q.shape[0] % p.k.shape[0], 0);
  KVSCOPE_CHECK_EQ(p.q.shape[2], p.k.shape[2]);
  KVSCOPE_CHECK_EQ(p.out.shape[2], p.v.shape[2]);
  KVSCOPE_CHECK_LE(p.first_query + p.q.shape[1], p.k.shape[1]);
  KVSCOPE_CHECK_LE(p.k.shape[1], INT32_MAX - kTokens);
  if (p.q.shape[1] == 0) return;
  const Arguments a{.q = static_cast<const __half*>(p.q.data),
                    .k = static_cast<const __half*>(p.k.data),
                    .v = static_cast<const __half*>(p.v.data),
                    .out = p.out.data,
                    .lse = p.lse.floats(),
                    .q_head_stride = p.q.strides[0],
                    .q_row_stride = p.q.strides[1],
                    .k_head_stride = p.k.strides[0],
                    .k_row_stride = p.k.strides[1],
                    .v_head_stride = p.v.strides[0],
                    .v_row_stride = p.v.strides[1],
                    .out_head_stride = p.out.strides[0],
                    .out_row_stride = p.out.strides[1],
                    .lse_head_stride = p.lse.strides[0],
                    .group = static_cast<int>(p.q.shape[0] / p.k.shape[0]),
                    .queries = static_cast<int>(p.q.shape[1]),
                    .first_query = p.first_query,
                    .tokens = static_cast<int>(p.k.shape[1]),
                    .dim_k = static_cast<int>(p.q.shape[2]),
                    .dim_v = static_cast<int>(p.v.shape[2]),
                    .scale = p.scale};
  const int heads = static_cast<int>(p.q.shape[0]);
  p.out.dtype == DType::kF16 ? LaunchOf<__half>(a, heads, workspace.stream)
                             : LaunchOf<float>(a, heads, workspace.stream);
}

}  // namespace kvscope::KVSCOPE_TWIN
