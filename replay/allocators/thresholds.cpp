// SPDX-License-Identifier: Apache-2.0
// ADKVC's proposal to the letter: three bits by two given thresholds on relevance, then eviction of the least relevant
// among the most aggressively quantised until the budget holds.
//   bits(R) = high  if R >= theta_high;  middle  if theta_low <= R < theta_high;  low  else
//
// Paper    none: the proposal's own rule.
// Departs  when no entry of the lowest bits is left to evict, the least relevant of all go.
// Test     tests/replay/policies/thresholds_test.cpp
#include "replay/allocators/bit_math.h"
#include "replay/registry.h"

namespace kvscope {
namespace {

struct ThresholdParameters {
  double theta_high = 0, theta_low = 0;
  int high = 8, middle = 4, low = 2;
};

class Thresholds final : public Allocator {
 public:
  explicit Thresholds(const ThresholdParameters& parameters) : parameters_(parameters) {}
  bool spends_bits() const override { return true; }

  Bits Spend(const SpendingView& view) const override {
    Bits bits;
    for (const SpendingView::Row& row : view.rows) {
      bits.emplace_back();
      for (const float relevance : row.priority) bits.back().push_back(static_cast<uint8_t>(BitsOf(relevance)));
    }
    bits = CappedByPresent(view, std::move(bits));
    const std::vector<Entry> order = LeastFirst(view);
    std::vector<Entry> lowest;
    for (const Entry& entry : order) {
      if (bits[entry.row][entry.slot] <= parameters_.low) lowest.push_back(entry);
    }
    LowerUntilItFits(view, lowest, 0, bits);
    LowerUntilItFits(view, order, 0, bits);
    return bits;
  }

 private:
  int BitsOf(float relevance) const {
    if (relevance >= kProtectedPriority) return 16;
    if (relevance >= parameters_.theta_high) return parameters_.high;
    return relevance >= parameters_.theta_low ? parameters_.middle : parameters_.low;
  }

  ThresholdParameters parameters_;
};

const AllocatorRegistration registration({
    {.name = "thresholds",
     .paper_url = "",
     .summary = "three bits by two given thresholds on relevance, then eviction among the lowest",
     .departs = "what no query has judged, and guards, keep 16 bits"},
    [](Params& params) {
      ThresholdParameters parameters;
      parameters.theta_high = params.Real("theta_high", 0.003, 0, 1e9, "relevance from which an entry has high bits");
      parameters.theta_low = params.Real("theta_low", 0.0003, 0, 1e9, "and middle bits");
      parameters.high = std::stoi(params.Choice("high", "8", {"16", "8", "4"}, "bits"));
      parameters.middle = std::stoi(params.Choice("middle", "4", {"8", "4", "2"}, "bits"));
      parameters.low = std::stoi(params.Choice("low", "2", {"8", "4", "2"}, "bits"));
      if (parameters.theta_low > parameters.theta_high || parameters.low > parameters.middle ||
          parameters.middle > parameters.high) {
        throw Error(StrCat(params.where(), ": expected theta_low <= theta_high and low <= middle <= high, found theta ",
                           parameters.theta_low, ", ", parameters.theta_high, " and bits ", parameters.low, ", ",
                           parameters.middle, ", ", parameters.high));
      }
      return std::make_unique<Thresholds>(parameters);
    },
});

}  // namespace
}  // namespace kvscope
