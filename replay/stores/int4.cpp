// SPDX-License-Identifier: Apache-2.0
// Uniform int4: every token's K and V vector is cut into groups of at most 64 channels, asymmetric, half a byte a
// channel and an f16 scale and minimum a group. The newest token is quantised too: no 16-bit window (KIVI has one).
#include "replay/registry.h"
#include "replay/stores/asymmetric_rows.h"

namespace kvscope {
namespace {

const StoreRegistration registration({
    {.name = "int4", .paper_url = "", .summary = "4 bits, asymmetric, groups of 64 channels of a token", .departs = ""},
    [](Params&) { return std::make_unique<RowStore<AsymmetricCodec<4>>>(); },
});
const CombinationRegistration combination(
    {{.name = "int4", .paper_url = "", .summary = "the whole cache in 4 bits", .departs = ""}, "full@int4"});

}  // namespace
}  // namespace kvscope
