// SPDX-License-Identifier: Apache-2.0
// The full cache: keeps everything, at any budget. The upper end of every table; with a quantising store
// (full@int8, full@int4) the uniform quantisation baselines.
//
// Keeps    all.
// State    none.
// Test     tests/replay/policies/baselines_test.cpp
#include "replay/registry.h"

namespace kvscope {
namespace {

class Full final : public Scorer {
 public:
  PolicyNeeds Needs(const ModelShape&) const override {
    PolicyNeeds needs;
    needs.fixed_rate = true;
    needs.scope = Scope::kLayer;
    return needs;
  }
  void Seed(const LayerView&, PerSlot&) override {}
  std::unique_ptr<Scorer> Clone() const override { return std::make_unique<Full>(*this); }
};

const ScorerRegistration registration({
    {.name = "full", .paper_url = "", .summary = "keeps everything, at any budget", .departs = ""},
    "baseline",
    Growth::kAppend,
    [](Params&) { return std::make_unique<Full>(); },
    nullptr,
});

}  // namespace
}  // namespace kvscope
