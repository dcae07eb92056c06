// SPDX-License-Identifier: Apache-2.0
#include "replay/full_rows.h"

namespace kvscope {

std::shared_ptr<const FullRows> FullRowsCache::Find(int layer_index, int first_query, int block) const {
  const std::lock_guard lock(mutex_);
  const auto found = rows_.find({layer_index, first_query, block});
  return found == rows_.end() ? nullptr : found->second;
}

void FullRowsCache::Keep(int layer_index, int first_query, int block, std::shared_ptr<const FullRows> rows) {
  auto bytes = static_cast<int64_t>((rows->weights.size() + rows->out.size()) * sizeof(float) +
                                    rows->weight_sum.size() * sizeof(double));
  for (const std::vector<int>& top : rows->top) bytes += static_cast<int64_t>(sizeof(top) + top.size() * sizeof(int));
  const std::lock_guard lock(mutex_);
  if (bytes <= bytes_left_ && rows_.emplace(std::tuple{layer_index, first_query, block}, std::move(rows)).second)
    bytes_left_ -= bytes;
}

}  // namespace kvscope
