// SPDX-License-Identifier: Apache-2.0
// A block takes some queries of one head, a warp 16 or 32 of them; keys and values come into shared memory a tile of
// tokens at a time, copied ahead while the tile before is worked on: a ring of three slots takes K, V, K, V and so on.
// Scores and outputs stay in registers as tensor core fragments (mma.cuh): the weights of a tile leave the first
// product in the layout in which the second one wants them. In shared memory the 16-byte chunks of a row are permuted
// (`ChunkAt`), so that eight rows' chunks lie in eight places of the 128 bytes that one cycle reads. Head dimensions
// are filled up with zeros to 64, 128 or 256. Blocks with the longest context start first.
#include <algorithm>
#include <cstring>

#include "core/error.h"
#include "kernels/attention_prefill.h"
#include "kernels/launch.cuh"
#include "kernels/mma.cuh"
#include "kernels/tile_copy.cuh"

namespace kvscope::KVSCOPE_TWIN {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / 32, kSlots = 3, kHighestDim = 256;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr float kLog2E = 1.44269504f, kLn2 = 0.693147181f;

struct Arguments {
  const __half *q, *k, *v;
  void* out;
  float* lse;
  int64_t q_head_stride, q_row_stride, k_head_stride, k_row_stride, v_head_stride, v_row_stride;
  int64_t out_head_stride, out_row_stride, lse_head_stride;
  int group, queries, first_query, tokens, dim_k, dim_v;
  float scale, to_log2;  // to_log2: scale log2(e)
};

// dim: of keys and values, filled up; row_tiles: 16 queries each, of a warp; tokens: of a tile. The outputs take
// row_tiles * dim / 2 registers of a thread, the scores row_tiles * tokens / 2. A fragment of K or V that was loaded
// meets all of a warp's queries, so 32 of them halve what shared memory has to give.
template <int dim, int row_tiles, int tokens>
struct Tile {
  static constexpr int kDim = dim, kRowTiles = row_tiles, kTokens = tokens;
  static constexpr int kWarpRows = 16 * kRowTiles, kRows = kWarps * kWarpRows;
  static constexpr int kChunks = kDim / 8, kSlotChunks = kTokens * kChunks;
  static constexpr int kSharedBytes = (kRows * kChunks + kSlots * kSlotChunks) * 16;
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

// Where chunk `chunk` (8 halves) of row `row` lies in a tile, in chunks.
template <typename T>
__device__ int ChunkAt(int row, int chunk) {
  return row * T::kChunks + (chunk ^ row % 8);
}

// What a lane names to load the 16 x 16 halves at `row` (a multiple of 16) and `chunk` (even): ChunkAt(row + lane % 16,
// chunk + lane / 16), with the lane's part set apart as it never changes.
template <typename T>
__device__ int LaneChunk(int row, int chunk) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  return (ChunkAt<T>(lane % 16, lane / 16) ^ chunk % 8) + chunk / 8 * 8 + row * T::kChunks;
}

// Starts to copy rows [first, first + kCount) of a matrix; zeros behind its last row and dimension.
template <typename T, int kCount>
__device__ void CopyRows(const __half* matrix, int64_t stride, int first, int rows, int dim, uint4* to) {
  constexpr int kRowsAtOnce = kThreads / T::kChunks;
  static_assert(kCount % kRowsAtOnce == 0);
  const int thread = static_cast<int>(threadIdx.x), chunk = thread % T::kChunks, row = thread / T::kChunks;
  const int rows_left = chunk * 8 < dim ? rows - first - row : 0;
  const unsigned in_rows = static_cast<unsigned>(row) * static_cast<unsigned>(stride) + chunk * 8;  // one per thread
#pragma unroll 4
  for (int i = 0; i < kCount; i += kRowsAtOnce) {
    CopyAsync(to + ChunkAt<T>(row + i, chunk), matrix + (first + i) * stride + in_rows, i < rows_left ? 16 : 0);
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

// score = queries keys^T, of the warp's rows of `queries`.
template <typename T>
__device__ void Scores(const uint4* queries, const uint4* keys, float (&score)[T::kRowTiles][T::kTokens / 8][4]) {
#pragma unroll
  for (int step = 0; step < T::kDim / 16; ++step) {
    uint32_t rows[T::kRowTiles][4];
#pragma unroll
    for (int m = 0; m < T::kRowTiles; ++m) {
      LoadMatrices(rows[m], queries + LaneChunk<T>(m * 16, step * 2));
    }
#pragma unroll
    for (int pair = 0; pair < T::kTokens / 16; ++pair) {
      uint32_t columns[4];  // tokens 0 to 7 and 8 to 15 of the step's lower dimensions, then of the upper ones
      LoadMatrices(columns, keys + LaneChunk<T>(pair * 16, step * 2));
      const uint32_t left[2] = {columns[0], columns[2]}, right[2] = {columns[1], columns[3]};
#pragma unroll
      for (int m = 0; m < T::kRowTiles; ++m) {
        Mma(score[m][2 * pair], rows[m], left);
        Mma(score[m][2 * pair + 1], rows[m], right);
      }
    }
  }
}

// out += weights values.
template <typename T>
__device__ void AddValues(const float (&weight)[T::kRowTiles][T::kTokens / 8][4], const uint4* values,
                          float (&out)[T::kRowTiles][T::kDim / 8][4]) {
#pragma unroll
  for (int step = 0; step < T::kTokens / 16; ++step) {
    uint32_t rows[T::kRowTiles][4];
#pragma unroll
    for (int m = 0; m < T::kRowTiles; ++m) {
      const float(&left)[4] = weight[m][2 * step], (&right)[4] = weight[m][2 * step + 1];
      rows[m][0] = Pack(left[0], left[1]), rows[m][1] = Pack(left[2], left[3]);
      rows[m][2] = Pack(right[0], right[1]), rows[m][3] = Pack(right[2], right[3]);
    }
#pragma unroll
    for (int pair = 0; pair < T::kDim / 16; ++pair) {
      uint32_t columns[4];  // of dimensions 0 to 7 both halves of the step's tokens, then of dimensions 8 to 15
      LoadMatricesTransposed(columns, values + LaneChunk<T>(step * 16, pair * 2));
      const uint32_t left[2] = {columns[0], columns[1]}, right[2] = {columns[2], columns[3]};
#pragma unroll
      for (int m = 0; m < T::kRowTiles; ++m) {
        Mma(out[m][2 * pair], rows[m], left);
        Mma(out[m][2 * pair + 1], rows[m], right);
      }
    }
  }
}

// The lanes' part of scores whose row r of a warp sees columns up to last_seen + r.
template <int kRowTiles, int kTiles>
__device__ void HideUnseen(int last_seen, float (&score)[kRowTiles][kTiles][4]) {
  const int lane = static_cast<int>(threadIdx.x) % 32, seen = last_seen + lane / 4 - lane % 4 * 2;
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (tile * 8 + i % 2 - m * 16 - i / 2 * 8 > seen) score[m][tile][i] = -INFINITY;
      }
    }
  }
}

