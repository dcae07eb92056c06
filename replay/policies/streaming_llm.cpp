// SPDX-License-Identifier: Apache-2.0
// StreamingLLM keeps the first tokens, which gather attention whatever they say, and a sliding window.
//
// Paper    Xiao et al., Efficient Streaming Language Models with Attention Sinks, 2023.
//          https://arxiv.org/abs/2309.17453
// Keeps    the first `sinks` tokens; the rest of the budget is the newest tokens, after each query.
// State    none.
// Departs  keys keep the rotation of their absolute position; the paper rotates them by cache slot.
// Test     tests/replay/policies/streaming_llm_test.cpp
#include "replay/registry.h"

namespace kvscope {
namespace {

class StreamingLlm final : public Scorer {
 public:
  explicit StreamingLlm(int sinks) : sinks_(sinks) {}
  PolicyNeeds Needs(const ModelShape&) const override {
    PolicyNeeds needs;
    needs.scope = Scope::kLayer;
    needs.every = 1;
    return needs;
  }
  void Seed(const LayerView&, PerSlot&) override {}
  void Prioritize(const PriorityView& view, std::span<float> priority) const override {
    for (size_t slot = 0; slot < priority.size(); ++slot) {
      const int token = view.token_from_slot[slot];
      // Among sinks the first comes first, should the budget not hold all of them.
      priority[slot] = token < sinks_ ? ProtectedPriority(sinks_ - token) : static_cast<float>(token);
    }
  }
  std::unique_ptr<Scorer> Clone() const override { return std::make_unique<StreamingLlm>(*this); }

 private:
  int sinks_;
};

const ScorerRegistration registration({
    {.name = "streaming_llm",
     .paper_url = "https://arxiv.org/abs/2309.17453",
     .summary = "keeps the first tokens and the newest ones",
     .departs = "keys keep the rotation of their absolute position"},
    "eviction",
    Growth::kFixed,
    [](Params& params) {
      return std::make_unique<StreamingLlm>(params.Int("sinks", 4, 0, 1 << 20, "first tokens that always stay"));
    },
    nullptr,
});

}  // namespace
}  // namespace kvscope
