// SPDX-License-Identifier: Apache-2.0
#include "kernels/attention_prefill.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/error.h"
#include "core/half.h"

namespace kvscope {

void cpu::AttendPrefill(const PrefillAttention& p) {
  const int64_t heads = p.q.shape[0], queries = p.q.shape[1], dim_k = p.q.shape[2], dim_v = p.v.shape[2];
  const int64_t group = heads / p.k.shape[0];
  const auto row = [](const TensorView& view, int64_t head, int64_t index) {
    return static_cast<const Half*>(view.data) + head * view.strides[0] + index * view.strides[1];
  };
  for (int64_t head = 0; head < heads; ++head) {
    for (int64_t query = 0; query < queries; ++query) {
      std::vector<double> scores, out(dim_v, 0.0);
      const int newest = p.first_query + static_cast<int>(query), first_seen = p.rule.FirstSeen(newest);
      for (int64_t token = first_seen; token <= newest; ++token) {
        double score = 0;
        for (int64_t i = 0; i < dim_k; ++i) {
          score += double{FloatFromHalf(row(p.q, head, query)[i])} * FloatFromHalf(row(p.k, head / group, token)[i]);
        }
        scores.push_back(p.rule.Score(score));
      }
      const double highest = *std::max_element(scores.begin(), scores.end());
      double sum = 0;
      for (int64_t token = first_seen; token <= newest; ++token) {
        const double weight = std::exp(scores[token - first_seen] - highest);
        const Half* const value = row(p.v, head / group, token);
        for (int64_t i = 0; i < dim_v; ++i) out[i] += weight * FloatFromHalf(value[i]);
        sum += weight;
      }
      p.lse.floats()[head * p.lse.strides[0] + query] = static_cast<float>(highest + std::log(sum));
      const int64_t at = head * p.out.strides[0] + query * p.out.strides[1];
      for (int64_t i = 0; i < dim_v; ++i) {
        const auto result = static_cast<float>(out[i] / sum);
        if (p.out.dtype == DType::kF16) {
          static_cast<Half*>(p.out.data)[at + i] = HalfFromFloat(result);
        } else {
          p.out.floats()[at + i] = result;
        }
      }
    }
  }
}

#ifndef KVSCOPE_HAVE_CUDA
void cuda::AttendPrefill(const PrefillAttention&, const Workspace&) {
  throw Error("attention_prefill on cuda: this build has no CUDA; rebuild with nvcc on PATH and -DKVSCOPE_CUDA=ON");
}
bool cuda::HasPath(PrefillPath) {
  return false;
}
#endif

}  // namespace kvscope
