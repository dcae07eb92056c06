// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "core/error.h"
#include "replay/policy.h"

namespace kvscope {

void Scorer::Prioritize(const PriorityView& view, std::span<float> priority) const {
  KVSCOPE_CHECK_EQ(view.relevance.size(), priority.size());
  std::copy(view.relevance.begin(), view.relevance.end(), priority.begin());
}

}  // namespace kvscope
