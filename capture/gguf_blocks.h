// SPDX-License-Identifier: Apache-2.0
// The tensor types of GGUF files. Quantised ones store blocks of 32 or 256 weights of a row; UnpackRow takes them apart
// into what they have in common: scale * code + minimum per group (kernels/quant_format.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "kernels/quant_format.h"

namespace kvscope {

// How a tensor's elements are stored; the numbers are GGUF's. Only those named here can be read.
enum class GgufType : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ2_K = 10,
  kQ3_K = 11,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kIQ4_NL = 20,
  kBF16 = 30,
};

std::string GgufTypeName(GgufType type);            // "Q4_1", also for types we cannot read; "type 77" when unknown
bool IsReadable(GgufType type);                     // can be dequantised
std::span<const GgufType> ReadableGgufTypes();      // in the order of their numbers
std::string ReadableGgufTypeNames();                // "F32, F16, ... or BF16", for messages
int64_t GgufRowBytes(GgufType type, int64_t cols);  // readable types only; cols a multiple of the block size
int64_t GgufBlockElements(GgufType type);           // readable types only

// nullptr for F32, F16, BF16 and types that cannot be read.
const QuantFormat* FormatOf(GgufType type);

// Takes apart one row of a type that has a format. row: GgufRowBytes(type, cols) bytes; codes [cols], below 16 when
// code_bits is 4; scales [cols / group]; minimums [cols / group], empty without has_minimum. Any bytes are legal, but
// scales and minimums may come out infinite or NaN: a group's weights are finite exactly when both are.
void UnpackRow(GgufType type, const std::byte* row, int64_t cols, std::span<uint8_t> codes, std::span<float> scales,
               std::span<float> minimums);

// One row, or several that follow each other, as floats; any readable type. Equal to the gguf Python package's
// dequantize bit for bit: every product is exact, so that a stored minimum costs the one rounding.
void DequantizeRow(GgufType type, const std::byte* row, std::span<float> out);

}  // namespace kvscope
