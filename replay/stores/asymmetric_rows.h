// SPDX-License-Identifier: Apache-2.0
// Rows of channels, each cut into groups of at most `group` channels that are packed asymmetrically, with an f16 scale
// and minimum a group. The last group of a row may be shorter.
#pragma once

#include <algorithm>

#include "kernels/quantize.h"
#include "replay/stores/row_store.h"

namespace kvscope {

struct AsymmetricRows {
  int dim, bits, group;

  size_t RowBytes() const {
    size_t bytes = 0;
    for (int channel = 0; channel < dim; channel += group) bytes += GroupBytes(channel);
    return bytes;
  }
  void Encode(const float* rows, int count, std::byte* packed) const {
    for (int row = 0; row < count; ++row, rows += dim) {
      for (int channel = 0; channel < dim; channel += group) {
        cpu::QuantizeAsymmetric({rows + channel, GroupSize(channel)}, bits, packed);
        packed += GroupBytes(channel);
      }
    }
  }
  void Decode(const std::byte* packed, int count, float* rows) const {
    for (int row = 0; row < count; ++row, rows += dim) {
      for (int channel = 0; channel < dim; channel += group) {
        cpu::DequantizeAsymmetric(packed, bits, {rows + channel, GroupSize(channel)});
        packed += GroupBytes(channel);
      }
    }
  }

 private:
  size_t GroupSize(int channel) const { return std::min(group, dim - channel); }
  size_t GroupBytes(int channel) const { return cpu::AsymmetricGroupBytes(static_cast<int>(GroupSize(channel)), bits); }
};

// Of RowStore: uniform stores in groups of 64 channels.
template <int kCodeBits>
struct AsymmetricCodec {
  static constexpr double kBits = kCodeBits;
  static AsymmetricRows Of(int dim) { return {dim, kCodeBits, 64}; }
  static size_t RowBytes(int dim) { return Of(dim).RowBytes(); }
  static void Encode(const float* rows, int count, int dim, std::byte* packed) { Of(dim).Encode(rows, count, packed); }
  static void Decode(const std::byte* packed, int count, int dim, float* rows) { Of(dim).Decode(packed, count, rows); }
};

}  // namespace kvscope
