// SPDX-License-Identifier: Apache-2.0
// out = x · Wᵀ with W as the model file stores it (packed_matrix.h), expanded to f32 or multiplied as codes on the fly,
// so that decode reads no more bytes than the file has. A row's result depends on nothing but that row
// (batch-invariant), unlike a general BLAS; core/decisions/0001.
//   kFloat  every output is one chain of fused multiply-adds over inputs 0, 1, 2 ...
//   kInt8   x is rounded to bytes (quantized_rows.h), products of codes are summed exactly. Every output is one chain
//           over groups of the weights: with the group's scale s, minimum m and codes c, and scale r and codes x of the
//           row, sum = fma(s * r, float(dot), sum), where dot is the sum of x * c if there are minimums, and then
//           sum = fma(m, r * float(sum of x), sum); else dot is the sum of x * (c - zero). Plain matrices stay kFloat.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/packed_matrix.h"

namespace kvscope {

enum class Activations { kFloat, kInt8 };

// x [rows, inputs], row stride x_stride; out [rows, outputs], row stride out_stride (>= outputs, padding untouched).
struct MatmulProblem {
  const float* x = nullptr;
  int64_t x_stride = 0;
  int rows = 0;
  const PackedMatrix* weights = nullptr;
  float* out = nullptr;
  int64_t out_stride = 0;
};
namespace cpu {
void Matmul(const MatmulProblem& problem, Activations activations = Activations::kFloat);  // kFloat: sums in double
}
namespace cpu_fast {
void Matmul(const MatmulProblem& problem, Activations activations = Activations::kFloat);
// Several products as one parallel loop: q, k and v of the same input, or gate and up.
void Matmul(std::span<const MatmulProblem> problems, Activations activations = Activations::kFloat);
}  // namespace cpu_fast

}  // namespace kvscope
