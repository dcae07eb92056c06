// SPDX-License-Identifier: Apache-2.0
// What a warpgroup (four warps, all 128 threads together) does with tensor cores on sm_90a, and only there: products
// that run on while their threads do something else, with b in shared memory. Threads that copied it call FenceCopies
// after their wait and before the barrier. Then Settle what d and a are to be, FenceRegisters, MmaAsync as often as
// there are products, CommitMmas; until WaitMmas, and Settle behind it, neither d nor b may be touched.
// https://docs.nvidia.com/cuda/parallel-thread-execution, "Asynchronous Warpgroup Level Matrix Instructions".
#pragma once

#include <cstdint>

#include "kernels/device.h"

namespace kvscope {

// Describes b to MmaAsync (64 columns: no leading dimension offset is used, and 1 stands for it). Its rows of 64
// halves, 128 bytes, follow each other from a multiple of 1024 bytes on; in row r chunk c of 16 bytes lies at c ^ (r %
// 8). start: where b's first chunk would lie without that, in a block's own address space.
KVSCOPE_HOST_DEVICE constexpr uint64_t DescribeMatrix(uint32_t start) {
  constexpr uint64_t kLeading = 1, kEightRows = 1024 >> 4, kSwizzle128Bytes = 1;
  return uint64_t{(start & 0x3ffff) >> 4} | kLeading << 16 | kEightRows << 32 | kSwizzle128Bytes << 62;
}

}  // namespace kvscope

#ifdef __CUDACC__
#include <cuda_runtime.h>

namespace kvscope::cuda {

// 1 in an image whose kernels may use the functions below.
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
static __device__ int image_has_wgmma = 1;
#else
static __device__ int image_has_wgmma = 0;
#endif

// Whether the device runs such an image; asked once, of the device that is current then.
inline bool HasWgmma() {
  static const bool has_wgmma = [] {
    int value = 0;
    KVSCOPE_CHECK_CUDA(cudaMemcpyFromSymbol(&value, image_has_wgmma, sizeof value));
    return value != 0;
  }();
  return has_wgmma;
}

// Where dynamic shared memory lies in a block's own address space.
__device__ inline uint32_t SharedAddress(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

// What this thread copied to shared memory is there for MmaAsync of those that it meets at a barrier.
__device__ inline void FenceCopies() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// Before the first product, and again when registers of d or a were written since.
__device__ inline void FenceRegisters() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

// d = a b, or d += a b, of [64, 16] halves a, 16 rows a warp in the layout of Mma, and [16, 64] halves b. d [64, 64]
// f32: d[n] holds columns 8 n to 8 n + 7 of the warp's rows in the layout of Mma. b is described column by column (16
// halves of a row of shared memory are a column), or, where kTransposed, row by row (64 halves are a row).
template <bool kTransposed>
__device__ inline void MmaAsync(float (*d)[4], const uint32_t (&a)[4], uint64_t b, bool accumulate) {
#define KVSCOPE_FOUR(n) "+f"(d[n][0]), "+f"(d[n][1]), "+f"(d[n][2]), "+f"(d[n][3])
  asm volatile(
      "{\n.reg .pred add;\nsetp.ne.b32 add, %37, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
      "{%32, %33, %34, %35}, %36, add, 1, 1, %38;\n}"
      : KVSCOPE_FOUR(0), KVSCOPE_FOUR(1), KVSCOPE_FOUR(2), KVSCOPE_FOUR(3), KVSCOPE_FOUR(4), KVSCOPE_FOUR(5),
        KVSCOPE_FOUR(6), KVSCOPE_FOUR(7)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulate)),
        "n"(static_cast<int>(kTransposed))
      : "memory");
#undef KVSCOPE_FOUR
}

__device__ inline void CommitMmas() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

template <int kNewest>
__device__ inline void WaitMmas() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kNewest) : "memory");
}

// Holds the compiler from moving a write of these registers below, or a read of them above.
template <int kCount>
__device__ inline void Settle(float (*d)[4]) {
#pragma unroll
  for (int n = 0; n < kCount; ++n) {
    asm volatile("" : "+f"(d[n][0]), "+f"(d[n][1]), "+f"(d[n][2]), "+f"(d[n][3])::"memory");
  }
}
template <int kCount>
__device__ inline void Settle(uint32_t (*a)[4]) {
#pragma unroll
  for (int n = 0; n < kCount; ++n) {
    asm volatile("" : "+r"(a[n][0]), "+r"(a[n][1]), "+r"(a[n][2]), "+r"(a[n][3])::"memory");
  }
}

}  // namespace kvscope::cuda
#endif
