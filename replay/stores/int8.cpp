// SPDX-License-Identifier: Apache-2.0
// Uniform int8: every token's K and V vector of a KV head is one symmetric group, a byte a channel and an f16 scale.
// The newest token is quantised too, as soon as it is written: no 16-bit window.
#include "kernels/quantize.h"
#include "replay/registry.h"
#include "replay/stores/row_store.h"

namespace kvscope {
namespace {

struct Int8Codec {
  static constexpr double kBits = 8;
  static size_t RowBytes(int dim) { return cpu::Int8GroupBytes(dim); }
  static void Encode(const float* rows, int count, int dim, std::byte* packed) {
    for (int row = 0; row < count; ++row) {
      cpu::QuantizeInt8({rows + static_cast<size_t>(row) * dim, static_cast<size_t>(dim)},
                        packed + row * RowBytes(dim));
    }
  }
  static void Decode(const std::byte* packed, int count, int dim, float* rows) {
    for (int row = 0; row < count; ++row) {
      cpu::DequantizeInt8(packed + row * RowBytes(dim),
                          {rows + static_cast<size_t>(row) * dim, static_cast<size_t>(dim)});
    }
  }
};

const StoreRegistration registration({
    {.name = "int8", .paper_url = "", .summary = "8 bits, symmetric, one group per token and KV head", .departs = ""},
    [](Params&) { return std::make_unique<RowStore<Int8Codec>>(); },
});
const CombinationRegistration combination(
    {{.name = "int8", .paper_url = "", .summary = "the whole cache in 8 bits", .departs = ""}, "full@int8"});

}  // namespace
}  // namespace kvscope
