// SPDX-License-Identifier: Apache-2.0
// A block takes 4,096 logits of a row into shared memory and leaves their best few and their softmax part; a second
// kernel, a warp per row, merges the parts. A logit and its id make one key, so that the best is a maximum and the next
// one the maximum below it: nothing is sorted or marked.
#include <cstring>

#include "core/error.h"
#include "kernels/attention_decode_split.h"
#include "kernels/ceil_divide.h"
#include "kernels/launch.cuh"
#include "kernels/top_logits.h"
#include "kernels/warp.cuh"

namespace kvscope::KVSCOPE_TWIN {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kPartLogits = 4096, kWarpLogits = kPartLogits / kWarps;

struct Arguments {
  TopLogits top;
  const float* logits;  // row stride `stride`
  int64_t stride;
  int vocab, num_parts;
  uint64_t* keys;      // [rows, num_parts, count]
  SoftmaxPart* parts;  // [rows, num_parts]
};

// The greater key is the better logit, of equal ones the lower id. 0: no logit, and NaN.
__device__ uint64_t KeyOf(float logit, int id) {
  if (logit != logit) return 0;
  logit += 0.0f;  // -0 becomes 0
  uint32_t bits = 0;
  memcpy(&bits, &logit, sizeof bits);
  bits = bits >> 31 ? ~bits : bits | 0x80000000u;
  return static_cast<uint64_t>(bits) << 32 | ~static_cast<uint32_t>(id);
}
__device__ int IdOf(uint64_t key) {
  return static_cast<int>(~static_cast<uint32_t>(key));  // -1 for no logit
}
__device__ float LogitOf(uint64_t key) {
  uint32_t bits = static_cast<uint32_t>(key >> 32);
  bits = bits >> 31 ? bits & 0x7fffffffu : ~bits;
  float logit = 0;
  memcpy(&logit, &bits, sizeof logit);
  return logit;
}

// best[0, count): the greatest of key_at(0 ... size - 1), descending, 0 behind them; a warp's work, written by lane 0.
template <typename KeyAt>
__device__ void TakeBest(const KeyAt& key_at, int size, int count, uint64_t* best) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  uint64_t last = ~uint64_t{0};
  for (int i = 0; i < count; ++i) {
    uint64_t next = 0;
    for (int at = lane; at < size; at += 32) {
      const uint64_t key = key_at(at);
      if (key < last && key > next) next = key;
    }
    for (int offset = 16; offset > 0; offset /= 2) {
      const uint64_t other = __shfl_xor_sync(kWholeWarp, next, offset);
      if (other > next) next = other;
    }
    if (lane == 0) best[i] = next;
    last = next;
  }
}

// The softmax part of all lanes' parts, the same in every lane. A NaN or infinite logit makes the sum NaN.
__device__ SoftmaxPart WarpMerge(SoftmaxPart part) {
  for (int offset = 16; offset > 0; offset /= 2) {
    const float max = __shfl_xor_sync(kWholeWarp, part.max, offset);
    const float sum = __shfl_xor_sync(kWholeWarp, part.sum, offset);
    part = MergeParts(part, {max, sum});
  }
  // The lanes added in different orders.
  return {__shfl_sync(kWholeWarp, part.max, 0), __shfl_sync(kWholeWarp, part.sum, 0)};
}

__global__ void __launch_bounds__(kThreads) TopOfPartKernel(Arguments a) {
  __shared__ float logits[kPartLogits];
  __shared__ uint64_t best_of_warp[kWarps * kMaxTop];
  __shared__ SoftmaxPart part_of_warp[kWarps];
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int64_t row = blockIdx.y, part = row * a.num_parts + blockIdx.x;
  const int first_id = static_cast<int>(blockIdx.x) * kPartLogits;
  const int size = min(kPartLogits, a.vocab - first_id);
  const float* source = a.logits + row * a.stride + first_id;
  for (int i = thread; i < size; i += kThreads) logits[i] = source[i];
  __syncthreads();

  const int first = warp * kWarpLogits, end = min(first + kWarpLogits, size);
  SoftmaxPart mine;
  for (int i = first + lane; i < end; i += 32) mine.max = fmaxf(mine.max, logits[i]);  // fmaxf passes NaN over
  for (int i = first + lane; i < end; i += 32) mine.sum += RescaleFactor(logits[i], mine.max);
  mine = WarpMerge(mine);
  if (lane == 0) part_of_warp[warp] = mine;
  const auto logit_key = [&](int i) { return KeyOf(logits[first + i], first_id + first + i); };
  TakeBest(logit_key, end - first, a.top.count, best_of_warp + warp * a.top.count);
  __syncthreads();

  if (warp > 0) return;
  mine = WarpMerge(lane < kWarps ? part_of_warp[lane] : SoftmaxPart{});
  if (lane == 0) a.parts[part] = mine;
  TakeBest([&](int i) { return best_of_warp[i]; }, kWarps * a.top.count, a.top.count, a.keys + part * a.top.count);
}

