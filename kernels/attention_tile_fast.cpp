// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <vector>

#include "core/error.h"
#include "core/half.h"
#include "kernels/attention_tile.h"
#include "kernels/panel.h"
#include "kernels/soft_cap.h"

namespace kvscope {
namespace {

constexpr int kQueryBlock = 64;  // queries of one block; times the group gives the rows that share a tile of keys

// 16 tokens by 16 dims at a time, transposed in registers.
template <typename Element>
void PackPanels(const Element* k, int count, int head_dim, float* panels) {
  for (int begin = 0; begin < count; begin += simd::kLanes) {
    float* panel = panels + int64_t{begin / kPanelTokens} * kPanelTokens * head_dim + begin % kPanelTokens;
    const int tokens = std::min(simd::kLanes, count - begin);
    for (int dim = 0; dim < head_dim; dim += simd::kLanes) {
      simd::Floats rows[simd::kLanes];
      for (int token = 0; token < simd::kLanes; ++token) {
        rows[token] =
            token < tokens ? simd::Load(k + static_cast<int64_t>(begin + token) * head_dim + dim) : simd::Zero();
      }
      simd::Transpose(rows);
      for (int lane = 0; lane < simd::kLanes; ++lane) simd::Store(panel + (dim + lane) * kPanelTokens, rows[lane]);
    }
  }
  if (const int end = (count + simd::kLanes - 1) / simd::kLanes * simd::kLanes; end % kPanelTokens) {
    float* panel = panels + int64_t{end / kPanelTokens} * kPanelTokens * head_dim + end % kPanelTokens;
    for (int dim = 0; dim < head_dim; ++dim) simd::Store(panel + dim * kPanelTokens, simd::Zero());
  }
}

// Turns scores into exp(score - max) in place for the first `count`, zero up to `padded`; updates the row's running
// maximum and sum; returns the factor for what was accumulated before.
float SoftmaxTile(float* scores, int count, int padded, float& max, float& sum) {
  simd::Floats largest = simd::Broadcast(-INFINITY);
  for (int i = 0; i < padded; i += simd::kLanes) {
    largest = simd::Max(largest, simd::KeepFirst(simd::Load(scores + i), count - i, -INFINITY));
  }
  const float new_max = std::max(max, simd::LargestLane(largest));
  const float factor = max == new_max ? 1.0f : std::exp(max - new_max);
  const simd::Floats shift = simd::Broadcast(new_max);
  simd::Floats total = simd::Zero();
  for (int i = 0; i < padded; i += simd::kLanes) {
    const simd::Floats weight = simd::KeepFirst(simd::Exp(simd::Sub(simd::Load(scores + i), shift)), count - i, 0.0f);
    simd::Store(scores + i, weight);
    total = simd::Add(total, weight);
  }
  max = new_max;
  sum = sum * factor + simd::Sum(total);
  return factor;
}

// Scratch of one thread; grows to the largest problem it met.
struct Scratch {
  std::vector<float> q, panels, values, scores, out, max, sum;
};
Scratch& ThreadScratch() {
  thread_local Scratch scratch;
  return scratch;
}

const void* RowOf(const void* data, DType dtype, int64_t row, int head_dim) {
  return static_cast<const std::byte*>(data) + row * head_dim * ElementBytes(dtype);
}

// K and V in one piece.
class ArrayTiles final : public KeyValueTiles {
 public:
  explicit ArrayTiles(const CausalAttention& problem) : p_(problem) {}
  const float* Read(int begin, int count, float* panels, float* scratch) override {
    PackKeyPanels(RowOf(p_.k, p_.dtype, begin, p_.head_dim_k), p_.dtype, count, p_.head_dim_k, panels);
    const void* v = RowOf(p_.v, p_.dtype, begin, p_.head_dim_v);
    if (p_.dtype == DType::kF32) return static_cast<const float*>(v);
    const size_t size = static_cast<size_t>(count) * p_.head_dim_v;
    FloatsFromHalves({static_cast<const Half*>(v), size}, {scratch, size});
    return scratch;
  }

