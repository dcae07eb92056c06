// SPDX-License-Identifier: Apache-2.0
// The cache as it is: K and V in IEEE binary16. Budgets are fractions of this one's bytes.
#include "replay/registry.h"
#include "replay/stores/row_store.h"

namespace kvscope {
namespace {

const StoreRegistration registration({
    {.name = "fp16", .paper_url = "", .summary = "K and V in 16-bit floats", .departs = ""},
    [](Params&) { return std::make_unique<RowStore<Fp16Codec>>(); },
});

}  // namespace
}  // namespace kvscope
