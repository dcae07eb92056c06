// SPDX-License-Identifier: Apache-2.0
// The one call of cuBLAS. blas.cu makes it; in the tests' emulation tests/support/kernels_blas.cpp takes its place.
#pragma once

#include "kernels/dense_matmul.h"
#include "kernels/launch.cuh"

namespace kvscope::KVSCOPE_TWIN {

// out [rows, weights.outputs] f32 = x W^T (+ out); x [rows, weights.inputs] contiguous, of the weights' type; sums in
// f32. stream: a cudaStream_t. Throws Error with cuBLAS's own words.
void BlasGemm(const void* x, int rows, const DenseMatrix& weights, float* out, int64_t out_stride, bool accumulate,
              void* stream);

}  // namespace kvscope::KVSCOPE_TWIN
