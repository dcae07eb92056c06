// SPDX-License-Identifier: Apache-2.0
#include "replay/cache_tiles.h"

#include <algorithm>
#include <numeric>

namespace kvscope {
namespace {

std::vector<int> Inverse(std::span<const int> slot_from_row) {
  std::vector<int> row_from_slot(slot_from_row.size());
  for (size_t row = 0; row < slot_from_row.size(); ++row) row_from_slot[slot_from_row[row]] = static_cast<int>(row);
  return row_from_slot;
}

}  // namespace

CacheTiles::CacheTiles(const StoredHead& stored, int head_dim_k, int head_dim_v, int group, std::span<const int> slots)
    : stored_(stored),
      head_dim_k_(head_dim_k),
      head_dim_v_(head_dim_v),
      group_(group),
      num_entries_(slots.empty() ? stored.num_slots() : static_cast<int>(slots.size())),
      rows_(slots.begin(), slots.end()) {
  const std::span<const int> slot_from_row = stored.SlotFromRow();
  if (slot_from_row.empty()) return;
  if (slots.empty()) {
    entry_from_read_.assign(slot_from_row.begin(), slot_from_row.end());
    return;
  }
  const std::vector<int> row_from_slot = Inverse(slot_from_row);
  entry_from_read_.resize(slots.size());
  std::iota(entry_from_read_.begin(), entry_from_read_.end(), 0);
  std::sort(entry_from_read_.begin(), entry_from_read_.end(),
            [&](int a, int b) { return row_from_slot[slots[a]] < row_from_slot[slots[b]]; });
  for (size_t read = 0; read < rows_.size(); ++read) rows_[read] = row_from_slot[slots[entry_from_read_[read]]];
}

void CacheTiles::Watch(std::span<const int> watched, int entries_before, std::vector<float>* scores) {
  entries_before_ = entries_before;
  watched_scores_ = scores;
  std::vector<int> row_from_slot;
  if (!entry_from_read_.empty()) row_from_slot = Inverse(entry_from_read_);
  for (size_t i = 0; i < watched.size(); ++i) {
    watched_.push_back({row_from_slot.empty() ? watched[i] : row_from_slot[watched[i]], static_cast<int>(i)});
  }
  std::sort(watched_.begin(), watched_.end(), [](const Watched& a, const Watched& b) { return a.read < b.read; });
}

const float* CacheTiles::Read(int begin, int count, float* panels, float* scratch) {
  DType dtype;
  if (const void* keys = rows_.empty() ? stored_.RawKeys(begin, dtype) : nullptr) {
    PackKeyPanels(keys, dtype, count, head_dim_k_, panels);
    stored_.ReadValues(begin, count, scratch);
    return scratch;
  }
  thread_local std::vector<float> keys;
  keys.resize(static_cast<size_t>(kTileTokens) * head_dim_k_);
  if (rows_.empty()) {
    stored_.ReadKeys(begin, count, keys.data());
    stored_.ReadValues(begin, count, scratch);
  } else {
    for (int i = 0; i < count;) {  // run by run
      int run = 1;
      while (i + run < count && rows_[begin + i + run] == rows_[begin + i] + run) ++run;
      stored_.ReadKeys(rows_[begin + i], run, keys.data() + static_cast<int64_t>(i) * head_dim_k_);
      stored_.ReadValues(rows_[begin + i], run, scratch + static_cast<int64_t>(i) * head_dim_v_);
      i += run;
    }
  }
  PackKeyPanels(keys.data(), DType::kF32, count, head_dim_k_, panels);
  return scratch;
}

void CacheTiles::SawScores(int first_query, int num_queries, int begin, int count, float* scores) {
  const auto first_watched = std::lower_bound(watched_.begin(), watched_.end(), begin,
                                              [](const Watched& watched, int read) { return watched.read < read; });
  for (int head = 0; head < group_; ++head) {
    for (int query = 0; query < num_queries; ++query) {
      float* row = scores + (static_cast<int64_t>(head) * num_queries + query) * kTileTokens;
      for (int i = 0; !log_weight_.empty() && i < count; ++i) row[i] += log_weight_[Entry(begin + i)];
      if (scores_ && entry_from_read_.empty()) {
        std::copy_n(row, count, scores_[head].begin() + begin);
      } else if (scores_) {
        for (int i = 0; i < count; ++i) scores_[head][entry_from_read_[begin + i]] = row[i];
      }
      const int end = std::min(begin + count, entries_before_ + first_query + query + 1);
      for (auto watched = first_watched; watched != watched_.end() && watched->read < end; ++watched) {
        watched_scores_[head][(first_query + query) * watched_.size() + watched->index] = row[watched->read - begin];
      }
    }
  }
}

}  // namespace kvscope
