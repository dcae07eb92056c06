// SPDX-License-Identifier: Apache-2.0
// Key tile by key tile, query block by query block: scores by the shared micro-kernel, weights in registers, every
// statistic from the same weights. Sums are f32 per block of queries, then added to f32 totals in ascending order.
#include <tbb/parallel_for.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/half.h"
#include "kernels/attention_tile.h"
#include "kernels/column_stats.h"
#include "kernels/simd.h"

namespace kvscope::cpu_fast {
namespace {

constexpr int kQueryBlock = 64;

// First row (index into q_token) at or after a token.
int RowOfToken(const ColumnStatsProblem& p, int token) {
  return static_cast<int>(std::lower_bound(p.q_token.begin(), p.q_token.end(), token) - p.q_token.begin());
}

struct Pass {
  const ColumnStatsProblem& p;
  std::span<const StatisticSpec> specs;
  std::span<std::vector<float>> out;
  int num_rows = 0;                            // rows before row_end
  int first_row = 0;                           // first row that any spec needs
  std::vector<int> spec_first_row;             // [spec] first row that it looks at
  std::vector<int> spec_end_row;               // [spec] and the one after its last
  std::vector<std::vector<float>> row_factor;  // [spec][row], kGeometric only
};

void LoadQueries(const Pass& pass, int row_begin, int rows, float* q) {
  const ColumnStatsProblem& p = pass.p;
  for (int head = 0; head < p.group; ++head) {
    const int64_t first = (static_cast<int64_t>(head) * p.num_rows + row_begin) * p.head_dim;
    const size_t count = static_cast<size_t>(rows) * p.head_dim;
    float* target = q + head * static_cast<int64_t>(rows) * p.head_dim;
    if (p.dtype == DType::kF16) {
      FloatsFromHalves({static_cast<const Half*>(p.q) + first, count}, {target, count});
    } else {
      std::copy_n(static_cast<const float*>(p.q) + first, count, target);
    }
  }
}

// Adds one row of weights to the partial result of one spec. visible: tokens of the tile at or before the query.
void AddRow(const StatisticSpec& spec, const float* weights, int visible, float factor, float* partial) {
  const int count = visible - spec.min_distance;
  for (int i = 0; i < count; i += simd::kLanes) {
    simd::Floats weight = simd::Load(weights + i);
    if (count - i < simd::kLanes) weight = simd::KeepFirst(weight, count - i, 0.0f);
    const simd::Floats sum = simd::Load(partial + i);
    simd::Floats next;
    switch (spec.kind) {
      case StatisticSpec::Kind::kSum:
        next = simd::Add(sum, weight);
        break;
      case StatisticSpec::Kind::kSumSquares:
        next = simd::Fma(weight, weight, sum);
        break;
      case StatisticSpec::Kind::kMax:
        next = simd::Max(sum, weight);
        break;
      case StatisticSpec::Kind::kGeometric:
        next = simd::Fma(weight, simd::Broadcast(factor), sum);
        break;
    }
    simd::Store(partial + i, next);
  }
}

// All rows over the tokens [tile, tile + kTileTokens).
void RunTile(const Pass& pass, int tile) {
  const ColumnStatsProblem& p = pass.p;
  const int count = std::min(kTileTokens, p.row_end - tile);
  const int num_specs = static_cast<int>(pass.specs.size());
  std::vector<float> panels(PanelFloats(kTileTokens, p.head_dim));
  PackKeyPanels(static_cast<const std::byte*>(p.k) + static_cast<int64_t>(tile) * p.head_dim * ElementBytes(p.dtype),
                p.dtype, count, p.head_dim, panels.data());
  const int64_t max_rows = static_cast<int64_t>(p.group) * kQueryBlock;
  std::vector<float> q(max_rows * p.head_dim), scores(max_rows * kTileTokens);
  std::vector<float> partial(static_cast<size_t>(num_specs) * kTileTokens),
      total(static_cast<size_t>(num_specs) * p.group * kTileTokens, 0.0f);

  const int first_visible = static_cast<int>(
      std::lower_bound(p.q_token.begin(), p.q_token.begin() + pass.num_rows, tile) - p.q_token.begin());
  int row_begin = std::max(pass.first_row, first_visible) / kQueryBlock * kQueryBlock;
  for (; row_begin < pass.num_rows; row_begin += kQueryBlock) {
    const int rows = std::min(kQueryBlock, pass.num_rows - row_begin);
    LoadQueries(pass, row_begin, rows, q.data());
    const int tile_visible = std::min(count, p.q_token[row_begin + rows - 1] - tile + 1);
    if (tile_visible <= 0) continue;
    ScoreTile(q.data(), p.head_dim, p.group * rows, panels.data(), tile_visible, p.head_dim, p.scale, scores.data(),
              kTileTokens);
    for (int head = 0; head < p.group; ++head) {
      std::fill(partial.begin(), partial.end(), 0.0f);
      for (int row = 0; row < rows; ++row) {
        const int visible = std::min(count, p.q_token[row_begin + row] - tile + 1);
        if (visible <= 0) continue;
        float* weights = &scores[(static_cast<int64_t>(head) * rows + row) * kTileTokens];
        const int padded = (visible + simd::kLanes - 1) / simd::kLanes * simd::kLanes;
        ExpShifted({weights, static_cast<size_t>(padded)},
                   p.lse[static_cast<int64_t>(head) * p.num_rows + row_begin + row]);
        for (int s = 0; s < num_specs; ++s) {
          if (row_begin + row < pass.spec_first_row[s] || row_begin + row >= pass.spec_end_row[s]) continue;
          const float factor = pass.row_factor[s].empty() ? 1.0f : pass.row_factor[s][row_begin + row];
          // min_distance shifts which tokens this row may touch: token <= query - min_distance.
          const int reach = std::min(count + pass.specs[s].min_distance, p.q_token[row_begin + row] - tile + 1);
          AddRow(pass.specs[s], weights, reach, factor, &partial[static_cast<size_t>(s) * kTileTokens]);
        }
      }
      for (int s = 0; s < num_specs; ++s) {
        const bool is_max = pass.specs[s].kind == StatisticSpec::Kind::kMax;
        float* sums = &total[(static_cast<size_t>(s) * p.group + head) * kTileTokens];
        const float* added = &partial[static_cast<size_t>(s) * kTileTokens];
        for (int i = 0; i < kTileTokens; ++i) sums[i] = is_max ? std::max(sums[i], added[i]) : sums[i] + added[i];
      }
    }
  }
  for (int s = 0; s < num_specs; ++s) {
    for (int head = 0; head < p.group; ++head) {
      std::copy_n(&total[(static_cast<size_t>(s) * p.group + head) * kTileTokens], count,
                  &pass.out[s][static_cast<size_t>(head) * p.row_end + tile]);
    }
  }
}

}  // namespace

void ColumnStats(const ColumnStatsProblem& p, std::span<const StatisticSpec> specs, std::span<std::vector<float>> out) {
  KVSCOPE_CHECK_EQ(specs.size(), out.size());
  KVSCOPE_CHECK_LE(p.row_end, p.num_tokens);
  if (specs.empty()) return;
  Pass pass{p, specs, out, 0, 0, {}, {}, {}};
  pass.num_rows = RowOfToken(p, p.row_end);
  pass.first_row = pass.num_rows;
  pass.row_factor.resize(specs.size());
  for (size_t s = 0; s < specs.size(); ++s) {
    out[s].assign(static_cast<size_t>(p.group) * p.row_end, 0.0f);
    const int row_end = p.row_end - specs[s].skip_rows;
    pass.spec_first_row.push_back(specs[s].last_rows > 0 ? RowOfToken(p, row_end - specs[s].last_rows) : 0);
    pass.spec_end_row.push_back(RowOfToken(p, row_end));
    pass.first_row = std::min(pass.first_row, pass.spec_first_row[s]);
    if (specs[s].kind != StatisticSpec::Kind::kGeometric) continue;
    const double alpha = 1 - std::exp2(-1 / specs[s].half_life);
    for (int row = 0; row < pass.spec_end_row[s]; ++row) {
      pass.row_factor[s].push_back(static_cast<float>(alpha * std::pow(1 - alpha, row_end - 1 - p.q_token[row])));
    }
  }
  const int num_tiles = (p.row_end + kTileTokens - 1) / kTileTokens;
  tbb::parallel_for(0, num_tiles, [&](int tile) { RunTile(pass, tile * kTileTokens); });
}

}  // namespace kvscope::cpu_fast
