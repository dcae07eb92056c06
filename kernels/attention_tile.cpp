// SPDX-License-Identifier: Apache-2.0
#include "kernels/attention_tile.h"

#include <cmath>
#include <vector>

#include "core/half.h"

namespace kvscope::cpu {
namespace {

double ElementOf(const void* data, DType dtype, int64_t index) {
  return dtype == DType::kF32 ? static_cast<const float*>(data)[index]
                              : FloatFromHalf(static_cast<const Half*>(data)[index]);
}

}  // namespace

void Attend(const CausalAttention& p) {
  for (int head = 0; head < p.group; ++head) {
    for (int query = 0; query < p.num_queries; ++query) {
      const float* q = p.q + head * p.q_head_stride + query * p.q_row_stride;
      const int visible = p.first_query + query + 1, first_seen = p.rule.FirstSeen(p.first_query + query);
      std::vector<double> weights(visible);
      double max = -INFINITY;
      for (int token = first_seen; token < visible; ++token) {
        double score = 0;
        for (int dim = 0; dim < p.head_dim_k; ++dim) {
          score += q[dim] * ElementOf(p.k, p.dtype, static_cast<int64_t>(token) * p.head_dim_k + dim);
        }
        weights[token] = p.rule.Score(score);
        if (p.scores) {
          p.scores[head * p.scores_head_stride + query * p.scores_row_stride + token] =
              static_cast<float>(weights[token]);
        }
        max = std::max(max, weights[token]);
      }
      double sum = 0;
      for (int token = first_seen; token < visible; ++token) sum += weights[token] = std::exp(weights[token] - max);
      for (int dim = 0; dim < p.head_dim_v; ++dim) {
        double out = 0;
        for (int token = first_seen; token < visible; ++token) {
          out += weights[token] * ElementOf(p.v, p.dtype, static_cast<int64_t>(token) * p.head_dim_v + dim);
        }
        p.out[head * p.out_head_stride + query * p.out_row_stride + dim] = static_cast<float>(out / sum);
      }
      if (p.lse) p.lse[head * p.lse_head_stride + query] = static_cast<float>(max + std::log(sum));
    }
  }
}

}  // namespace kvscope::cpu
