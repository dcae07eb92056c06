// SPDX-License-Identifier: Apache-2.0
// One row of x: a warp takes two outputs, so that x, which L1 serves, is read half as often, and has 8 loads of 16
// bytes a thread under way, so that the weights stream. Few outputs would leave most of the device without work: there
// the 4 warps of a block share two outputs. Several rows: cuBLAS on x rounded to the weights' type.
#include "core/error.h"
#include "kernels/blas.h"
#include "kernels/ceil_divide.h"
#include "kernels/dense.cuh"
#include "kernels/dense_matmul.h"
#include "kernels/launch.cuh"
#include "kernels/rows.cuh"
#include "kernels/warp.cuh"

namespace kvscope::KVSCOPE_TWIN {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / 32;
constexpr int kChunk = 8;                // weights of a load
constexpr int kOutputs = 2;              // of a warp, or of a block that shares them
constexpr int kLoads = 4;                // of an output before the first is used
constexpr int kManyOutputs = 16 * 1024;  // 8,192 warps: 64 for each of an H100's 132 multiprocessors

struct OneRow {
  const float4* x;
  const uint4* weights;
  float* out;
  int outputs, chunks;  // chunks: of an output
  bool accumulate;
};

struct Chunk {
  float values[kChunk];
};

__device__ Chunk LoadX(const float4* x, int chunk) {
  const float4 low = __ldg(x + 2 * int64_t{chunk}), high = __ldg(x + 2 * int64_t{chunk} + 1);
  return {{low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w}};
}

template <DenseType kType>
__device__ float AddProducts(const Chunk& x, const uint4& weights, float sum) {
  const uint32_t pairs[kChunk / 2] = {weights.x, weights.y, weights.z, weights.w};
#pragma unroll
  for (int i = 0; i < kChunk / 2; ++i) {
    const float2 pair = FloatsFromDense<kType>(pairs[i]);
    sum = fmaf(x.values[2 * i], pair.x, sum);
    sum = fmaf(x.values[2 * i + 1], pair.y, sum);
  }
  return sum;
}

__device__ void Put(const OneRow& row, int output, float sum) {
  if (output < row.outputs) row.out[output] = row.accumulate ? row.out[output] + sum : sum;
}

template <DenseType kType, bool kShares>
__global__ void __launch_bounds__(kThreads) DenseRowKernel(OneRow row) {
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int first = (static_cast<int>(blockIdx.x) * (kShares ? 1 : kWarps) + (kShares ? 0 : warp)) * kOutputs;
  if (first >= row.outputs) return;  // whole warps, and none of a block that shares
  const uint4* weights[kOutputs];
#pragma unroll
  for (int i = 0; i < kOutputs; ++i) {
    weights[i] = row.weights + int64_t{min(first + i, row.outputs - 1)} * row.chunks;
  }

  constexpr int kStep = kShares ? kThreads : 32;
  float sum[kOutputs] = {};
  for (int begin = kShares ? thread : lane; begin < row.chunks; begin += kLoads * kStep) {
    uint4 loaded[kLoads][kOutputs] = {};
#pragma unroll
    for (int load = 0; load < kLoads; ++load) {
      const int chunk = begin + load * kStep;
      if (chunk >= row.chunks) continue;
#pragma unroll
      for (int i = 0; i < kOutputs; ++i) loaded[load][i] = __ldcs(weights[i] + chunk);  // nobody reads them again
    }
#pragma unroll
    for (int load = 0; load < kLoads; ++load) {
      const int chunk = begin + load * kStep;
      if (chunk >= row.chunks) continue;
      const Chunk x = LoadX(row.x, chunk);
#pragma unroll
      for (int i = 0; i < kOutputs; ++i) sum[i] = AddProducts<kType>(x, loaded[load][i], sum[i]);
    }
  }

#pragma unroll
  for (int i = 0; i < kOutputs; ++i) sum[i] = WarpSum(sum[i]);
  if constexpr (kShares) {
    __shared__ float of_warp[kWarps][kOutputs];
#pragma unroll
    for (int i = 0; i < kOutputs; ++i) {
      if (lane == i) of_warp[warp][i] = sum[i];
    }
    __syncthreads();
    if (thread >= kOutputs) return;
    float total = 0;
    for (int other = 0; other < kWarps; ++other) total += of_warp[other][thread];
    Put(row, first + thread, total);
  } else {
#pragma unroll
    for (int i = 0; i < kOutputs; ++i) {
      if (lane == i) Put(row, first + i, sum[i]);
    }
  }
}

template <DenseType kType>
void MultiplyRow(const OneRow& row, void* stream) {
  const bool shares = row.outputs < kManyOutputs && row.chunks >= 2 * kThreads;
  const auto kernel = shares ? DenseRowKernel<kType, true> : DenseRowKernel<kType, false>;
  const int blocks = CeilDivide(row.outputs, shares ? kOutputs : kOutputs * kWarps);
  Launch("DenseRowKernel", kernel, dim3(blocks), kThreads, 0, stream, row);
}

struct RoundedRows {
  const float* x;
  uint4* out;  // [rows, chunks]
  int64_t rows, chunks, x_stride;
};

template <DenseType kType>
__global__ void __launch_bounds__(kThreads) RoundRowsKernel(RoundedRows r) {
  const int64_t chunk = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (chunk >= r.chunks) return;
  for (int64_t row = blockIdx.y; row < r.rows; row += gridDim.y) {
    const Chunk x = LoadX(reinterpret_cast<const float4*>(r.x + row * r.x_stride), static_cast<int>(chunk));
    uint32_t pairs[kChunk / 2];
#pragma unroll
    for (int i = 0; i < kChunk / 2; ++i) {
      const uint32_t low = DenseFromFloat<kType>(x.values[2 * i]), high = DenseFromFloat<kType>(x.values[2 * i + 1]);
      pairs[i] = low | high << 16;
    }
    r.out[row * r.chunks + chunk] = {pairs[0], pairs[1], pairs[2], pairs[3]};
  }
}

bool IsAligned(const void* data) {
  return reinterpret_cast<uintptr_t>(data) % 16 == 0;
}

}  // namespace