// A step of the online softmax: scores become weights under the highest score so far, and what was summed under a lower
// one is scaled down. sum: of this lane's columns.
template <int kRowTiles, int kTiles, int kOutTiles>
__device__ void WeightsFromScores(float to_log2, float (&score)[kRowTiles][kTiles][4], float (&highest)[kRowTiles][2],
                                  float (&sum)[kRowTiles][2], float (&out)[kRowTiles][kOutTiles][4]) {
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {  // token 0 is in the first tile, so that no maximum stays infinite
      float now = highest[m][half];
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        now = fmaxf(now, fmaxf(score[m][tile][2 * half], score[m][tile][2 * half + 1]));
      }
      now = RowMax(now);
      const float rescale = Exp2((highest[m][half] - now) * to_log2), shift = -now * to_log2;
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
      sum[m][half] = fmaf(sum[m][half], rescale, tile_sum);
#pragma unroll
      for (int tile = 0; tile < kOutTiles; ++tile) {
        out[m][tile][2 * half] *= rescale, out[m][tile][2 * half + 1] *= rescale;
      }
    }
  }
}

template <typename Element, typename T>
__global__ void __launch_bounds__(kThreads, 2) PrefillKernel(Arguments a) {
  KVSCOPE_DYNAMIC_SHARED(uint4, shared);
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, row = lane / 4, pair = lane % 4;
  const int kv_head = static_cast<int>(blockIdx.z), head = kv_head * a.group + static_cast<int>(blockIdx.y);
  const int first_row = static_cast<int>(gridDim.x - 1 - blockIdx.x) * T::kRows;
  const int warp_row = thread / 32 * T::kWarpRows;  // the warp's first in the block
  const __half *k = a.k + kv_head * a.k_head_stride, *v = a.v + kv_head * a.v_head_stride;
  const int end = min(a.first_query + min(first_row + T::kRows, a.queries), a.tokens);  // tokens that any row sees
  uint4 *const queries = shared, *const ring = shared + T::kRows * T::kChunks;
  const auto slot = [&](int tile) { return ring + tile % kSlots * T::kSlotChunks; };  // K is tile 0, V tile 1

  CopyRows<T, T::kRows>(a.q + head * a.q_head_stride, a.q_row_stride, first_row, a.queries, a.dim_k, queries);
  CopyRows<T, T::kTokens>(k, a.k_row_stride, 0, a.tokens, a.dim_k, slot(0));
  CommitCopies();
  CopyRows<T, T::kTokens>(v, a.v_row_stride, 0, a.tokens, a.dim_v, slot(1));
  CommitCopies();

  float out[T::kRowTiles][T::kDim / 8][4] = {};
  float highest[T::kRowTiles][2], sum[T::kRowTiles][2] = {};  // of scores before `scale`; sum: of this lane's columns
#pragma unroll
  for (int m = 0; m < T::kRowTiles; ++m) highest[m][0] = highest[m][1] = -INFINITY;
  for (int first = 0, keys = 0; first < end; first += T::kTokens, keys = (keys + 2) % kSlots) {
    const int next = first + T::kTokens;
    WaitCopies<1>();
    __syncthreads();  // these keys are there, and the values before them were read
    if (next < end) CopyRows<T, T::kTokens>(k, a.k_row_stride, next, a.tokens, a.dim_k, slot(keys + 2));
    CommitCopies();
    float score[T::kRowTiles][T::kTokens / 8][4] = {};
    Scores<T>(queries + warp_row * T::kChunks, slot(keys), score);

    const int last_seen = a.first_query + first_row + warp_row - first;  // by the warp's first row, in this tile
    if (last_seen < T::kTokens - 1) HideUnseen(last_seen, score);
    WeightsFromScores(a.to_log2, score, highest, sum, out);

    WaitCopies<1>();
    __syncthreads();  // these values are there, and the keys were read
    if (next < end) CopyRows<T, T::kTokens>(v, a.v_row_stride, next, a.tokens, a.dim_v, slot(keys));
    CommitCopies();
    AddValues<T>(score, slot(keys + 1), out);
  }

#pragma unroll
  for (int m = 0; m < T::kRowTiles; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float total = RowSum(sum[m][half]), share = 1 / total;
      const int query = first_row + warp_row + m * 16 + half * 8 + row;
      if (query >= a.queries) continue;
      Element* const target = static_cast<Element*>(a.out) + head * a.out_head_stride + query * a.out_row_stride;
#pragma unroll
      for (int tile = 0; tile < T::kDim / 8; ++tile) {
        if (tile * 8 >= a.dim_v) continue;
        const float(&pairs)[4] = out[m][tile];
        Put(target + tile * 8 + pair * 2, pairs[2 * half] * share, pairs[2 * half + 1] * share);
      }
      if (pair == 0) a.lse[head * a.lse_head_stride + query] = highest[m][half] * a.scale + log2f(total) * kLn2;
    }
  }
}

