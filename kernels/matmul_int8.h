// SPDX-License-Identifier: Apache-2.0
// Products of codes, one implementation per instruction set, chosen by what the processor has. Internal to
// kernels/*.cpp and their test. Plain data only: the files that are compiled for wider instruction sets must emit
// nothing that the linker could pick for the rest of the program.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kvscope {
class PackedMatrix;
class QuantizedRows;
}  // namespace kvscope

namespace kvscope::int8 {

// One panel of a quantised PackedMatrix times quantised rows (quantized_rows.h of the same group).
struct PanelProblem {
  const std::byte* weights;  // the panel's first block
  int64_t num_blocks, block_bytes, codes_offset;
  int code_bits, group, zero;
  bool has_minimum, is_half;
  const int8_t* codes;  // [row, 32 * num_blocks]
  const float* scales;  // [row, 32 / group * num_blocks], as are sums and scaled_sums
  const int32_t* sums;
  const float* scaled_sums;
  int rows;
  int columns;  // of the panel that are written, at most 32
  float* out;   // [row, columns], row stride out_stride
  int64_t out_stride;
};

PanelProblem ProblemOf(const PackedMatrix& weights, int panel, const QuantizedRows& x, int rows, float* out,
                       int64_t out_stride);

void MultiplyPlain(const PanelProblem& problem);
void MultiplyAvx2(const PanelProblem& problem);        // needs AVX2, FMA and F16C
void MultiplyAvx512Vnni(const PanelProblem& problem);  // needs AVX-512 F, BW, VL and VNNI

struct InstructionSet {
  const char* name;
  bool is_available;  // on this processor
  void (*multiply)(const PanelProblem& problem);
};
inline constexpr int kNumInstructionSets = 3;
const InstructionSet* InstructionSets();  // [kNumInstructionSets], the best first; the last is always available

}  // namespace kvscope::int8
