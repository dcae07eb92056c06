// SPDX-License-Identifier: Apache-2.0
// Flash-decoding: a block takes one split of the context of one KV head, for up to kHeads of the query heads that share
// it, so that every K and V row is read once for all of them. It leaves a softmax part and an output relative to the
// part's maximum; a second kernel merges the splits of each head. Reads are 16 bytes wide.
//
// In a block, 8 threads share a K row (8 dims each at a time) and a shuffle adds their products; for V a thread owns 8
// dims of every n-th row, and the rows' sums meet in shared memory at the end.
#include <cstring>

#include "core/error.h"
#include "kernels/attention_decode.h"
#include "kernels/attention_decode_split.h"
#include "kernels/launch.cuh"
#include "kernels/warp.cuh"

namespace kvscope::KVSCOPE_TWIN {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;
constexpr int kVector = 8;     // dims per load
constexpr int kKeyLanes = 8;   // threads per K row
constexpr int kMaxHeads = 8;   // query heads of a block; a larger group takes several blocks
constexpr int kMaxDim = 1024;  // kThreads * kVector
static_assert(kDecodeTileTokens == 64, "a warp handles two tokens per lane");
static_assert(kDecodeMaxSplits <= kThreads, "the merge gives every split a thread");

struct Arguments {
  DecodePlan plan;        // as if all tokens were there that there may be
  const int* num_tokens;  // null: all are there
  const void* q;
  const void* k;
  const void* v;
  float* out;
  float* lse;
  void* weights;  // null: not wanted
  float* scores;  // where they wait for the lse: f32 weights themselves, or workspace
  int64_t q_stride, k_head_stride, k_token_stride, v_head_stride, v_token_stride, out_stride, weights_stride,
      scores_stride;
  float scale, softcap, inverse_softcap;  // softcap 0: none
  int window;                             // 0: none
  float* workspace;
  bool has_half_q;
};

// Of the tokens that are there.
__device__ DecodePlan PlanNow(const Arguments& a) {
  if (!a.num_tokens) return a.plan;
  return PlanWindow(a.plan, *a.num_tokens, a.window);
}

__device__ void LoadVector(const __half* source, float (&target)[kVector]) {
  const uint4 raw = *reinterpret_cast<const uint4*>(source);
  __half2 pairs[kVector / 2];
  memcpy(pairs, &raw, sizeof raw);  // stays in registers
#pragma unroll
  for (int i = 0; i < kVector / 2; ++i) {
    const float2 pair = __half22float2(pairs[i]);
    target[2 * i] = pair.x, target[2 * i + 1] = pair.y;
  }
}
__device__ void LoadVector(const float* source, float (&target)[kVector]) {
  const float4 low = reinterpret_cast<const float4*>(source)[0], high = reinterpret_cast<const float4*>(source)[1];
  target[0] = low.x, target[1] = low.y, target[2] = low.z, target[3] = low.w;
  target[4] = high.x, target[5] = high.y, target[6] = high.z, target[7] = high.w;
}

// Shared memory of a block, in floats; every part starts at a multiple of 8.
template <int kHeads>
struct SharedLayout {
  static constexpr int kScores = 0;                                      // [kHeads, tile]
  static constexpr int kRescale = kScores + kHeads * kDecodeTileTokens;  // [kHeads]
  static constexpr int kMaxima = kRescale + kMaxHeads;                   // [kHeads]
  static constexpr int kSums = kMaxima + kMaxHeads;                      // [kHeads]
  static constexpr int kReduce = kSums + kMaxHeads;                      // [value groups, head_dim_v]
  static constexpr int kQuery = kReduce + kThreads * kVector;            // [kHeads, head_dim_k]
  static size_t Bytes(int head_dim_k) { return sizeof(float) * (kQuery + kHeads * static_cast<size_t>(head_dim_k)); }
};

// scores [kHeads, tile] of tokens [begin, begin + count) of a KV head, not capped yet; -infinity behind them.
template <typename Scalar, int kHeads>
__device__ void ScoreTokens(const Arguments& a, const Scalar* k, int begin, int count, const float* q, float* scores) {
  const int head_dim = a.plan.head_dim_k;
  const int lane = static_cast<int>(threadIdx.x) % kKeyLanes;
  for (int slot = static_cast<int>(threadIdx.x) / kKeyLanes; slot < kDecodeTileTokens; slot += kThreads / kKeyLanes) {
    float dot[kHeads] = {};
    if (slot < count) {
      const Scalar* row = k + (begin + slot) * a.k_token_stride;
      for (int dim = lane * kVector; dim < head_dim; dim += kKeyLanes * kVector) {
        float key[kVector];
        LoadVector(row + dim, key);
#pragma unroll
        for (int member = 0; member < kHeads; ++member) {
          float query[kVector];
          LoadVector(q + member * head_dim + dim, query);
#pragma unroll
          for (int i = 0; i < kVector; ++i) dot[member] = fmaf(query[i], key[i], dot[member]);
        }
      }
    }
#pragma unroll
    for (int member = 0; member < kHeads; ++member) {
#pragma unroll
      for (int offset = kKeyLanes / 2; offset > 0; offset /= 2) {
        dot[member] += __shfl_xor_sync(kWholeWarp, dot[member], offset);
      }
      if (lane == 0) scores[member * kDecodeTileTokens + slot] = slot < count ? dot[member] * a.scale : -INFINITY;
    }
  }
}

// Soft-caps one head's scores of the `count` tokens of a tile; a warp's work. A lane's slots stay its own afterwards.
__device__ void CapScores(const Arguments& a, int count, float* scores) {
  for (int slot = static_cast<int>(threadIdx.x) % 32; slot < count; slot += 32) {
    scores[slot] = a.softcap * tanhf(scores[slot] * a.inverse_softcap);
  }
}

// Turns one head's scores of a tile into weights relative to the running maximum; a warp's work.
__device__ void WeighTile(float* scores, float* max, float* sum, float* rescale) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const SoftmaxPart before{*max, *sum};
  const float low = scores[lane], high = scores[lane + 32];
  const float now = fmaxf(before.max, WarpMax(fmaxf(low, high)));
  const float low_weight = RescaleFactor(low, now), high_weight = RescaleFactor(high, now);
  scores[lane] = low_weight, scores[lane + 32] = high_weight;
  const SoftmaxPart after = MergeParts(before, {now, WarpSum(low_weight + high_weight)});
  __syncwarp();  // every lane has read *max and *sum
  if (lane == 0) *rescale = RescaleFactor(before.max, after.max), *max = after.max, *sum = after.sum;
}

