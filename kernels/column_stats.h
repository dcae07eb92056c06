// SPDX-License-Identifier: Apache-2.0
// The evidence pass: one sweep over Q, K and lse of one KV head feeds every statistic of attention columns that any
// policy of a sweep asked for. The n x n matrix of weights never exists. weight(t, j) = exp(score of q_t·k_j - lse_t).
#pragma once

#include <compare>
#include <span>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "kernels/attention_rule.h"
#include "kernels/tensor.h"

namespace kvscope {

// One value per (query head, token j), over query rows t that see j, with t - j >= min_distance and t < row_end.
struct StatisticSpec {
  enum class Kind {
    kSum,         // sum of w(t, j)
    kSumSquares,  // sum of w(t, j)^2
    kMax,         // max of w(t, j); 0 where no row qualifies
    kGeometric,   // sum of alpha (1 - alpha)^(row_end - 1 - t) w(t, j), alpha = 1 - 2^(-1 / half_life)
  };
  Kind kind = Kind::kSum;
  int last_rows = 0;     // only rows t >= row_end - last_rows; 0: all rows
  int min_distance = 0;  // 0 counts the diagonal, 1 is strictly later queries
  double half_life = 0;  // kGeometric only, in queries
  int skip_rows = 0;     // the statistic as it was this many rows before row_end: one pass serves several decisions
  auto operator<=>(const StatisticSpec&) const = default;
};
std::string ToString(const StatisticSpec& spec);

// q [group, num_rows, head_dim], k [num_tokens, head_dim], lse [group, num_rows]: as in the trace. Rows are those of
// q_token (ascending); rows and tokens at or beyond row_end are ignored.
struct ColumnStatsProblem {
  const void* q = nullptr;
  const void* k = nullptr;
  DType dtype = DType::kF16;
  const float* lse = nullptr;
  std::span<const int> q_token;
  int group = 1, num_rows = 0, num_tokens = 0, head_dim = 0;
  int row_end = 0;
  AttentionRule rule{};
};

// out[s] is [group, row_end] for specs[s]. A trace with a part of the rows gives sums over those rows only.
namespace cpu {
void ColumnStats(const ColumnStatsProblem& problem, std::span<const StatisticSpec> specs,
                 std::span<std::vector<double>> out);  // in double throughout: the specification
}
namespace cpu_fast {
void ColumnStats(const ColumnStatsProblem& problem, std::span<const StatisticSpec> specs,
                 std::span<std::vector<float>> out);
}
namespace cuda {
// Everything that the problem points to lies on the device, q_token's numbers too; f16, head_dim a multiple of 16, at
// most 256. out: [specs, group, row_end] f32.
void ColumnStats(const ColumnStatsProblem& problem, std::span<const StatisticSpec> specs, float* out,
                 const Workspace& workspace);
}  // namespace cuda

}  // namespace kvscope
