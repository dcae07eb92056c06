// SPDX-License-Identifier: Apache-2.0
// Three levels by quantile: in every row a fixed top fraction gets the highest of three bits, and the two thresholds
// below it are placed so that the bytes hold. The three bits are the first of 16/8/4, 8/4/2 and 4/2/dropped that can.
//
// Paper    none: the adaptive thresholds that ADKVC's proposal asks for, in their simplest form.
// Departs  of the three bits only the lowest may be dropped; bytes between two triples stay unspent.
// Test     tests/replay/policies/quantile_test.cpp
#include <array>
#include <cmath>

#include "replay/allocators/bit_math.h"
#include "replay/registry.h"

namespace kvscope {
namespace {

constexpr std::array<std::array<int, 3>, 3> kTriples = {{{16, 8, 4}, {8, 4, 2}, {4, 2, 0}}};

class Quantile final : public Allocator {
 public:
  explicit Quantile(double high_share) : high_share_(high_share) {}
  bool spends_bits() const override { return true; }

  Bits Spend(const SpendingView& view) const override {
    std::array<int, 3> bits_of_level = kTriples.back();
    double middle_share = 0;
    for (const std::array<int, 3>& triple : kTriples) {
      middle_share = MiddleShare(view, triple);
      bits_of_level = triple;
      if (middle_share >= 0) break;
    }
    Bits bits;
    for (const SpendingView::Row& row : view.rows) {
      const std::vector<int> order = MostFirst(row);
      const auto size = static_cast<double>(order.size());
      const double num_high = std::floor(high_share_ * size + 1e-9);
      const double num_middle = std::floor(std::max(0.0, middle_share) * size + 1e-9);
      bits.emplace_back(row.priority.size());
      for (size_t rank = 0; rank < order.size(); ++rank) {
        const auto place = static_cast<double>(rank);
        const int level = place < num_high ? 0 : place < num_high + num_middle ? 1 : 2;
        bits.back()[order[rank]] = static_cast<uint8_t>(bits_of_level[level]);
      }
      if (!order.empty() && bits.back()[order[0]] == 0) bits.back()[order[0]] = view.ladder.back();
    }
    bits = CappedByPresent(view, std::move(bits));
    LowerUntilItFits(view, LeastFirst(view), 0, bits);
    return bits;
  }

 private:
  // Share of the middle level that the bytes pay for; below 0: not even none.
  double MiddleShare(const SpendingView& view, const std::array<int, 3>& triple) const {
    const double high = BytesOfBits(view, triple[0]), middle = BytesOfBits(view, triple[1]),
                 low = BytesOfBits(view, triple[2]);
    const double mean = view.bytes / std::max(EntriesOf(view), 1.0);
    return std::min((mean - low - high_share_ * (high - low)) / (middle - low), 1 - high_share_);
  }

  double high_share_;
};

const AllocatorRegistration registration({
    {.name = "quantile",
     .paper_url = "",
     .summary = "three bits by rank: a fixed top fraction, and two thresholds placed so that the bytes hold",
     .departs = "bytes between two triples of bits stay unspent"},
    [](Params& params) {
      return std::make_unique<Quantile>(params.Real("high_share", 0.1, 0, 1, "of the entries, at the highest bits"));
    },
});

}  // namespace
}  // namespace kvscope