template <typename Scalar, int kHeads>
__global__ void __launch_bounds__(kThreads) DecodeSplitKernel(Arguments a) {
  using Layout = SharedLayout<kHeads>;
  KVSCOPE_DYNAMIC_SHARED(float, shared);
  float *scores = shared + Layout::kScores, *rescale = shared + Layout::kRescale, *maxima = shared + Layout::kMaxima,
        *sums = shared + Layout::kSums, *reduce = shared + Layout::kReduce, *q = shared + Layout::kQuery;
  const DecodePlan plan = PlanNow(a);
  const int thread = static_cast<int>(threadIdx.x);
  const int split = static_cast<int>(blockIdx.x), kv_head = static_cast<int>(blockIdx.y);
  if (split >= plan.num_splits) return;
  const int group = plan.num_heads / plan.num_kv_heads;
  const int first_member = static_cast<int>(blockIdx.z) * kHeads, first_head = kv_head * group + first_member;
  const int num_members = min(kHeads, group - first_member);
  const Scalar* k = static_cast<const Scalar*>(a.k) + kv_head * a.k_head_stride;
  const Scalar* v = static_cast<const Scalar*>(a.v) + kv_head * a.v_head_stride;

  // Heads beyond the group score 0 everywhere and are not written.
  for (int i = thread; i < kHeads * plan.head_dim_k; i += kThreads) {
    const int member = i / plan.head_dim_k, dim = i % plan.head_dim_k;
    const int64_t at = (first_head + member) * a.q_stride + dim;
    q[i] = member >= num_members ? 0.0f
           : a.has_half_q        ? __half2float(static_cast<const __half*>(a.q)[at])
                                 : static_cast<const float*>(a.q)[at];
  }
  if (thread < kHeads) maxima[thread] = -INFINITY, sums[thread] = 0;
  __syncthreads();

  const int value_lanes = plan.head_dim_v / kVector, value_groups = kThreads / value_lanes;
  const int value_group = thread / value_lanes, value_dim = thread % value_lanes * kVector;
  float sum_of_values[kHeads][kVector] = {};
  const int end = SplitEnd(plan, split);
  for (int begin = SplitBegin(plan, split); begin < end; begin += kDecodeTileTokens) {
    const int count = min(kDecodeTileTokens, end - begin);
    ScoreTokens<Scalar, kHeads>(a, k, begin, count, q, scores);
    __syncthreads();

    for (int member = thread / 32; member < kHeads; member += kWarps) {
      float* row = scores + member * kDecodeTileTokens;
      if (a.softcap > 0) CapScores(a, count, row);
      if (a.weights && member < num_members) {  // NormaliseWeightsKernel goes over them
        for (int slot = thread % 32; slot < count; slot += 32) {
          a.scores[(first_head + member) * a.scores_stride + begin + slot] = row[slot];
        }
      }
      WeighTile(row, maxima + member, sums + member, rescale + member);
    }
    __syncthreads();

#pragma unroll
    for (int member = 0; member < kHeads; ++member) {
#pragma unroll
      for (int i = 0; i < kVector; ++i) sum_of_values[member][i] *= rescale[member];
    }
    for (int slot = value_group; slot < count && value_group < value_groups; slot += value_groups) {
      float value[kVector];
      LoadVector(v + (begin + slot) * a.v_token_stride + value_dim, value);
#pragma unroll
      for (int member = 0; member < kHeads; ++member) {
        const float weight = scores[member * kDecodeTileTokens + slot];
#pragma unroll
        for (int i = 0; i < kVector; ++i) sum_of_values[member][i] = fmaf(weight, value[i], sum_of_values[member][i]);
      }
    }
    __syncthreads();  // the next tile overwrites the scores
  }

  // Add the value groups, one head at a time.
#pragma unroll
  for (int member = 0; member < kHeads; ++member) {
    if (value_group < value_groups) {
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        reduce[value_group * plan.head_dim_v + value_dim + i] = sum_of_values[member][i];
      }
    }
    __syncthreads();
    if (member < num_members) {
      const int64_t part = PartIndex(plan, first_head + member, split);
      for (int dim = thread; dim < plan.head_dim_v; dim += kThreads) {
        float total = 0;
        for (int other = 0; other < value_groups; ++other) total += reduce[other * plan.head_dim_v + dim];
        a.workspace[part * plan.head_dim_v + dim] = total;
      }
      if (thread == 0) {
        a.workspace[PartMaximaOffset(plan) + part] = maxima[member];
        a.workspace[PartSumsOffset(plan) + part] = sums[member];
      }
    }
    __syncthreads();
  }
}