 private:
  const CausalAttention& p_;
};

void AttendBlock(const CausalAttention& p, int query_begin, int query_end, KeyValueTiles& tiles) {
  Scratch& s = ThreadScratch();
  const int queries = query_end - query_begin, rows = p.group * queries;
  s.q.resize(int64_t{rows} * p.head_dim_k);
  s.panels.resize(PanelFloats(kTileTokens, p.head_dim_k));
  s.values.resize(int64_t{kTileTokens} * p.head_dim_v);
  s.scores.resize(int64_t{rows} * kTileTokens);
  s.out.assign(int64_t{rows} * p.head_dim_v, 0.0f);
  s.max.assign(rows, -INFINITY);
  s.sum.assign(rows, 0.0f);
  for (int row = 0; row < rows; ++row) {
    const float* q = p.q + row / queries * p.q_head_stride + (query_begin + row % queries) * p.q_row_stride;
    std::copy_n(q, p.head_dim_k, &s.q[int64_t{row} * p.head_dim_k]);
  }
  const int num_tokens = p.first_query + query_end;
  // The first tile begins at the panel of the first token that any row sees: whole vectors before a row's first token
  // would add zeros to its sums.
  int begin = p.rule.FirstSeen(p.first_query + query_begin) / kPanelTokens * kPanelTokens, count = 0;
  for (; begin < num_tokens; begin += count) {
    count = std::min(kTileTokens - begin % kTileTokens, num_tokens - begin);
    const float* v = tiles.Read(begin, count, s.panels.data(), s.values.data());
    ScoreTile(s.q.data(), p.head_dim_k, rows, s.panels.data(), count, p.head_dim_k, p.rule, s.scores.data(),
              kTileTokens);
    tiles.SawScores(query_begin, queries, begin, count, s.scores.data());
    for (int row = 0; p.scores && row < rows; ++row) {
      float* const kept =
          p.scores + row / queries * p.scores_head_stride + (query_begin + row % queries) * p.scores_row_stride;
      std::copy_n(&s.scores[int64_t{row} * kTileTokens], count, kept + begin);
    }
    const int padded = (count + kPanelTokens - 1) / kPanelTokens * kPanelTokens;
    for (int row = 0; row < rows; ++row) {
      const int token = p.first_query + query_begin + row % queries;
      const int visible = token + 1 - begin, hidden = p.rule.FirstSeen(token) - begin;
      float* scores = &s.scores[int64_t{row} * kTileTokens];
      if (visible <= 0 || hidden >= count) {
        std::fill_n(scores, padded, 0.0f);
        continue;
      }
      if (hidden > 0) std::fill_n(scores, hidden, -INFINITY);
      const float factor = SoftmaxTile(scores, std::min(visible, count), padded, s.max[row], s.sum[row]);
      if (factor == 1.0f) continue;
      float* out = &s.out[int64_t{row} * p.head_dim_v];
      for (int dim = 0; dim < p.head_dim_v; ++dim) out[dim] *= factor;
    }
    AccumulateValues(s.scores.data(), kTileTokens, rows, v, count, p.head_dim_v, s.out.data(), p.head_dim_v);
  }
  for (int row = 0; row < rows; ++row) {
    const int head = row / queries, query = query_begin + row % queries;
    float* out = p.out + head * p.out_head_stride + query * p.out_row_stride;
    for (int dim = 0; dim < p.head_dim_v; ++dim) out[dim] = s.out[int64_t{row} * p.head_dim_v + dim] / s.sum[row];
    if (p.lse) p.lse[head * p.lse_head_stride + query] = s.max[row] + std::log(s.sum[row]);
  }
}

}  // namespace

void PackKeyPanels(const void* k, DType dtype, int count, int head_dim, float* panels) {
  KVSCOPE_CHECK_EQ(head_dim % simd::kLanes, 0);
  if (dtype == DType::kF32) {
    PackPanels(static_cast<const float*>(k), count, head_dim, panels);
  } else {
    PackPanels(static_cast<const Half*>(k), count, head_dim, panels);
  }
}

void ScoreTile(const float* q, int64_t q_stride, int rows, const float* panels, int count, int head_dim,
               const AttentionRule& rule, float* scores, int64_t stride) {
  for (int begin = 0; begin < count; begin += kPanelTokens, panels += int64_t{kPanelTokens} * head_dim) {
    panel::MultiplyRows(q, q_stride, rows, panels, kPanelTokens, head_dim, /*accumulate=*/false, scores + begin,
                        stride);
  }
  const simd::Floats scale = simd::Broadcast(rule.scale);
  const auto finish = [&](const auto& make_score) {
    for (int row = 0; row < rows; ++row) {
      for (int token = 0; token < count; token += simd::kLanes) {
        float* score = scores + row * stride + token;
        simd::Store(score, make_score(simd::Mul(simd::Load(score), scale)));
      }
    }
  };
  if (rule.softcap > 0) {
    finish([cap = SoftCap(rule.softcap)](simd::Floats score) { return cap(score); });
  } else {
    finish([](simd::Floats score) { return score; });
  }
}

void AccumulateValues(const float* weights, int64_t weight_stride, int rows, const float* v, int count, int head_dim,
                      float* out, int64_t out_stride) {
  int dim = 0;
  for (; dim + panel::kColumns <= head_dim; dim += panel::kColumns) {
    panel::MultiplyRows(weights, weight_stride, rows, v + dim, head_dim, count, /*accumulate=*/true, out + dim,
                        out_stride);
  }
  if (dim == head_dim) return;
  for (int row = 0; row < rows; ++row) {
    simd::Floats sum = simd::Load(out + row * out_stride + dim);
    for (int token = 0; token < count; ++token) {
      sum = simd::Fma(simd::Broadcast(weights[row * weight_stride + token]),
                      simd::Load(v + int64_t{token} * head_dim + dim), sum);
    }
    simd::Store(out + row * out_stride + dim, sum);
  }
}

float ExpShifted(std::span<float> values, float shift) {
  const int count = static_cast<int>(values.size());
  const simd::Floats shifts = simd::Broadcast(shift);
  simd::Floats total = simd::Zero();
  int i = 0;
  for (; i + simd::kLanes <= count; i += simd::kLanes) {
    const simd::Floats weight = simd::Exp(simd::Sub(simd::Load(&values[i]), shifts));
    simd::Store(&values[i], weight);
    total = simd::Add(total, weight);
  }
  if (i < count) {
    float lanes[simd::kLanes] = {};
    std::copy(values.begin() + i, values.end(), lanes);
    const simd::Floats weight = simd::KeepFirst(simd::Exp(simd::Sub(simd::Load(lanes), shifts)), count - i, 0.0f);
    simd::Store(lanes, weight);
    std::copy_n(lanes, count - i, values.begin() + i);
    total = simd::Add(total, weight);
  }
  return simd::Sum(total);
}

void WeightsFromScores(std::span<float> scores, int begin, int query_token, const AttentionRule& rule, float lse) {
  const int hidden = std::clamp(rule.FirstSeen(query_token) - begin, 0, static_cast<int>(scores.size()));
  std::fill_n(scores.begin(), hidden, 0.0f);
  ExpShifted(scores.subspan(hidden), lse);
}

namespace cpu_fast {

void Attend(const CausalAttention& problem) {
  ArrayTiles tiles(problem);
  Attend(problem, tiles);
}

void Attend(const CausalAttention& problem, KeyValueTiles& tiles) {
  KVSCOPE_CHECK_EQ(problem.head_dim_v % simd::kLanes, 0);
  for (int begin = 0; begin < problem.num_queries; begin += kQueryBlock) {
    AttendBlock(problem, begin, std::min(begin + kQueryBlock, problem.num_queries), tiles);
  }
}

}  // namespace cpu_fast
}  // namespace kvscope