size_t DenseWorkspaceBytes(const DenseMatmulProblem& problem) {
  const int64_t rows = problem.x.shape[0];
  return rows > 1 ? sizeof(uint16_t) * static_cast<size_t>(rows * problem.weights.inputs) : 0;
}

void DenseMatmul(const DenseMatmulProblem& problem, const Workspace& workspace) {
  const auto& [x, weights, out, accumulate] = problem;
  KVSCOPE_CHECK(x.device == kTwinDevice && out.device == kTwinDevice);
  KVSCOPE_CHECK(x.dtype == DType::kF32 && out.dtype == DType::kF32);
  KVSCOPE_CHECK_EQ(x.shape[1], weights.inputs);
  KVSCOPE_CHECK_EQ(out.shape[1], weights.outputs);
  KVSCOPE_CHECK_EQ(out.shape[0], x.shape[0]);
  KVSCOPE_CHECK_EQ(weights.inputs % kChunk, 0);
  KVSCOPE_CHECK(IsAligned(x.data) && IsAligned(weights.data));
  const int64_t rows = x.shape[0];
  if (rows == 0 || weights.outputs == 0) return;
  const bool is_f16 = weights.type == DenseType::kF16;
  if (rows == 1) {
    const OneRow row{.x = reinterpret_cast<const float4*>(x.data),
                     .weights = static_cast<const uint4*>(weights.data),
                     .out = out.floats(),
                     .outputs = weights.outputs,
                     .chunks = weights.inputs / kChunk,
                     .accumulate = accumulate};
    is_f16 ? MultiplyRow<DenseType::kF16>(row, workspace.stream) : MultiplyRow<DenseType::kBF16>(row, workspace.stream);
    return;
  }
  KVSCOPE_CHECK_EQ(x.strides[0] % 4, 0);
  KVSCOPE_CHECK_LE(rows, INT32_MAX);
  KVSCOPE_CHECK_LE(DenseWorkspaceBytes(problem), workspace.bytes);
  KVSCOPE_CHECK(IsAligned(workspace.data));
  const RoundedRows rounded{.x = x.floats(),
                            .out = static_cast<uint4*>(workspace.data),
                            .rows = rows,
                            .chunks = weights.inputs / kChunk,
                            .x_stride = x.strides[0]};
  Launch("RoundRowsKernel", is_f16 ? RoundRowsKernel<DenseType::kF16> : RoundRowsKernel<DenseType::kBF16>,
         RowGrid(rows, rounded.chunks, kThreads), kThreads, 0, workspace.stream, rounded);
  BlasGemm(rounded.out, static_cast<int>(rows), weights, out.floats(), out.strides[0], accumulate, workspace.stream);
}

}  // namespace kvscope::KVSCOPE_TWIN