// One block per head: out and lse from its splits.
__global__ void __launch_bounds__(kThreads) DecodeMergeKernel(Arguments a) {
  const DecodePlan plan = PlanNow(a);
  const int head = static_cast<int>(blockIdx.x), thread = static_cast<int>(threadIdx.x);
  __shared__ float factors[kDecodeMaxSplits];
  const float* maxima = a.workspace + PartMaximaOffset(plan) + PartIndex(plan, head, 0);
  const float* sums = a.workspace + PartSumsOffset(plan) + PartIndex(plan, head, 0);
  SoftmaxPart whole;
  for (int split = 0; split < plan.num_splits; ++split) whole = MergeParts(whole, {maxima[split], sums[split]});
  if (thread < plan.num_splits) factors[thread] = RescaleFactor(maxima[thread], whole.max) * Normaliser(whole);
  __syncthreads();

  for (int dim = thread; dim < plan.head_dim_v; dim += kThreads) {
    float total = 0;
    for (int split = 0; split < plan.num_splits; ++split) {
      total = fmaf(factors[split], a.workspace[PartIndex(plan, head, split) * plan.head_dim_v + dim], total);
    }
    a.out[head * a.out_stride + dim] = total;
  }
  if (thread == 0) a.lse[head] = LogSumExp(whole);
}

