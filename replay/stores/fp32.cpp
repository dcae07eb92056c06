// SPDX-License-Identifier: Apache-2.0
// K and V in 32-bit floats: for traces recorded with --kv-dtype f32 and for checks. Twice the bytes of fp16.
#include <cstring>

#include "replay/registry.h"
#include "replay/stores/row_store.h"

namespace kvscope {
namespace {

struct Fp32Codec {
  static constexpr double kBits = 32;
  static constexpr DType kDType = DType::kF32;
  static size_t RowBytes(int dim) { return dim * sizeof(float); }
  static void Encode(const float* rows, int count, int dim, std::byte* packed) {
    std::memcpy(packed, rows, count * RowBytes(dim));
  }
  static void Decode(const std::byte* packed, int count, int dim, float* rows) {
    std::memcpy(rows, packed, count * RowBytes(dim));
  }
};

const StoreRegistration registration({
    {.name = "fp32", .paper_url = "", .summary = "K and V in 32-bit floats, for --kv-dtype f32", .departs = ""},
    [](Params&) { return std::make_unique<RowStore<Fp32Codec>>(); },
});

}  // namespace
}  // namespace kvscope
