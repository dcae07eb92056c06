// SPDX-License-Identifier: Apache-2.0
// Runs CUDA kernels on the CPU, so that their logic is tested where there is no device: one fibre per thread, blocks
// one after another. A fibre runs until it meets the others of its warp or block; what never meets is reported with the
// threads that wait. Threads start in any order that a test asks for, so that a missing barrier gives another result.
// Warps run one after another, each until it waits for the block, so that none may count on another's pace.
// Included before a .cu file (see tests/CMakeLists.txt), it takes the place of the CUDA headers. Tensor cores are
// played by the layout that mma.cuh states. An asynchronous copy is as late as it can be: from its start to the wait
// for its group the target holds NaN. Not covered: several streams, bank conflicts, memory errors (compute-sanitizer
// finds those on a device).
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>
#include <utility>

#include "core/half.h"
#include "kernels/tensor.h"
#include "tests/support/kernels_twin.h"

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3() = default;
  template <typename X>
  dim3(X x_count) : x(static_cast<unsigned>(x_count)) {}
  template <typename X, typename Y>
  dim3(X x_count, Y y_count) : x(static_cast<unsigned>(x_count)), y(static_cast<unsigned>(y_count)) {}
  template <typename X, typename Y, typename Z>
  dim3(X x_count, Y y_count, Z z_count) : dim3(x_count, y_count) {
    z = static_cast<unsigned>(z_count);
  }
};

namespace kvscope::fibres {

enum class Order { kForward, kBackward };
void SetOrder(Order order);  // in which the threads of a block and the blocks of a grid start
bool IsEager();              // streams do their work at once: in forward order, see kernels_device.cpp

void Launch(const dim3& grid, const dim3& block, size_t shared_bytes, const std::function<void()>& kernel);
void Enqueue(void* stream, std::function<void()> work);  // at once on the default stream; see kernels_device.cpp

// For the macros below. site: the line of the call; all threads that meet must come from the same.
void SyncThreads(int site);
uint64_t Exchange(uint32_t mask, uint64_t value, int source_lane, int site);  // the value that source_lane brought
std::array<uint64_t, 32> Gather(uint64_t value, int site);                    // what all lanes of the warp brought
void StartCopy(void* to, const void* from, int bytes_valid);                  // the thread's, see CopyAsync
void CloseCopies();
void FinishCopies(size_t but_newest_groups);
void StartProduct(bool is_transposed, float (*d)[4], const uint32_t (&a)[4], uint64_t b, bool accumulate);
void CloseProducts();
void FinishProducts(size_t but_newest_groups);
void CheckIsNotInFlight(const float (*d)[4]);
void* DynamicShared();
int Lane();

template <typename Value>
Value ExchangeAs(uint32_t mask, Value value, int source_lane, int site) {
  static_assert(std::is_trivially_copyable_v<Value> && sizeof(Value) <= sizeof(uint64_t));
  uint64_t raw = 0;
  std::memcpy(&raw, &value, sizeof value);
  raw = Exchange(mask, raw, source_lane, site);
  std::memcpy(&value, &raw, sizeof value);
  return value;
}

}  // namespace kvscope::fibres

// The thread that runs now; set at every switch.
inline dim3 gridDim, blockDim, blockIdx, threadIdx;

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)
#define __grid_constant__
#define __shared__ static
#define __syncthreads() ::kvscope::fibres::SyncThreads(__LINE__)
#define __syncwarp() ::kvscope::fibres::ExchangeAs(0xffffffffu, 0, ::kvscope::fibres::Lane(), __LINE__)
#define __shfl_xor_sync(mask, value, offset) \
  ::kvscope::fibres::ExchangeAs(mask, value, ::kvscope::fibres::Lane() ^ (offset), __LINE__)
#define __shfl_sync(mask, value, lane) ::kvscope::fibres::ExchangeAs(mask, value, lane, __LINE__)

using __half = kvscope::Half;
struct __half2 {
  __half x, y;
};
struct float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
inline float2 __half22float2(__half2 pair) {
  return {kvscope::FloatFromHalf(pair.x), kvscope::FloatFromHalf(pair.y)};
}
inline __half __float2half_rn(float value) {
  return kvscope::HalfFromFloat(value);
}
inline __half2 __floats2half2_rn(float low, float high) {
  return {__float2half_rn(low), __float2half_rn(high)};
}
inline float __half2float(__half value) {
  return kvscope::FloatFromHalf(value);
}
template <typename Value>
Value __ldg(const Value* source) {
  return *source;
}
template <typename Value>
Value __ldcs(const Value* source) {
  return *source;
}
inline int atomicMin(int* target, int value) {
  return std::exchange(*target, std::min(*target, value));
}
inline int min(int a, int b) {
  return std::min(a, b);
}
inline int max(int a, int b) {
  return std::max(a, b);
}

// What kernels/launch.cuh gives to a .cu file that nvcc compiles.
#define KVSCOPE_DYNAMIC_SHARED(Type, name) Type* const name = static_cast<Type*>(::kvscope::fibres::DynamicShared())
namespace kvscope::cuda_emulated {
template <typename Kernel, typename... Arguments>
void Launch(const char*, Kernel kernel, const dim3& grid, int threads, size_t shared_bytes, void* stream,
            const Arguments&... arguments) {
  fibres::Enqueue(stream, [=] { fibres::Launch(grid, threads, shared_bytes, [&] { kernel(arguments...); }); });
}
// kernels/mma.cuh
void Mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
void LoadMatrices(uint32_t (&words)[4], const void* row);
void LoadMatricesTransposed(uint32_t (&words)[4], const void* row);
inline float Exp2(float x) {
  return std::exp2(x);
}
// kernels/tile_copy.cuh
inline void CopyAsync(void* to, const void* from, int bytes_valid) {
  fibres::StartCopy(to, from, bytes_valid);
}
inline void CommitCopies() {
  fibres::CloseCopies();
}
template <int kNewest>
void WaitCopies() {
  fibres::FinishCopies(kNewest);
}
// kernels/wgmma.cuh
inline bool HasWgmma() {
  return true;
}
uint32_t SharedAddress(const void* shared);
void FenceCopies();
void FenceRegisters();
template <bool kTransposed>
void MmaAsync(float (*d)[4], const uint32_t (&a)[4], uint64_t b, bool accumulate) {
  fibres::StartProduct(kTransposed, d, a, b, accumulate);
}
inline void CommitMmas() {
  fibres::CloseProducts();
}
template <int kNewest>
void WaitMmas() {
  fibres::FinishProducts(kNewest);
}
template <int kCount>
void Settle(float (*d)[4]) {
  for (int n = 0; n < kCount; n += 8) fibres::CheckIsNotInFlight(d + n);
}
template <int kCount>
void Settle(uint32_t (*)[4]) {}
}  // namespace kvscope::cuda_emulated
