// SPDX-License-Identifier: Apache-2.0
// The entries of one stored KV head as attention reads them, tile by tile, and what the caller wants to know of the
// scores. Rows come in the store's own order, so pools of different bits are read one after the other and the online
// softmax merges them; everything that goes in or out is told by entry: the slot or, with a read plan, its place there.
#pragma once

#include <span>
#include <vector>

#include "kernels/attention_tile.h"
#include "replay/store.h"

namespace kvscope {

class CacheTiles final : public KeyValueTiles {
 public:
  // slots: of a read plan, ascending; empty: all. group: query heads.
  CacheTiles(const StoredHead& stored, int head_dim_k, int head_dim_v, int group, std::span<const int> slots);

  int num_entries() const { return num_entries_; }
  // Added to the scores [num_entries].
  void AddLogWeights(std::span<const float> log_weight) { log_weight_ = log_weight; }
  // Keeps all scores of a single token: scores[head] [num_entries].
  void KeepScores(std::vector<float>* scores) { scores_ = scores; }
  // Keeps the scores of these slots (ascending): scores[head] [token, watched]; others than causal ones stay untouched.
  // entries_before: those that the first query sees beside its own. Not with a read plan.
  void Watch(std::span<const int> watched, int entries_before, std::vector<float>* scores);

  const float* Read(int begin, int count, float* panels, float* scratch) override;
  void SawScores(int first_query, int num_queries, int begin, int count, float* scores) override;

 private:
  struct Watched {
    int read, index;  // place in reading order, place in `watched`
  };
  int Entry(int read) const { return entry_from_read_.empty() ? read : entry_from_read_[read]; }

  const StoredHead& stored_;
  int head_dim_k_, head_dim_v_, group_, num_entries_;
  std::vector<int> rows_;             // to read, ascending; empty: all
  std::vector<int> entry_from_read_;  // empty: the same
  std::span<const float> log_weight_;
  std::vector<float>* scores_ = nullptr;
  std::vector<Watched> watched_;  // ascending by read
  int entries_before_ = 0;
  std::vector<float>* watched_scores_ = nullptr;
};

}  // namespace kvscope
