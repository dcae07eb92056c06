// SPDX-License-Identifier: Apache-2.0
// out = x W^T (+ out) with W as a device likes it: row-major f16 or bf16, as a model file that was not quantised has
// it. The CPU engine's packed weights are matmul.h's.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/tensor.h"

namespace kvscope {

enum class DenseType { kF16, kBF16 };  // 2 bytes each; bf16 is the upper half of an f32

uint16_t DenseBits(float value, DenseType type);  // rounded to nearest even; overflow gives infinity
float DenseValue(uint16_t bits, DenseType type);

struct DenseMatrix {
  const void* data = nullptr;  // [outputs, inputs], rows contiguous, 16-byte aligned
  DenseType type = DenseType::kF16;
  int outputs = 0, inputs = 0;  // inputs: a multiple of 8
};

struct DenseMatmulProblem {
  TensorView x;             // [rows, inputs] f32, 16-byte aligned, any row stride that is a multiple of 4
  DenseMatrix weights;      // beside x and out
  TensorView out;           // [rows, outputs] f32, any row stride; not x
  bool accumulate = false;  // added to out, else written
};

namespace cpu {
void DenseMatmul(const DenseMatmulProblem& problem);  // x as it is, sums in double
}
namespace cuda {
// One row: x as it is, sums in f32, a kernel of ours that a CUDA graph can hold. More rows: x rounded to the weights'
// type (beyond f16's 65504: infinity), then cuBLAS, whose order of additions depends on device and version; one call
// at a time.
void DenseMatmul(const DenseMatmulProblem& problem, const Workspace& workspace);
size_t DenseWorkspaceBytes(const DenseMatmulProblem& problem);  // grows with the rows; 0 for one
}  // namespace cuda

}  // namespace kvscope