__device__ void Put(float* weight, float value) {
  *weight = value;
}
__device__ void Put(__half* weight, float value) {
  *weight = __float2half_rn(value);
}

// From scores to weights, 0 for the tokens that were not seen; runs after the merge.
template <typename Weight>
__global__ void __launch_bounds__(kThreads) NormaliseWeightsKernel(Arguments a) {
  const int token = static_cast<int>(blockIdx.x * kThreads + threadIdx.x), head = static_cast<int>(blockIdx.y);
  const DecodePlan plan = PlanNow(a);
  if (token >= EndToken(plan)) return;
  const bool is_seen = token >= plan.first_token;
  const float weight = is_seen ? RescaleFactor(a.scores[head * a.scores_stride + token], a.lse[head]) : 0.0f;
  Put(static_cast<Weight*>(a.weights) + head * a.weights_stride + token, weight);
}

template <typename Scalar, int kHeads>
void LaunchSplits(const Arguments& a, void* stream) {
  const int group = a.plan.num_heads / a.plan.num_kv_heads;
  const int splits = a.num_tokens ? MaxSplits(a.plan.num_tokens) : a.plan.num_splits;
  const dim3 grid(splits, a.plan.num_kv_heads, CeilDivide(group, kHeads));
  Launch("DecodeSplitKernel", DecodeSplitKernel<Scalar, kHeads>, grid, kThreads,
         SharedLayout<kHeads>::Bytes(a.plan.head_dim_k), stream, a);
}

template <typename Scalar>
void LaunchSplitsOf(const Arguments& a, void* stream) {
  const int group = a.plan.num_heads / a.plan.num_kv_heads;
  if (group == 1) return LaunchSplits<Scalar, 1>(a, stream);
  if (group == 2) return LaunchSplits<Scalar, 2>(a, stream);
  if (group <= 4) return LaunchSplits<Scalar, 4>(a, stream);
  LaunchSplits<Scalar, kMaxHeads>(a, stream);
}

DecodePlan PlanOf(const DecodeAttention& p) {
  KVSCOPE_CHECK_LE(p.k.shape[1], INT32_MAX / 2);
  DecodePlan shapes;
  shapes.num_heads = static_cast<int>(p.q.shape[0]), shapes.num_kv_heads = static_cast<int>(p.k.shape[0]);
  shapes.head_dim_k = static_cast<int>(p.k.shape[2]), shapes.head_dim_v = static_cast<int>(p.v.shape[2]);
  return PlanWindow(shapes, static_cast<int>(p.k.shape[1]), p.rule.window);
}

// Of the parts of all splits that there may be; scores come behind them.
int64_t PartFloats(const DecodeAttention& problem) {
  DecodePlan plan = PlanOf(problem);
  if (problem.num_tokens) plan.num_splits = MaxSplits(plan.num_tokens);
  return WorkspaceFloats(plan);
}

