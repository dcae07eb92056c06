// SPDX-License-Identifier: Apache-2.0
// out = x · Wᵀ with W as the model file stores it: packed to 32-column panels that keep the file's own precision (f32,
// f16, q8: 8-bit codes, q4: 4-bit codes with scale and minimum per 32 inputs) and are expanded to f32 on the fly, so
// that decode reads a tenth of the bytes. Every output is one chain of fused multiply-adds over inputs 0, 1, 2 ...: a
// row's result depends on nothing but that row (batch-invariant), unlike a general BLAS. core/decisions/0001.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/half.h"

namespace kvscope {

inline constexpr int kQuantBlock = 32;  // inputs that share a scale

enum class WeightKind { kF32, kF16, kQ8, kQ4 };

class PackedMatrix {
 public:
  // Rows are outputs. inputs must be a multiple of kQuantBlock for kQ8 and kQ4.
  PackedMatrix(WeightKind kind, int outputs, int inputs);
  PackedMatrix() = default;

  WeightKind kind() const { return kind_; }
  int outputs() const { return outputs_; }
  int inputs() const { return inputs_; }
  int64_t bytes() const { return static_cast<int64_t>(data_.size()); }
  int num_panels() const { return (outputs_ + 31) / 32; }

  // One output row. Exactly one of these, by kind.
  void SetRow(int output, std::span<const float> weights);
  void SetRow(int output, std::span<const Half> weights);
  // value = scale[block] * code; codes [inputs], scales [inputs / 32]
  void SetRow(int output, std::span<const int8_t> codes, std::span<const Half> scales);
  // value = scale[block] * code + minimum[block], codes 0..15
  void SetRow(int output, std::span<const uint8_t> codes, std::span<const Half> scales,
              std::span<const float> minimums);

  // Expands inputs [begin, end) of a panel to [end - begin][32] floats; begin and end are multiples of 32 or the end.
  void Expand(int panel, int begin, int end, float* out) const;
  float At(int output, int input) const;  // slow; the specification's way in

 private:
  std::byte* Block(int panel, int block) {
    return data_.data() + (static_cast<int64_t>(panel) * blocks_ + block) * block_bytes_;
  }
  const std::byte* Block(int panel, int block) const { return const_cast<PackedMatrix*>(this)->Block(panel, block); }

  WeightKind kind_ = WeightKind::kF32;
  int outputs_ = 0, inputs_ = 0, blocks_ = 0, block_bytes_ = 0;
  std::vector<std::byte> data_;
};

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
void Matmul(const MatmulProblem& problem);  // double accumulation: the specification
}
namespace cpu_fast {
void Matmul(const MatmulProblem& problem);
// Several products as one parallel loop: q, k and v of the same input, or gate and up.
void Matmul(std::span<const MatmulProblem> problems);
}  // namespace cpu_fast

}  // namespace kvscope
