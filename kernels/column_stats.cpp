// SPDX-License-Identifier: Apache-2.0
#include "kernels/column_stats.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/half.h"

namespace kvscope {

std::string ToString(const StatisticSpec& spec) {
  constexpr const char* kNames[] = {"sum", "sum_squares", "max", "geometric"};
  std::string text = kNames[static_cast<int>(spec.kind)];
  if (spec.last_rows > 0) text += StrCat("_last", spec.last_rows);
  if (spec.min_distance > 0) text += StrCat("_distance", spec.min_distance);
  if (spec.kind == StatisticSpec::Kind::kGeometric) text += StrCat("_halflife", spec.half_life);
  if (spec.skip_rows > 0) text += StrCat("_skip", spec.skip_rows);
  return text;
}

namespace cpu {
namespace {

double ElementOf(const void* data, DType dtype, int64_t index) {
  return dtype == DType::kF32 ? static_cast<const float*>(data)[index]
                              : FloatFromHalf(static_cast<const Half*>(data)[index]);
}

}  // namespace

void ColumnStats(const ColumnStatsProblem& p, std::span<const StatisticSpec> specs,
                 std::span<std::vector<double>> out) {
  for (size_t s = 0; s < specs.size(); ++s) {
    const StatisticSpec& spec = specs[s];
    const int row_end = p.row_end - spec.skip_rows;
    const double alpha = spec.half_life > 0 ? 1 - std::exp2(-1 / spec.half_life) : 0;
    out[s].assign(static_cast<size_t>(p.group) * p.row_end, 0.0);
    for (int head = 0; head < p.group; ++head) {
      std::vector<double> total(p.row_end, 0.0);
      for (int row = 0; row < p.num_rows; ++row) {
        const int query = p.q_token[row];
        if (query >= row_end || (spec.last_rows > 0 && query < row_end - spec.last_rows)) continue;
        const int64_t q_row = static_cast<int64_t>(head) * p.num_rows + row;
        for (int token = p.rule.FirstSeen(query); token <= query - spec.min_distance; ++token) {
          double score = 0;
          for (int dim = 0; dim < p.head_dim; ++dim) {
            score += ElementOf(p.q, p.dtype, q_row * p.head_dim + dim) *
                     ElementOf(p.k, p.dtype, static_cast<int64_t>(token) * p.head_dim + dim);
          }
          const double weight = std::exp(p.rule.Score(score) - p.lse[q_row]);
          switch (spec.kind) {
            case StatisticSpec::Kind::kSum:
              total[token] += weight;
              break;
            case StatisticSpec::Kind::kSumSquares:
              total[token] += weight * weight;
              break;
            case StatisticSpec::Kind::kMax:
              total[token] = std::max(total[token], weight);
              break;
            case StatisticSpec::Kind::kGeometric:
              total[token] += alpha * std::pow(1 - alpha, row_end - 1 - query) * weight;
              break;
          }
        }
      }
      std::copy(total.begin(), total.end(), out[s].begin() + static_cast<int64_t>(head) * p.row_end);
    }
  }
}

}  // namespace cpu

#ifndef KVSCOPE_HAVE_CUDA
void cuda::ColumnStats(const ColumnStatsProblem&, std::span<const StatisticSpec>, float*, const Workspace&) {
  throw Error("column_stats on cuda: this build has no CUDA; rebuild with nvcc on PATH and -DKVSCOPE_CUDA=ON");
}
#endif
}  // namespace kvscope
