// SPDX-License-Identifier: Apache-2.0
// A thread per pair of dims, each read and written once; neighbours in a warp take neighbouring dims.
#include <algorithm>

#include "core/error.h"
#include "core/half.h"
#include "kernels/ceil_divide.h"
#include "kernels/launch.cuh"
#include "kernels/rope.h"

namespace kvscope::KVSCOPE_TWIN {
namespace {

constexpr int kThreads = 256;

struct Arguments {
  const float *x, *cos, *sin;
  void *out, *copy;
  const int *first_position, *first_out;
  int* bad_token;
  int64_t x_token_stride, x_head_stride, out_head_stride, out_token_stride, copy_head_stride, copy_token_stride;
  int64_t num_pairs;  // of all vectors
  int heads, half_dim;
};

// Rounds as the cache does and says whether the result is finite.
__device__ bool Put(__half* out, float value) {
  *out = __float2half_rn(value);
  return fabsf(__half2float(*out)) <= kHalfMax;
}
__device__ bool Put(float* out, float value) {
  *out = value;
  return fabsf(value) <= 3.40282347e+38f;
}

struct Launched {
  Arguments of[kMaxRopes];  // one for each blockIdx.y
};

template <typename Element>
__global__ void __launch_bounds__(kThreads) RopeKernel(const __grid_constant__ Launched launched) {
  const Arguments& a = launched.of[blockIdx.y];
  const int64_t pair = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (pair >= a.num_pairs) return;
  const int i = static_cast<int>(pair % a.half_dim);
  const int64_t vector = pair / a.half_dim;
  const int head = static_cast<int>(vector % a.heads), token = static_cast<int>(vector / a.heads);
  const float* x = a.x + token * a.x_token_stride + head * a.x_head_stride + i;
  float low = x[0], high = x[a.half_dim];
  if (a.cos) {
    const int64_t angle = (int64_t{token} + (a.first_position ? *a.first_position : 0)) * a.half_dim + i;
    const float cos = a.cos[angle], sin = a.sin[angle];
    const float before = low;
    low = low * cos - high * sin;
    high = high * cos + before * sin;
  }
  const int64_t row = int64_t{token} + (a.first_out ? *a.first_out : 0);
  Element* const out = static_cast<Element*>(a.out) + head * a.out_head_stride + row * a.out_token_stride + i;
  const bool is_finite = Put(out, low) & Put(out + a.half_dim, high);
  if (a.copy) {
    Element* const copy = static_cast<Element*>(a.copy) + head * a.copy_head_stride + token * a.copy_token_stride + i;
    Put(copy, low), Put(copy + a.half_dim, high);
  }
  if (!is_finite) atomicMin(a.bad_token, token);
}

Arguments ArgumentsOf(const RopeRows& rows) {
  KVSCOPE_CHECK(rows.x.device == kTwinDevice && rows.out.device == kTwinDevice && rows.bad_token);
  KVSCOPE_CHECK(rows.cos.data == nullptr || (rows.cos.device == kTwinDevice && rows.sin.device == kTwinDevice));
  KVSCOPE_CHECK_EQ(rows.x.shape[2] % 2, 0);
  KVSCOPE_CHECK_EQ(rows.out.shape[0], rows.x.shape[1]);
  KVSCOPE_CHECK_LE(rows.x.shape[0], rows.out.shape[1]);
  KVSCOPE_CHECK(rows.copy.data == nullptr || (rows.copy.device == kTwinDevice && rows.copy.dtype == rows.out.dtype));
  KVSCOPE_CHECK_EQ(rows.out.shape[2], rows.x.shape[2]);
  KVSCOPE_CHECK_LE(rows.x.shape[0], INT32_MAX);
  return {.x = rows.x.floats(),
          .cos = rows.cos.floats(),
          .sin = rows.sin.floats(),
          .out = rows.out.data,
          .copy = rows.copy.data,
          .first_position = rows.first_position,
          .first_out = rows.first_out,
          .bad_token = rows.bad_token,
          .x_token_stride = rows.x.strides[0],
          .x_head_stride = rows.x.strides[1],
          .out_head_stride = rows.out.strides[0],
          .out_token_stride = rows.out.strides[1],
          .copy_head_stride = rows.copy.strides[0],
          .copy_token_stride = rows.copy.strides[1],
          .num_pairs = rows.x.shape[0] * rows.x.shape[1] * rows.x.shape[2] / 2,
          .heads = static_cast<int>(rows.x.shape[1]),
          .half_dim = static_cast<int>(rows.x.shape[2] / 2)};
}

}  // namespace

void Rope(std::span<const RopeRows> ropes, const Workspace& workspace) {
  KVSCOPE_CHECK(!ropes.empty() && ropes.size() <= size_t{kMaxRopes});
  Launched launched{};
  int64_t most = 0;
  for (size_t i = 0; i < ropes.size(); ++i) {
    KVSCOPE_CHECK(ropes[i].out.dtype == ropes[0].out.dtype);
    launched.of[i] = ArgumentsOf(ropes[i]);
    most = std::max(most, launched.of[i].num_pairs);
  }
  if (most == 0) return;
  const int64_t blocks = CeilDivide(most, kThreads);
  KVSCOPE_CHECK_LE(blocks, INT32_MAX);
  const auto kernel = ropes[0].out.dtype == DType::kF16 ? RopeKernel<__half> : RopeKernel<float>;
  Launch("RopeKernel", kernel, dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(ropes.size())), kThreads, 0,
         workspace.stream, launched);
}

}  // namespace kvscope::KVSCOPE_TWIN