template <typename Element, typename T>
void LaunchFor(const Arguments& a, int heads, void* stream) {
  const dim3 grid((a.queries + T::kRows - 1) / T::kRows, a.group, heads / a.group);
  Launch("PrefillKernel", PrefillKernel<Element, T>, grid, kThreads, T::kSharedBytes, stream, a);
}

template <typename Element>
void LaunchOf(const Arguments& a, int heads, void* stream) {
  const int dim = std::max(a.dim_k, a.dim_v);
  if (dim <= 64) return LaunchFor<Element, Tile<64, 2, 64>>(a, heads, stream);
  if (dim <= 128) return LaunchFor<Element, Tile<128, 2, 64>>(a, heads, stream);
  LaunchFor<Element, Tile<256, 1, 32>>(a, heads, stream);
}

void CheckRows(const TensorView& rows) {
  KVSCOPE_CHECK(rows.device == kTwinDevice && rows.dtype == DType::kF16);
  KVSCOPE_CHECK_EQ(rows.shape[2] % 16, 0);
  KVSCOPE_CHECK_LE(rows.shape[2], kHighestDim);
  KVSCOPE_CHECK_EQ(rows.strides[0] % 8, 0);
  KVSCOPE_CHECK_EQ(rows.strides[1] % 8, 0);
  KVSCOPE_CHECK_LE(rows.strides[1], INT32_MAX / kThreads);
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
  KVSCOPE_CHECK_EQ(p.out.strides[0] % 2, 0);
  KVSCOPE_CHECK_EQ(p.out.strides[1] % 2, 0);
  KVSCOPE_CHECK_EQ(reinterpret_cast<uintptr_t>(p.out.data) % 8, 0u);
  KVSCOPE_CHECK(p.scale > 0);  // the highest score is looked for before it is scaled
  KVSCOPE_CHECK_LE(p.first_query + p.q.shape[1], p.k.shape[1]);
  KVSCOPE_CHECK_LE(p.k.shape[1], INT32_MAX - 2 * kThreads);
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
                    .scale = p.scale,
                    .to_log2 = p.scale * kLog2E};
  const int heads = static_cast<int>(p.q.shape[0]);
  p.out.dtype == DType::kF16 ? LaunchOf<__half>(a, heads, workspace.stream)
                             : LaunchOf<float>(a, heads, workspace.stream);
}

}  // namespace kvscope::KVSCOPE_TWIN
