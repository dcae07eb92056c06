// SPDX-License-Identifier: Apache-2.0
// Key tile by key tile, query block by query block, but for blocks that see nothing of a tile: products by the shared
// micro-kernel, then 32 tokens at a time down the rows of the block, so that every statistic is one operation per
// weight and its sum stays in a register. Sums are f32 per block of queries, then added to f32 totals in ascending
// order.
#include <tbb/parallel_for.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/half.h"
#include "kernels/attention_tile.h"
#include "kernels/column_stats.h"
#include "kernels/panel.h"
#include "kernels/soft_cap.h"

namespace kvscope::cpu_fast {
namespace {

constexpr int kQueryBlock = 32;
constexpr int kTile = 2 * kTileTokens;  // tokens of a task: large, since queries are converted once per tile

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

// Weights of one head's block of rows over the 32 tokens of a panel: two vectors, so that two chains of sums overlap.
struct Column {
  // [row]; those of tokens after the query mean nothing, those of tokens that left its window are 0.
  simd::Floats low[kQueryBlock], high[kQueryBlock];
  const int* query = nullptr;  // [row] query tokens, ascending
  int token = 0;               // the first of the 32
};

// Fills the weights of `rows` rows from products [row, kTile] by the same operations as ScoreTile and ExpShifted.
template <bool kIsCapped>
void WeighColumn(const AttentionRule& rule, const float* products, const float* lse, int rows, Column& column) {
  const simd::Floats scale = simd::Broadcast(rule.scale);
  const SoftCap cap(kIsCapped ? rule.softcap : 1.0f);
  for (int row = 0; row < rows; ++row, products += kTile) {
    const int hidden = rule.FirstSeen(column.query[row]) - column.token;
    if (hidden >= kPanelTokens) {
      column.low[row] = column.high[row] = simd::Zero();
      continue;
    }
    const simd::Floats shift = simd::Broadcast(lse[row]);
    const auto weigh = [&](const float* product) {
      simd::Floats score = simd::Mul(simd::Load(product), scale);
      if constexpr (kIsCapped) score = cap(score);
      return simd::Exp(simd::Sub(score, shift));
    };
    column.low[row] = weigh(products);
    column.high[row] = weigh(products + simd::kLanes);
    if (hidden <= 0) continue;
    column.low[row] = simd::KeepFrom(column.low[row], hidden, 0.0f);
    column.high[row] = simd::KeepFrom(column.high[row], hidden - simd::kLanes, 0.0f);
  }
}

template <StatisticSpec::Kind kKind>
simd::Floats Combine(simd::Floats sum, simd::Floats weight, simd::Floats factor) {
  if constexpr (kKind == StatisticSpec::Kind::kSum) return simd::Add(sum, weight);
  if constexpr (kKind == StatisticSpec::Kind::kSumSquares) return simd::Fma(weight, weight, sum);
  if constexpr (kKind == StatisticSpec::Kind::kMax) return simd::Max(sum, weight);
  return simd::Fma(weight, factor, sum);
}

// Adds rows [begin, end) of a column to the totals of its 32 tokens. factor: [row], kGeometric only.
template <StatisticSpec::Kind kKind>
void AddRows(const Column& column, int begin, int end, int min_distance, const float* factor, float* totals) {
  simd::Floats low = simd::Zero(), high = simd::Zero(), row_factor = simd::Zero();
  int row = begin;
  for (; row < end; ++row) {  // the query is near: it sees a part of the 32 tokens
    const int count = column.query[row] - min_distance - column.token + 1;
    if (count >= kPanelTokens) break;
    if constexpr (kKind == StatisticSpec::Kind::kGeometric) row_factor = simd::Broadcast(factor[row]);
    low = Combine<kKind>(low, simd::KeepFirst(column.low[row], count, 0.0f), row_factor);
    high = Combine<kKind>(high, simd::KeepFirst(column.high[row], count - simd::kLanes, 0.0f), row_factor);
  }
  for (; row < end; ++row) {
    if constexpr (kKind == StatisticSpec::Kind::kGeometric) row_factor = simd::Broadcast(factor[row]);
    low = Combine<kKind>(low, column.low[row], row_factor);
    high = Combine<kKind>(high, column.high[row], row_factor);
  }
  const auto total = [](simd::Floats sum, simd::Floats added) {
    return kKind == StatisticSpec::Kind::kMax ? simd::Max(sum, added) : simd::Add(sum, added);
  };
  simd::Store(totals, total(simd::Load(totals), low));
  simd::Store(totals + simd::kLanes, total(simd::Load(totals + simd::kLanes), high));
}

// Adds rows [row_begin, row_begin + rows) of a column to the totals of every statistic; totals: spec after spec,
// `stride` floats apart.
void AddColumn(const Pass& pass, const Column& column, int row_begin, int rows, float* totals, int64_t stride) {
  using Kind = StatisticSpec::Kind;
  for (size_t s = 0; s < pass.specs.size(); ++s, totals += stride) {
    const StatisticSpec& spec = pass.specs[s];
    const int begin = std::max(0, pass.spec_first_row[s] - row_begin);
    const int end = std::min(rows, pass.spec_end_row[s] - row_begin), distance = spec.min_distance;
    if (begin >= end) continue;
    const float* factor = spec.kind == Kind::kGeometric ? &pass.row_factor[s][row_begin] : nullptr;
    if (spec.kind == Kind::kSum) AddRows<Kind::kSum>(column, begin, end, distance, nullptr, totals);
    if (spec.kind == Kind::kSumSquares) AddRows<Kind::kSumSquares>(column, begin, end, distance, nullptr, totals);
    if (spec.kind == Kind::kMax) AddRows<Kind::kMax>(column, begin, end, distance, nullptr, totals);
    if (spec.kind == Kind::kGeometric) AddRows<Kind::kGeometric>(column, begin, end, distance, factor, totals);
  }
}

// Scratch of one thread; grows to the largest problem it met.
struct Scratch {
  std::vector<float> panels, q, products, totals;
};

// All rows over the tokens [tile, tile + kTile).
void RunTile(const Pass& pass, int tile) {
  const ColumnStatsProblem& p = pass.p;
  const int count = std::min(kTile, p.row_end - tile);
  const int first_visible = static_cast<int>(
      std::lower_bound(p.q_token.begin(), p.q_token.begin() + pass.num_rows, tile) - p.q_token.begin());
  int row_begin = std::max(pass.first_row, first_visible) / kQueryBlock * kQueryBlock;
  if (row_begin >= pass.num_rows || p.rule.FirstSeen(p.q_token[row_begin]) >= tile + count) return;
  const int num_specs = static_cast<int>(pass.specs.size());
  thread_local Scratch s;
  s.panels.resize(PanelFloats(kTile, p.head_dim));
  PackKeyPanels(static_cast<const std::byte*>(p.k) + static_cast<int64_t>(tile) * p.head_dim * ElementBytes(p.dtype),
                p.dtype, count, p.head_dim, s.panels.data());
  const int64_t max_rows = static_cast<int64_t>(p.group) * kQueryBlock, head_totals = int64_t{num_specs} * kTile;
  s.q.resize(max_rows * p.head_dim);
  s.products.resize(max_rows * kTile);
  s.totals.assign(p.group * head_totals, 0.0f);

  const auto weigh = p.rule.softcap > 0 ? WeighColumn<true> : WeighColumn<false>;
  Column column;
  for (; row_begin < pass.num_rows; row_begin += kQueryBlock) {
    const int rows = std::min(kQueryBlock, pass.num_rows - row_begin);
    const int tile_visible = std::min(count, p.q_token[row_begin + rows - 1] - tile + 1);
    if (tile_visible <= 0) continue;
    // The panel of the first token that any of the rows sees.
    const int tile_seen = std::max(0, p.rule.FirstSeen(p.q_token[row_begin]) - tile) / kPanelTokens * kPanelTokens;
    if (tile_seen >= count) break;
    LoadQueries(pass, row_begin, rows, s.q.data());
    for (int begin = tile_seen; begin < tile_visible; begin += kPanelTokens) {
      panel::MultiplyRows(s.q.data(), p.head_dim, p.group * rows, &s.panels[int64_t{begin} * p.head_dim], kPanelTokens,
                          p.head_dim, /*accumulate=*/false, &s.products[begin], kTile);
    }
    column.query = &p.q_token[row_begin];
    for (int head = 0; head < p.group; ++head) {
      const float* products = &s.products[static_cast<int64_t>(head) * rows * kTile];
      const float* lse = &p.lse[static_cast<int64_t>(head) * p.num_rows + row_begin];
      for (int begin = tile_seen; begin < tile_visible; begin += kPanelTokens) {
        column.token = tile + begin;
        weigh(p.rule, products + begin, lse, rows, column);
        AddColumn(pass, column, row_begin, rows, &s.totals[head * head_totals + begin], kTile);
      }
    }
  }
  for (int spec = 0; spec < num_specs; ++spec) {
    for (int head = 0; head < p.group; ++head) {
      std::copy_n(&s.totals[head * head_totals + int64_t{spec} * kTile], count,
                  &pass.out[spec][static_cast<size_t>(head) * p.row_end + tile]);
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
  pass.row_factor.resize(specs.size());
  for (size_t s = 0; s < specs.size(); ++s) {
    out[s].assign(static_cast<size_t>(p.group) * p.row_end, 0.0f);
    const int row_end = p.row_end - specs[s].skip_rows;
    pass.spec_first_row.push_back(specs[s].last_rows > 0 ? RowOfToken(p, row_end - specs[s].last_rows) : 0);
    pass.spec_end_row.push_back(RowOfToken(p, row_end));
    if (specs[s].kind != StatisticSpec::Kind::kGeometric) continue;
    // Rows older than 24 half-lives weigh less than a float's rounding of the rows since: they are left out, so that
    // the average costs the same number of rows at any length.
    const double oldest = row_end - 1 - 24 * specs[s].half_life;
    if (oldest > 0) pass.spec_first_row[s] = std::max(pass.spec_first_row[s], RowOfToken(p, static_cast<int>(oldest)));
    const double alpha = 1 - std::exp2(-1 / specs[s].half_life);
    for (int row = 0; row < pass.spec_end_row[s]; ++row) {
      pass.row_factor[s].push_back(static_cast<float>(alpha * std::pow(1 - alpha, row_end - 1 - p.q_token[row])));
    }
  }
  pass.first_row = *std::min_element(pass.spec_first_row.begin(), pass.spec_first_row.end());
  const int num_tiles = (p.row_end + kTile - 1) / kTile;
  tbb::parallel_for(0, num_tiles, [&](int tile) { RunTile(pass, tile * kTile); });
}

}  // namespace kvscope::cpu_fast