__global__ void __launch_bounds__(32) MergeTopKernel(Arguments a) {
  __shared__ uint64_t best[kMaxTop];
  const int lane = static_cast<int>(threadIdx.x);
  const int64_t row = blockIdx.x;
  const uint64_t* keys = a.keys + row * a.num_parts * a.top.count;
  const SoftmaxPart* parts = a.parts + row * a.num_parts;
  SoftmaxPart whole;
  for (int i = lane; i < a.num_parts; i += 32) whole = MergeParts(whole, parts[i]);
  whole = WarpMerge(whole);
  TakeBest([&](int i) { return keys[i]; }, a.num_parts * a.top.count, a.top.count, best);
  __syncwarp();

  // First less the maximum: near the best logit that is exact.
  const float log_sum = logf(whole.sum);
  if (lane < a.top.count) {
    a.top.ids[row * a.top.count + lane] = IdOf(best[lane]);
    a.top.logprobs[row * a.top.count + lane] = LogitOf(best[lane]) - whole.max - log_sum;
  }
  if (lane == 0 && a.top.wanted) {
    a.top.wanted_logprobs[row] = a.logits[row * a.stride + a.top.wanted[row]] - whole.max - log_sum;
  }
}

int64_t NumParts(const TopLogits& top) {
  return CeilDivide(top.logits.shape[1], kPartLogits);
}

}  // namespace

size_t TopLogitsWorkspaceBytes(const TopLogits& top) {
  const int64_t parts = top.logits.shape[0] * NumParts(top);
  return static_cast<size_t>(parts) * (sizeof(uint64_t) * static_cast<size_t>(top.count) + sizeof(SoftmaxPart));
}

void FindTopLogits(const TopLogits& top, const Workspace& workspace) {
  const int64_t rows = top.logits.shape[0], vocab = top.logits.shape[1];
  KVSCOPE_CHECK(top.logits.device == kTwinDevice && top.logits.dtype == DType::kF32);
  KVSCOPE_CHECK(top.count >= 0 && top.count <= kMaxTop);
  KVSCOPE_CHECK_LE(top.count, vocab);
  KVSCOPE_CHECK_LE(vocab, INT32_MAX - kPartLogits);
  KVSCOPE_CHECK_LE(rows, 65535);  // of a grid's y
  KVSCOPE_CHECK_LE(TopLogitsWorkspaceBytes(top), workspace.bytes);
  KVSCOPE_CHECK_EQ(reinterpret_cast<uintptr_t>(workspace.data) % sizeof(uint64_t), 0u);
  if (rows == 0 || vocab == 0) return;
  const auto num_parts = static_cast<int>(NumParts(top));
  auto* const keys = static_cast<uint64_t*>(workspace.data);
  const Arguments a{.top = top,
                    .logits = top.logits.floats(),
                    .stride = top.logits.strides[0],
                    .vocab = static_cast<int>(vocab),
                    .num_parts = num_parts,
                    .keys = keys,
                    .parts = reinterpret_cast<SoftmaxPart*>(keys + rows * num_parts * top.count)};
  Launch("TopOfPartKernel", TopOfPartKernel, dim3(num_parts, static_cast<unsigned>(rows)), kThreads, 0,
         workspace.stream, a);
  Launch("MergeTopKernel", MergeTopKernel, dim3(static_cast<unsigned>(rows)), 32, 0, workspace.stream, a);
}

}  // namespace kvscope::KVSCOPE_TWIN
