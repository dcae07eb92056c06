// SPDX-License-Identifier: Apache-2.0
// Quantisers of one group of channels of one token's K or V, really packed.
//   int8, symmetric:         s = amax / 127 rounded up to f16; code = rne(x / s) in [-127, 127]; a byte a channel + 2
//   int4, int2, asymmetric:  s = (max - min) / (2^bits - 1) rounded up to f16, min as f16 rounded down;
//                            code = rne((x - min) / s), lower channels in lower bits; bits/8 bytes a channel + 4
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
void QuantizeAsymmetric(std::span<const float> values, int bits, std::byte* packed);  // bits 2 or 4
void DequantizeAsymmetric(const std::byte* packed, int bits, std::span<float> values);

}  // namespace kvscope::cpu
