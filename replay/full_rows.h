// SPDX-License-Identifier: Apache-2.0
// What the full cache does with a block of queries of one layer: the other half of every metric, and the same for every
// plan. Kept, it halves the time of another Evaluate of the same trace.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <tuple>
#include <vector>

namespace kvscope {

struct FullRows {
  std::vector<float> weights;         // [head, block, stride]
  std::vector<double> weight_sum;     // [head, block]
  std::vector<float> out;             // [head, block, head_dim_v]
  std::vector<std::vector<int>> top;  // [head, block] the tokens of the largest weights
};

// Serves calls with the same top_k. Thread-safe; the first blocks that fit stay.
class FullRowsCache {
 public:
  explicit FullRowsCache(int64_t max_bytes) : bytes_left_(max_bytes) {}
  // Null when it is not here.
  std::shared_ptr<const FullRows> Find(int layer_index, int first_query, int block) const;
  void Keep(int layer_index, int first_query, int block, std::shared_ptr<const FullRows> rows);

 private:
  mutable std::mutex mutex_;
  std::map<std::tuple<int, int, int>, std::shared_ptr<const FullRows>> rows_;
  int64_t bytes_left_;
};

}  // namespace kvscope
