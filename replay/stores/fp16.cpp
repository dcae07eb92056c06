// SPDX-License-Identifier: Apache-2.0
// The cache as it is: K and V in IEEE binary16. Budgets are fractions of this one's bytes.
#include "core/half.h"
#include "replay/registry.h"
#include "replay/stores/row_store.h"

namespace kvscope {
namespace {

struct Fp16Codec {
  static constexpr double kBits = 16;
  static constexpr DType kDType = DType::kF16;
  static size_t RowBytes(int dim) { return dim * sizeof(Half); }
  static void Encode(const float* rows, int count, int dim, std::byte* packed) {
    const size_t size = static_cast<size_t>(count) * dim;
    HalvesFromFloats({rows, size}, {reinterpret_cast<Half*>(packed), size});
  }
  static void Decode(const std::byte* packed, int count, int dim, float* rows) {
    const size_t size = static_cast<size_t>(count) * dim;
    FloatsFromHalves({reinterpret_cast<const Half*>(packed), size}, {rows, size});
  }
};

const StoreRegistration registration({
    {.name = "fp16", .paper_url = "", .summary = "K and V in 16-bit floats", .departs = ""},
    [](Params&) { return std::make_unique<RowStore<Fp16Codec>>(); },
});

}  // namespace
}  // namespace kvscope
