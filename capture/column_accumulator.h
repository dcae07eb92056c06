// SPDX-License-Identifier: Apache-2.0
// Level relevance: what every token of one layer received from all query rows so far, added up chunk by chunk, so that
// neither rows nor vectors are kept.
#pragma once

#include <vector>

#include "capture/full_cache.h"
#include "core/trace.h"

namespace kvscope {

class ColumnAccumulator {
 public:
  explicit ColumnAccumulator(const LayerInfo& layer) : layer_(layer) {}

  // The chunk of all heads that begins at first_token, after the cache took it. Chunks come in order, without gaps.
  void Add(const LayerChunk& chunk, int first_token, const FullCache& cache);
  ColumnStatistics statistics() const;  // of the layer's stored heads

 private:
  const LayerInfo& layer_;
  int num_rows_ = 0;
  std::vector<std::vector<double>> sum_;  // [head][token]; double, since a long run adds very many small weights
  std::vector<std::vector<float>> max_;   // [head][token]
};

}  // namespace kvscope
