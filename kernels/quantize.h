// SPDX-License-Identifier: Apache-2.0
// Quantisers of one group of values of K or V, really packed.
//   int8, symmetric:               s = amax / 127 rounded up to f16; code = rne(x / s) in [-127, 127]; a byte a value +
//   2 8, 4 or 2 bits, asymmetric:    s = (max - min) / (2^bits - 1) rounded up to f16, min as f16 rounded down;
//                                  code = rne((x - min) / s), lower values in lower bits; bits / 8 bytes a value + 4
// A constant group gives codes 0 and s = 0. Rounding is half to even. Group sizes are multiples of 4.
#pragma once

#include <cstddef>
#include <span>

namespace kvscope::cpu {

constexpr size_t Int8GroupBytes(int channels) {
  return channels + 2;
}
constexpr size_t AsymmetricGroupBytes(int channels, int bits) {
  return channels * bits / 8 + 4;
}

void QuantizeInt8(std::span<const float> values, std::byte* packed);
void DequantizeInt8(const std::byte* packed, std::span<float> values);
void QuantizeAsymmetric(std::span<const float> values, int bits, std::byte* packed);  // bits 2, 4 or 8
void DequantizeAsymmetric(const std::byte* packed, int bits, std::span<float> values);

// A block of rows whose every column is one asymmetric group: the same codes, scales and minima, laid out so that rows
// are read without a transpose: codes [row, column], then scales [column], then minima [column].
struct ColumnGroups {
  int rows, columns, bits;  // columns: a multiple of 4

  constexpr size_t RowBytes() const { return static_cast<size_t>(columns) * bits / 8; }
  constexpr size_t bytes() const { return rows * RowBytes() + static_cast<size_t>(columns) * 4; }
};
void QuantizeColumns(const ColumnGroups& shape, const float* values, std::byte* packed);  // values: [rows, columns]
// Rows [row_begin, row_begin + count). values: [count, columns].
void DequantizeColumns(const ColumnGroups& shape, const std::byte* packed, int row_begin, int count, float* values);

}  // namespace kvscope::cpu
