// SPDX-License-Identifier: Apache-2.0
// What a .cu file needs to be compiled by nvcc as the twin (kvscope::cuda) and by g++ for the tests' emulation
// (kvscope::cuda_emulated, tests/support/kernels_fibres.h, which comes first then): dynamic shared memory and launches.
#pragma once

#ifdef __CUDACC__
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "kernels/device.h"
#include "kernels/tensor.h"

#define KVSCOPE_DYNAMIC_SHARED(Type, name) extern __shared__ __align__(16) Type name[]

namespace kvscope::cuda {

// name: for messages.
template <typename... Parameters, typename... Arguments>
void Launch(const char* name, void (*kernel)(Parameters...), const dim3& grid, int threads, size_t shared_bytes,
            void* stream, const Arguments&... arguments) {
  constexpr size_t kUnasked = 48 << 10;  // more shared memory than this has to be asked for
  if (shared_bytes > kUnasked) {
    KVSCOPE_CHECK_CUDA(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)));
  }
  kernel<<<grid, threads, shared_bytes, static_cast<cudaStream_t>(stream)>>>(arguments...);
  CheckLaunch(name, __FILE__, __LINE__);
}

}  // namespace kvscope::cuda
#elif !defined(KVSCOPE_DYNAMIC_SHARED)
#error "compile this file with nvcc, or include it after tests/support/kernels_fibres.h"
#endif
