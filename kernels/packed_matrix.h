// SPDX-License-Identifier: Apache-2.0
// A weight matrix in memory, as precise as the model file has it: plain numbers, or codes with scales and minimums
// (quant_format.h). Outputs lie in panels of 32, a panel in blocks of 32 inputs:
//   plain       value [input][32]
//   quantised   scale [group][32], with has_minimum minimum [group][32], then codes, [quad] outermost, where a quad is
//               four inputs that follow each other: their codes of one output are four adjacent bytes, so that an
//               instruction which sums four products of bytes needs no sum across lanes.
//                 8 bits: byte [quad][32][4]
//                 4 bits: byte [quad][16][4], output c in the low four bits and output c + 16 in the high ones
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <utility>

#include "core/half.h"
#include "kernels/quant_format.h"

namespace kvscope {

inline constexpr int kPanelOutputs = 32;
inline constexpr int kBlockInputs = 32;

enum class WeightKind { kF32, kF16, kBf16, kQuantised };

class PackedMatrix {
 public:
  PackedMatrix() = default;  // 0 outputs
  // Rows are outputs. All weights are zero until set. inputs of a quantised matrix: a multiple of 32.
  PackedMatrix(WeightKind plain, int outputs, int inputs);
  PackedMatrix(const QuantFormat& format, int outputs, int inputs);

  WeightKind kind() const { return kind_; }
  const QuantFormat& format() const { return format_; }  // of kind kQuantised
  int outputs() const { return outputs_; }
  int inputs() const { return inputs_; }
  int64_t bytes() const { return int64_t{num_panels()} * blocks_ * block_bytes_; }
  int num_panels() const { return (outputs_ + kPanelOutputs - 1) / kPanelOutputs; }

  // One output row; exactly one of these, by kind. Rows of different panels may be set at the same time.
  void SetRow(int output, std::span<const float> weights);
  void SetRow(int output, std::span<const Half> weights);
  void SetRow(int output, std::span<const uint16_t> weights);  // bf16
  // codes [inputs], scales [inputs / group], minimums as many, or none without has_minimum.
  void SetRow(int output, std::span<const uint8_t> codes, std::span<const float> scales,
              std::span<const float> minimums);

  // Expands inputs [begin, end) of a panel to [end - begin][32] floats; begin and end are multiples of 32 or the end.
  void Expand(int panel, int begin, int end, float* out) const;

  // One weight; slow, the specification's way in. A quantised one is fma(Scale, Code, Minimum).
  float At(int output, int input) const;
  int Code(int output, int input) const;
  float Scale(int output, int input) const;
  float Minimum(int output, int input) const;  // -zero * scale where none is stored

  int blocks() const { return blocks_; }            // of a panel
  int block_bytes() const { return block_bytes_; }  // a multiple of 64
  int codes_offset() const { return codes_offset_; }
  const std::byte* Block(int panel, int block) const {  // aligned to 64 bytes
    return data_ + (static_cast<int64_t>(panel) * blocks_ + block) * block_bytes_;
  }

 private:
  struct Free {
    void operator()(void* memory) const;
  };
  void Allocate();
  template <typename T>
  void SetPlainRow(int output, std::span<const T> weights);
  std::byte* Block(int panel, int block) { return const_cast<std::byte*>(std::as_const(*this).Block(panel, block)); }
  int ScaleBytes() const { return format_.is_half ? 2 : 4; }
  // Where the scale (which = 0) or minimum (1) of an input lies.
  const std::byte* ScaleAt(int which, int output, int input) const;
  float Number(const std::byte* at) const;

  WeightKind kind_ = WeightKind::kF32;
  QuantFormat format_;
  int outputs_ = 0, inputs_ = 0, blocks_ = 0, block_bytes_ = 0, codes_offset_ = 0;
  std::unique_ptr<void, Free> memory_;
  std::byte* data_ = nullptr;  // in memory_
};

}  // namespace kvscope
