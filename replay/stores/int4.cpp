// SPDX-License-Identifier: Apache-2.0
// Uniform int4: every token's K and V vector is cut into groups of at most 64 channels, asymmetric, half a byte a
// channel and an f16 scale and minimum a group. The newest token is quantised too: no 16-bit window (KIVI has one).
#include <algorithm>

#include "core/error.h"
#include "kernels/quantize.h"
#include "replay/registry.h"
#include "replay/stores/row_store.h"

namespace kvscope {
namespace {

constexpr int kGroup = 64;

struct Int4Codec {
  static constexpr double kBits = 4;
  static size_t RowBytes(int dim) {
    size_t bytes = 0;
    for (int channel = 0; channel < dim; channel += kGroup) {
      bytes += cpu::AsymmetricGroupBytes(std::min(kGroup, dim - channel), 4);
    }
    return bytes;
  }
  static void Encode(const float* rows, int count, int dim, std::byte* packed) {
    for (int row = 0; row < count; ++row) {
      for (int channel = 0; channel < dim; channel += kGroup) {
        const size_t size = std::min(kGroup, dim - channel);
        cpu::QuantizeAsymmetric({rows, size}, 4, packed);
        rows += size;
        packed += cpu::AsymmetricGroupBytes(size, 4);
      }
    }
  }
  static void Decode(const std::byte* packed, int count, int dim, float* rows) {
    for (int row = 0; row < count; ++row) {
      for (int channel = 0; channel < dim; channel += kGroup) {
        const size_t size = std::min(kGroup, dim - channel);
        cpu::DequantizeAsymmetric(packed, 4, {rows, size});
        rows += size;
        packed += cpu::AsymmetricGroupBytes(size, 4);
      }
    }
  }
};

const StoreRegistration registration({
    {.name = "int4", .paper_url = "", .summary = "4 bits, asymmetric, groups of 64 channels of a token", .departs = ""},
    [](Params&) { return std::make_unique<RowStore<Int4Codec>>(); },
});
const CombinationRegistration combination(
    {{.name = "int4", .paper_url = "", .summary = "the whole cache in 4 bits", .departs = ""}, "full@int4"});

}  // namespace
}  // namespace kvscope
