// SPDX-License-Identifier: Apache-2.0
// A block takes some queries of one head, a warp 16 or 32 of them; keys and values come into shared memory a tile of
// tokens at a time, copied ahead while the tile before is worked on: a ring of three slots takes K, V, K, V and so on.
// Scores and outputs stay in registers as tensor core fragments (mma.cuh): the weights of a tile leave the first
// product in the layout in which the second one wants them. Head dimensions are filled up with zeros to 64, 128 or 256.
// Blocks with the longest context start first.
#include <algorithm>

#include "core/error.h"
#include "kernels/attention_prefill.cuh"
#include "kernels/attention_prefill.h"
#include "kernels/attention_prefill_wgmma.cuh"

namespace kvscope::KVSCOPE_TWIN {
namespace {

constexpr int kHighestDim = 256;

// dim: of keys and values, filled up; row_tiles: 16 queries each, of a warp; tokens: of a tile. The outputs take
// row_tiles * dim / 2 registers of a thread, the scores row_tiles * tokens / 2. A fragment of K or V that was loaded
// meets all of a warp's queries, so 32 of them halve what shared memory has to give.
template <int dim, int row_tiles, int tokens>
struct Tile {
  static constexpr int kThreads = 128, kWarps = kThreads / 32, kSlots = 3;
  static constexpr int kDim = dim, kRowTiles = row_tiles, kTokens = tokens;
  static constexpr int kWarpRows = 16 * kRowTiles, kRows = kWarps * kWarpRows;
  static constexpr int kChunks = kDim / 8, kSlotChunks = kTokens * kChunks;
  static constexpr int kSharedBytes = (kRows * kChunks + kSlots * kSlotChunks) * 16;
};

template <typename T, int kCount>
__device__ void Copy(const __half* matrix, int64_t stride, int first, int rows, int dim, uint4* to) {
  CopyRows<T::kThreads, T::kDim, T::kChunks, kCount>(matrix, stride, first, rows, dim, to);
}

// What a lane names to load the 16 x 16 halves at `row` (a multiple of 16) and `chunk` (even): where chunk + lane / 16
// of row + lane % 16 lies, with the lane's part set apart as it never changes.
template <typename T>
__device__ int LaneChunk(int row, int chunk) {
  const int lane = static_cast<int>(threadIdx.x) % 32, part = ChunkAt<T::kRows, T::kChunks>(lane % 16, lane / 16);
  return (part ^ chunk % 8) + chunk / 8 * 8 + row * T::kChunks;
}

// score = queries keys^T, of the warp's rows.
template <typename T>
__device__ void Scores(const uint4* queries, const uint4* keys, int warp_row,
                       float (&score)[T::kRowTiles][T::kTokens / 8][4]) {
#pragma unroll
  for (int step = 0; step < T::kDim / 16; ++step) {
    uint32_t rows[T::kRowTiles][4];
#pragma unroll
    for (int m = 0; m < T::kRowTiles; ++m) {
      LoadMatrices(rows[m], queries + LaneChunk<T>(warp_row + m * 16, step * 2));
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
      PackWeights(weight[m][2 * step], weight[m][2 * step + 1], rows[m]);
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

template <typename Element, typename T, bool kIsPlain>
__global__ void __launch_bounds__(T::kThreads, 2) PrefillKernel(Arguments a) {
  KVSCOPE_DYNAMIC_SHARED(uint4, shared);
  const int warp_row = static_cast<int>(threadIdx.x) / 32 * T::kWarpRows;  // the warp's first in the block
  const int kv_head = static_cast<int>(blockIdx.z), head = kv_head * a.group + static_cast<int>(blockIdx.y);
  const int first_row = static_cast<int>(gridDim.x - 1 - blockIdx.x) * T::kRows;
  const __half *k = a.k + kv_head * a.k_head_stride, *v = a.v + kv_head * a.v_head_stride;
  // Tokens that any row sees lie in [begin, end).
  const int begin = FirstTile<kIsPlain, T::kTokens>(a, first_row) * T::kTokens;
  const int end = min(a.first_query + min(first_row + T::kRows, a.queries), a.tokens);
  uint4 *const queries = shared, *const ring = shared + T::kRows * T::kChunks;
  const auto slot = [&](int tile) { return ring + tile % T::kSlots * T::kSlotChunks; };  // K is tile 0, V tile 1

  Copy<T, T::kRows>(a.q + head * a.q_head_stride, a.q_row_stride, first_row, a.queries, a.dim_k, queries);
  Copy<T, T::kTokens>(k, a.k_row_stride, begin, a.tokens, a.dim_k, slot(0));
  CommitCopies();
  Copy<T, T::kTokens>(v, a.v_row_stride, begin, a.tokens, a.dim_v, slot(1));
  CommitCopies();

  float out[T::kRowTiles][T::kDim / 8][4] = {};
  float highest[T::kRowTiles][2], sum[T::kRowTiles][2] = {};  // of scores before a.scale; sum: of this lane's columns
#pragma unroll
  for (int m = 0; m < T::kRowTiles; ++m) highest[m][0] = highest[m][1] = -INFINITY;
  for (int first = begin, keys = 0; first < end; first += T::kTokens, keys = (keys + 2) % T::kSlots) {
    const int next = first + T::kTokens;
    WaitCopies<1>();
    __syncthreads();  // these keys are there, and the values before them were read
    if (next < end) Copy<T, T::kTokens>(k, a.k_row_stride, next, a.tokens, a.dim_k, slot(keys + 2));
    CommitCopies();
    float score[T::kRowTiles][T::kTokens / 8][4] = {};
    Scores<T>(queries, slot(keys), warp_row, score);

    ApplyRule<kIsPlain>(a, a.first_query + first_row + warp_row - first, score);
    float rescale[T::kRowTiles][2];
    WeightsFromScores<kIsPlain>(a.to_log2, score, highest, sum, rescale);
    Rescale(rescale, out);

    WaitCopies<1>();
    __syncthreads();  // these values are there, and the keys were read
    if (next < end) Copy<T, T::kTokens>(v, a.v_row_stride, next, a.tokens, a.dim_v, slot(keys));
    CommitCopies();
    AddValues<T>(score, slot(keys + 1), out);
  }

  Store<Element>(a, head, first_row + warp_row, out, highest, sum);
}

bool IsPlain(const Arguments& a) {
  return a.window == 0 && a.to_tanh == 0;
}

template <typename Element, typename T>
void LaunchWgmma(const Arguments& a, int heads, void* stream) {
  const dim3 grid((a.queries + T::kRows - 1) / T::kRows, a.group, heads / a.group);
  const auto kernel = IsPlain(a) ? WgmmaPrefillKernel<Element, T, true> : WgmmaPrefillKernel<Element, T, false>;
  Launch("WgmmaPrefillKernel", kernel, grid, T::kThreads, T::kSharedBytes, stream, a);
}

template <typename Element, typename T>
void LaunchFor(const Arguments& a, int heads, void* stream) {
  const dim3 grid((a.queries + T::kRows - 1) / T::kRows, a.group, heads / a.group);
  const auto kernel = IsPlain(a) ? PrefillKernel<Element, T, true> : PrefillKernel<Element, T, false>;
  Launch("PrefillKernel", kernel, grid, T::kThreads, T::kSharedBytes, stream, a);
}

template <typename Element>
void LaunchOf(const Arguments& a, int heads, PrefillPath path, void* stream) {
  const int dim = std::max(a.dim_k, a.dim_v);
  if (path == PrefillPath::kWgmma) {
    return dim <= 64 ? LaunchWgmma<Element, WgmmaTile<64>>(a, heads, stream)
                     : LaunchWgmma<Element, WgmmaTile<128>>(a, heads, stream);
  }
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
  KVSCOPE_CHECK_LE(rows.strides[1], INT32_MAX / 256);
  KVSCOPE_CHECK_EQ(reinterpret_cast<uintptr_t>(rows.data) % 16, 0u);
}

}  // namespace

bool HasPath(PrefillPath path) {
  return path == PrefillPath::kMma || HasWgmma();
}

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
  KVSCOPE_CHECK(p.rule.scale > 0);  // the highest score is looked for before it is scaled
  KVSCOPE_CHECK_LE(p.first_query + p.q.shape[1], p.k.shape[1]);
  KVSCOPE_CHECK_LE(p.k.shape[1], INT32_MAX - 256);
  if (p.q.shape[1] == 0) return;
  if (p.path == PrefillPath::kWgmma) {
    KVSCOPE_CHECK_LE(std::max(p.q.shape[2], p.v.shape[2]), 128);
    if (!HasWgmma())
      throw Error("attention_prefill: wgmma needs a device of compute capability 9.0 and an sm_90a build");
  }
  const int newest = p.first_query + static_cast<int>(p.q.shape[1]) - 1;
  const bool is_windowed = p.rule.FirstSeen(newest) > 0, is_capped = p.rule.softcap > 0;
  const float scale = is_capped ? p.rule.softcap : p.rule.scale;
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
                    .window = is_windowed ? p.rule.window : 0,
                    .to_tanh = is_capped ? p.rule.scale / p.rule.softcap : 0,
                    .scale = scale,
                    .to_log2 = scale * kLog2E};
  const int heads = static_cast<int>(p.q.shape[0]);
  p.out.dtype == DType::kF16 ? LaunchOf<__half>(a, heads, p.path, workspace.stream)
                             : LaunchOf<float>(a, heads, p.path, workspace.stream);
}

}  // namespace kvscope::KVSCOPE_TWIN
