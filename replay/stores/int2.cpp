// SPDX-License-Identifier: Apache-2.0
// Uniform int2: every token's K and V vector is cut into groups of at most 64 channels, asymmetric, a quarter of a byte
// a channel and an f16 scale and minimum a group. The newest token is quantised too: no 16-bit window (KIVI has one).
#include "replay/registry.h"
#include "replay/stores/asymmetric_rows.h"

namespace kvscope {
namespace {

const StoreRegistration registration({
    {.name = "int2", .paper_url = "", .summary = "2 bits, asymmetric, groups of 64 channels of a token", .departs = ""},
    [](Params&) { return std::make_unique<RowStore<AsymmetricCodec<2>>>(); },
});
const CombinationRegistration combination(
    {{.name = "int2", .paper_url = "", .summary = "the whole cache in 2 bits", .departs = ""}, "full@int2"});

}  // namespace
}  // namespace kvscope