void CheckCache(const TensorView& cache) {
  KVSCOPE_CHECK(cache.device == kTwinDevice);
  KVSCOPE_CHECK_EQ(cache.shape[2] % kVector, 0);
  KVSCOPE_CHECK_LE(cache.shape[2], kMaxDim);
  KVSCOPE_CHECK_EQ(cache.strides[0] % kVector, 0);
  KVSCOPE_CHECK_EQ(cache.strides[1] % kVector, 0);
  KVSCOPE_CHECK_EQ(reinterpret_cast<uintptr_t>(cache.data) % 16, 0u);
}

}  // namespace

size_t DecodeWorkspaceBytes(const DecodeAttention& problem) {
  const bool has_half_weights = problem.weights.data && problem.weights.dtype == DType::kF16;
  const int64_t scores = has_half_weights ? problem.q.shape[0] * problem.k.shape[1] : 0;
  return sizeof(float) * static_cast<size_t>(PartFloats(problem) + scores);
}

void AttendDecode(const DecodeAttention& p, const Workspace& workspace) {
  CheckCache(p.k);
  CheckCache(p.v);
  KVSCOPE_CHECK(p.q.device == kTwinDevice && p.out.device == kTwinDevice && p.lse.device == kTwinDevice);
  KVSCOPE_CHECK(p.v.dtype == p.k.dtype);
  KVSCOPE_CHECK_EQ(p.q.shape[0] % p.k.shape[0], 0);
  KVSCOPE_CHECK_EQ(p.k.shape[2], p.q.shape[1]);
  KVSCOPE_CHECK_EQ(p.v.shape[0], p.k.shape[0]);
  KVSCOPE_CHECK_EQ(p.v.shape[1], p.k.shape[1]);
  KVSCOPE_CHECK_EQ(p.out.shape[1], p.v.shape[2]);
  KVSCOPE_CHECK_LE(DecodeWorkspaceBytes(p), workspace.bytes);
  float* const floats = static_cast<float*>(workspace.data);
  const bool has_half_weights = p.weights.dtype == DType::kF16, is_capped = p.rule.softcap > 0;
  const Arguments a{.plan = PlanOf(p),
                    .num_tokens = p.num_tokens,
                    .q = p.q.data,
                    .k = p.k.data,
                    .v = p.v.data,
                    .out = p.out.floats(),
                    .lse = p.lse.floats(),
                    .weights = p.weights.data,
                    .scores = has_half_weights ? floats + PartFloats(p) : p.weights.floats(),
                    .q_stride = p.q.strides[0],
                    .k_head_stride = p.k.strides[0],
                    .k_token_stride = p.k.strides[1],
                    .v_head_stride = p.v.strides[0],
                    .v_token_stride = p.v.strides[1],
                    .out_stride = p.out.strides[0],
                    .weights_stride = p.weights.strides[0],
                    .scores_stride = has_half_weights ? p.k.shape[1] : p.weights.strides[0],
                    .scale = p.rule.scale,
                    .softcap = is_capped ? p.rule.softcap : 0,
                    .inverse_softcap = is_capped ? 1 / p.rule.softcap : 0,
                    .window = p.rule.window,
                    .workspace = floats,
                    .has_half_q = p.q.dtype == DType::kF16};
  void* const stream = workspace.stream;
  p.k.dtype == DType::kF16 ? LaunchSplitsOf<__half>(a, stream) : LaunchSplitsOf<float>(a, stream);
  Launch("DecodeMergeKernel", DecodeMergeKernel, dim3(a.plan.num_heads), kThreads, 0, stream, a);
  if (a.weights && a.plan.num_tokens > 0) {
    const dim3 grid(CeilDivide(EndToken(a.plan), kThreads), a.plan.num_heads);
    const auto kernel = has_half_weights ? NormaliseWeightsKernel<__half> : NormaliseWeightsKernel<float>;
    Launch("NormaliseWeightsKernel", kernel, grid, kThreads, 0, stream, a);
  }
}

}  // namespace kvscope::KVSCOPE_TWIN
