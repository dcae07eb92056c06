// SPDX-License-Identifier: Apache-2.0
#include "capture/column_accumulator.h"

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "kernels/column_stats.h"

namespace kvscope {

void ColumnAccumulator::Add(const LayerChunk& chunk, int first_token, const FullCache& cache) {
  KVSCOPE_CHECK_EQ(first_token, num_rows_);
  const int end = first_token + chunk.num_tokens, group = layer_.HeadsPerKvHead();
  std::vector<int> q_token(chunk.num_tokens);
  std::iota(q_token.begin(), q_token.end(), first_token);
  sum_.resize(layer_.heads.size());
  max_.resize(layer_.heads.size());
  const StatisticSpec specs[] = {{.kind = StatisticSpec::Kind::kSum}, {.kind = StatisticSpec::Kind::kMax}};
  std::vector<float> found[2];
  for (size_t i = 0; i < layer_.kv_heads.size(); ++i) {
    const int64_t first_row = int64_t{layer_.kv_heads[i]} * group * chunk.num_tokens;
    ColumnStatsProblem problem;
    problem.q = chunk.q.At(first_row * layer_.head_dim_k);
    problem.k = cache.Keys(layer_.layer, layer_.kv_heads[i]);
    problem.dtype = chunk.q.dtype();
    problem.lse = &chunk.lse[first_row];
    problem.q_token = q_token;
    problem.group = group;
    problem.num_rows = chunk.num_tokens;
    problem.num_tokens = problem.row_end = end;
    problem.head_dim = layer_.head_dim_k;
    problem.rule = RuleOf(layer_);
    cpu_fast::ColumnStats(problem, specs, found);
    for (int j = 0; j < group; ++j) {
      std::vector<double>& sum = sum_[i * group + j];
      std::vector<float>& max = max_[i * group + j];
      sum.resize(end);
      max.resize(end);
      const float *added = &found[0][int64_t{j} * end], *seen = &found[1][int64_t{j} * end];
      for (int token = 0; token < end; ++token) {
        sum[token] += double{added[token]};
        max[token] = std::max(max[token], seen[token]);
      }
    }
  }
  num_rows_ = end;
}

ColumnStatistics ColumnAccumulator::statistics() const {
  ColumnStatistics statistics;
  statistics.num_rows = statistics.num_tokens = num_rows_;
  for (const std::vector<double>& sum : sum_) {
    for (const double value : sum) statistics.sum.push_back(static_cast<float>(value));
  }
  for (const std::vector<float>& max : max_) statistics.max.insert(statistics.max.end(), max.begin(), max.end());
  return statistics;
}

}  // namespace kvscope
