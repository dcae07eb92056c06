// SPDX-License-Identifier: Apache-2.0
// Every KV head of every layer gets the same budget.
#include "replay/registry.h"

namespace kvscope {
namespace {

class Uniform final : public Allocator {
 public:
  Budgets Allocate(const AllocationView& view) const override {
    return Budgets(view.shape.num_layers, std::vector<int>(view.shape.num_kv_heads, view.uniform_entries));
  }
};

const AllocatorRegistration registration({
    {.name = "uniform", .paper_url = "", .summary = "the same budget for every KV head", .departs = ""},
    [](Params&) { return std::make_unique<Uniform>(); },
});

}  // namespace
}  // namespace kvscope
