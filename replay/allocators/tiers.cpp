// SPDX-License-Identifier: Apache-2.0
// Two tiers: every KV head keeps its most relevant entries at the higher bits and all others at the lower, as MiKV
// does. The share of the higher tier is the one that the bytes pay for; below what the lower tier alone takes, the
// least relevant go.
//
// Paper    Yang et al., No Token Left Behind: Reliable KV Cache Compression via Importance-Aware Mixed Precision
//          Quantization, 2024. https://arxiv.org/abs/2402.18096
// Departs  the share follows from the budget (the paper fixes 0.2); with less than the lower tier takes, entries go.
// Test     tests/replay/policies/tiers_test.cpp
#include <cmath>

#include "replay/allocators/bit_math.h"
#include "replay/registry.h"

namespace kvscope {
namespace {

class Tiers final : public Allocator {
 public:
  Tiers(int high, int low) : high_(high), low_(low) {}
  bool spends_bits() const override { return true; }

  int ContestedEntries(const PolicyBudget& budget) const override {
    const double entries = static_cast<double>(budget.num_rows) * budget.num_tokens;
    return static_cast<int>(budget.num_tokens *
                            HighShare(budget.bytes, entries, budget.entry_bytes[high_], budget.entry_bytes[low_]));
  }

  Bits Spend(const SpendingView& view) const override {
    const double share = HighShare(view.bytes, EntriesOf(view), BytesOfBits(view, high_), BytesOfBits(view, low_));
    Bits bits;
    for (const SpendingView::Row& row : view.rows) {
      const std::vector<int> order = MostFirst(row);
      const auto num_high = static_cast<size_t>(std::floor(share * static_cast<double>(order.size()) + 1e-9));
      bits.emplace_back(row.priority.size());
      for (size_t rank = 0; rank < order.size(); ++rank) {
        bits.back()[order[rank]] = static_cast<uint8_t>(rank < num_high ? high_ : low_);
      }
    }
    bits = CappedByPresent(view, std::move(bits));
    LowerUntilItFits(view, LeastFirst(view), 0, bits);
    return bits;
  }

 private:
  static double HighShare(double bytes, double entries, double high_bytes, double low_bytes) {
    return std::clamp((bytes / std::max(entries, 1.0) - low_bytes) / (high_bytes - low_bytes), 0.0, 1.0);
  }

  int high_, low_;
};

const AllocatorRegistration registration({
    {.name = "tiers",
     .paper_url = "https://arxiv.org/abs/2402.18096",
     .summary = "the most relevant entries at higher bits, all others at lower ones, the share solved from the budget",
     .departs = "the share follows from the budget; below the lower tier's bytes the least relevant go"},
    [](Params& params) {
      const int high = std::stoi(params.Choice("high", "16", {"16", "8", "4"}, "bits of the most relevant"));
      const int low = std::stoi(params.Choice("low", "2", {"8", "4", "2"}, "bits of all others"));
      if (low >= high) {
        throw Error(StrCat(params.where(), ": low: expected bits below high=", high, ", found ", low));
      }
      return std::make_unique<Tiers>(high, low);
    },
});
const CombinationRegistration combination(
    {{.name = "mikv",
      .paper_url = "https://arxiv.org/abs/2402.18096",
      .summary = "H2O's heavy hitters and recent tokens at 16 bits, all others at 2 with balanced keys",
      .departs = "the share of 16 bits follows from the budget; applied every 16 queries"},
     "h2o+tiers@mixed:group=32:balance=query_key:every=16"});

}  // namespace
}  // namespace kvscope
