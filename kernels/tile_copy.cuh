// SPDX-License-Identifier: Apache-2.0
// Copies from global to shared memory that run on while their thread computes (sm_80 and later). A thread starts
// copies, closes them as a group and waits until all but its newest groups are there; what other threads copied it may
// read after a barrier behind their wait.
#pragma once

#ifdef __CUDACC__
#include <cstdint>

namespace kvscope::cuda {

// 16 bytes, both addresses aligned to that. bytes_valid 16, or 0: zeros, and `from` is not read.
__device__ inline void CopyAsync(void* to, const void* from, int bytes_valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
               :
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(to))), "l"(__cvta_generic_to_global(from)),
                 "r"(bytes_valid)
               : "memory");
}

__device__ inline void CommitCopies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int kNewest>
__device__ inline void WaitCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kNewest) : "memory");
}

}  // namespace kvscope::cuda
#endif
