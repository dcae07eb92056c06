// SPDX-License-Identifier: Apache-2.0
// One block per row; the row is read twice, the second time out of L1. Squares are summed in f32: a thread adds dim /
// 256 of them (16 at dim 4096) and a tree of 8 levels adds the threads, so the sum is off by some 24 roundings at most,
// 1.4e-6, the factor by half of that. Doubles would cost more than the reads on devices with few f64 units.
#include "core/error.h"
#include "kernels/launch.cuh"
#include "kernels/rms_norm.h"
#include "kernels/warp.cuh"

namespace kvscope::KVSCOPE_TWIN {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;

struct Rows {
  const float* x;
  const float* weight;
  float* out;
  int64_t x_stride, out_stride;            // of tokens
  int64_t x_head_stride, out_head_stride;  // of a token's heads
  int heads, dim;
  float epsilon;
};

__global__ void __launch_bounds__(kThreads) RmsNormKernel(Rows rows) {
  const int64_t token = blockIdx.x / rows.heads, head = blockIdx.x % rows.heads;
  const float* x = rows.x + token * rows.x_stride + head * rows.x_head_stride;
  float* out = rows.out + token * rows.out_stride + head * rows.out_head_stride;
  const int thread = static_cast<int>(threadIdx.x);

  float squares = 0;
  for (int i = thread; i < rows.dim; i += kThreads) squares = fmaf(x[i], x[i], squares);
  squares = WarpSum(squares);
  __shared__ float of_warp[kWarps];
  if (thread % 32 == 0) of_warp[thread / 32] = squares;
  __syncthreads();
  squares = WarpSum(thread % 32 < kWarps ? of_warp[thread % 32] : 0.0f);

  const float factor = 1.0f / sqrtf(squares / static_cast<float>(rows.dim) + rows.epsilon);
  // A thread writes the elements that it alone reads, so out may be x.
  for (int i = thread; i < rows.dim; i += kThreads) out[i] = x[i] * factor * rows.weight[i];
}

}  // namespace

void RmsNorm(const TensorView& x, const TensorView& weight, float epsilon, const TensorView& out,
             const Workspace& workspace) {
  KVSCOPE_CHECK(x.device == kTwinDevice && weight.device == kTwinDevice && out.device == kTwinDevice);
  KVSCOPE_CHECK(x.dtype == DType::kF32 && weight.dtype == DType::kF32 && out.dtype == DType::kF32);
  KVSCOPE_CHECK(x.rank == out.rank && x.shape == out.shape);
  const bool has_heads = x.rank == 3;
  const int64_t heads = has_heads ? x.shape[1] : 1, dim = x.shape[x.rank - 1], blocks = x.shape[0] * heads;
  KVSCOPE_CHECK_EQ(weight.shape[0], dim);
  KVSCOPE_CHECK_LE(blocks, INT32_MAX);
  KVSCOPE_CHECK_LE(dim, INT32_MAX - kThreads);
  if (blocks == 0) return;
  const Rows rows{.x = x.floats(),
                  .weight = weight.floats(),
                  .out = out.floats(),
                  .x_stride = x.strides[0],
                  .out_stride = out.strides[0],
                  .x_head_stride = has_heads ? x.strides[1] : 0,
                  .out_head_stride = has_heads ? out.strides[1] : 0,
                  .heads = static_cast<int>(heads),
                  .dim = static_cast<int>(dim),
                  .epsilon = epsilon};
  Launch("RmsNormKernel", RmsNormKernel, dim3(static_cast<unsigned>(blocks)), kThreads, 0, workspace.stream, rows);
}

}  // namespace kvscope::KVSCOPE_TWIN
