// SPDX-License-Identifier: Apache-2.0
#include "replay/policy.h"

#include <algorithm>

#include "core/error.h"

namespace kvscope {

void Scorer::Prioritize(const PriorityView& view, std::span<float> priority) const {
  KVSCOPE_CHECK_EQ(view.relevance.size(), priority.size());
  std::copy(view.relevance.begin(), view.relevance.end(), priority.begin());
}

Budgets Allocator::Allocate(const AllocationView& view) const {
  (void)view;
  KVSCOPE_CHECK(!spends_bits() && "an allocator of entries says how many");
  return {};
}

Bits Allocator::Spend(const SpendingView& view) const {
  (void)view;
  KVSCOPE_CHECK(!spends_bits() && "an allocator of bits spends them");
  return {};
}

}  // namespace kvscope
