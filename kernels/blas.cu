// SPDX-License-Identifier: Apache-2.0
#include <cublas_v2.h>

#include <mutex>

#include "core/error.h"
#include "kernels/blas.h"

namespace kvscope::cuda {
namespace {

void CheckBlas(cublasStatus_t status, const char* call) {
  if (status != CUBLAS_STATUS_SUCCESS) throw Error(StrCat(call, " failed: ", cublasGetStatusString(status)));
}

// Made for the current device on first use and kept: it owns memory there and takes a while to make.
cublasHandle_t Handle() {
  static const cublasHandle_t handle = [] {
    cublasHandle_t made = nullptr;
    CheckBlas(cublasCreate(&made), "cublasCreate");
    return made;
  }();
  return handle;
}

}  // namespace

void BlasGemm(const void* x, int rows, const DenseMatrix& weights, float* out, int64_t out_stride, bool accumulate,
              void* stream) {
  KVSCOPE_CHECK_LE(out_stride, INT32_MAX);
  static std::mutex mutex;  // stream and product must stay together
  const std::lock_guard lock(mutex);
  CheckBlas(cublasSetStream(Handle(), static_cast<cudaStream_t>(stream)), "cublasSetStream");
  // cuBLAS counts columns first, so that it sees every matrix of ours transposed: out^T = W x^T.
  const cudaDataType type = weights.type == DenseType::kF16 ? CUDA_R_16F : CUDA_R_16BF;
  const float alpha = 1, beta = accumulate ? 1.0f : 0.0f;
  CheckBlas(cublasGemmEx(Handle(), CUBLAS_OP_T, CUBLAS_OP_N, weights.outputs, rows, weights.inputs, &alpha,
                         weights.data, type, weights.inputs, x, type, weights.inputs, &beta, out, CUDA_R_32F,
                         static_cast<int>(out_stride), CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
            "cublasGemmEx");
}

}  // namespace kvscope::cuda
