// SPDX-License-Identifier: Apache-2.0
#include "replay/weight_map.h"

#include <tbb/parallel_for_each.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "kernels/attention_tile.h"
#include "replay/head_rows.h"

namespace kvscope {
namespace {

constexpr int kQueryRows = 32;         // scored together
constexpr int kDimStep = 16;           // channels that the kernels work on at a time
constexpr size_t kBandRows = 1 << 12;  // of which there are f32 queries at a time

void RaiseTo(float& cell, float value) {
  std::atomic_ref<float> shared(cell);
  float now = shared.load(std::memory_order_relaxed);
  while (now < value && !shared.compare_exchange_weak(now, value, std::memory_order_relaxed)) {
  }
}

// Which of `count` equal parts each of the positions 0 .. size-1 lies in, with the borders that Border gives.
std::vector<int> PartOf(int size, int count) {
  std::vector<int> part(size);
  for (int i = 0; i < count; ++i) {
    const auto begin = static_cast<int>(int64_t{size} * i / count),
               end = static_cast<int>(int64_t{size} * (i + 1) / count);
    std::fill(part.begin() + begin, part.begin() + end, i);
  }
  return part;
}

}  // namespace

std::string WhyNoWeights(const LayerInfo& layer) {
  std::string why;
  if (layer.kind == "linear") {
    why = "uses linear attention, which has no weights of tokens";
  } else if (layer.sink) {
    why = "has a learned sink, which is not computed yet";
  } else if (layer.head_dim_k % kDimStep != 0) {
    why = StrCat("has ", layer.head_dim_k, " channels a head, and weights are computed for multiples of ", kDimStep);
  }
  if (why.empty()) return "";
  return StrCat("Layer ", layer.layer, " ", why, "; recorded rows can be seen: record with --level qkv+rows or rows.");
}

std::shared_ptr<const KvHeadData> ReadKvHeadForWeights(const TraceSource& source, int layer_index, int kv_head_index) {
  if (const std::string why = WhyNoWeights(source.info().layers[layer_index]); !why.empty()) throw Error(why);
  return source.ReadKvHead(layer_index, kv_head_index);
}

float WeightOfPair(const KvHeadData& data, int member, int row, int token, const AttentionRule& rule) {
  const int dim = data.head_dim_k;
  const size_t stored = static_cast<size_t>(member) * data.num_rows + row;
  std::vector<float> q(dim), k(dim);
  ReadFloats(data.q, stored * dim, q);
  ReadFloats(data.k, static_cast<size_t>(token) * dim, k);
  double product = 0;
  for (int i = 0; i < dim; ++i) product += double{q[i]} * k[i];
  return static_cast<float>(std::exp(rule.Score(product) - data.lse[stored]));
}

WeightMap::WeightMap(std::shared_ptr<const KvHeadData> data, std::span<const int> q_token, int member,
                     const AttentionRule& rule, const MapWindow& window, int rows, int columns,
                     std::span<const TokenBand> bands)
    : data_(std::move(data)),
      q_token_(q_token.begin(), q_token.end()),
      member_(member),
      rule_(rule),
      known_{window,
             std::min(rows, window.query_end - window.query_begin),
             std::min(columns, window.token_end - window.token_begin),
             {}} {
  KVSCOPE_CHECK(known_.rows > 0 && known_.columns > 0 && member_ < data_->group);
  KVSCOPE_CHECK(window.query_begin >= 0 && window.token_begin >= 0 && window.token_end <= data_->num_tokens);
  KVSCOPE_CHECK_EQ(static_cast<int>(q_token_.size()), data_->num_rows);
  known_.cells.assign(static_cast<size_t>(known_.rows) * known_.columns, kNoWeight);
  row_of_query_ = PartOf(window.query_end - window.query_begin, known_.rows);
  column_of_token_ = PartOf(window.token_end - window.token_begin, known_.columns);
  row_left_.assign(known_.rows, 0);
  is_band_column_.assign(known_.columns, false);

  std::vector<bool> is_band_row(known_.rows, false);
  for (const TokenBand& band : bands) {
    for (int token = band.token_begin; token < band.token_end; ++token) {
      if (token >= window.token_begin && token < window.token_end)
        is_band_column_[column_of_token_[token - window.token_begin]] = true;
      if (token >= window.query_begin && token < window.query_end)
        is_band_row[row_of_query_[token - window.query_begin]] = true;
    }
  }
  for (int tile = window.token_begin / kTileTokens; tile * kTileTokens < window.token_end; ++tile) {
    tiles_.push_back(tile);
    const int begin = std::max(tile * kTileTokens, window.token_begin),
              end = std::min((tile + 1) * kTileTokens, window.token_end);
    for (int token = begin; token < end; ++token) {
      if (!is_band_column_[column_of_token_[token - window.token_begin]]) continue;
      band_tiles_.push_back(tile);
      break;
    }
  }

  // The last query of each row of cells, which sees the most, every second row first; then the bands, then the others.
  std::vector<int> first, second, of_bands, others;
  for (size_t i = 0; i < q_token_.size(); ++i) {
    const int query = q_token_[i] - window.query_begin;
    if (query < 0 || q_token_[i] >= window.query_end || q_token_[i] < window.token_begin) continue;
    const int row = row_of_query_[query];
    ++row_left_[row];
    const bool is_last = i + 1 == q_token_.size() || q_token_[i + 1] >= window.query_end ||
                         row_of_query_[q_token_[i + 1] - window.query_begin] != row;
    const bool is_first_pass = row % 2 == 1 || row + 1 == known_.rows;
    (is_last ? (is_first_pass ? first : second) : is_band_row[row] ? of_bands : others).push_back(static_cast<int>(i));
  }
  first_rows_ = static_cast<int>(first.size());
  for (const auto* const part : {&first, &second, &of_bands, &others})
    order_.insert(order_.end(), part->begin(), part->end());
  for (const int left : row_left_) is_row_looked_at_.push_back(left == 0);
}

void WeightMap::Look(std::span<const int> query_rows, std::span<const int> tiles,
                     const std::atomic<bool>& is_cancelled) {
  const int dim = data_->head_dim_k, num_rows = static_cast<int>(query_rows.size());
  std::vector<float> q(static_cast<size_t>(num_rows) * dim);
  for (int i = 0; i < num_rows; ++i) {
    const size_t row = static_cast<size_t>(member_) * data_->num_rows + query_rows[i];
    ReadFloats(data_->q, row * dim, std::span(q).subspan(static_cast<size_t>(i) * dim, dim));
  }
  const auto [first_row, last_row] = std::minmax_element(query_rows.begin(), query_rows.end());
  const int first_seen = rule_.FirstSeen(q_token_[*first_row]), last_query = q_token_[*last_row];
  const MapWindow& window = known_.window;
  tbb::parallel_for_each(tiles.begin(), tiles.end(), [&](int tile) {
    const int begin = tile * kTileTokens, count = std::min(kTileTokens, data_->num_tokens - begin);
    if (begin > last_query || begin + count <= first_seen || is_cancelled) return;
    // Packed again for every call: a twentieth of the work on 256 rows, and no second copy of all keys.
    std::vector<float> panels(PanelFloats(count, dim)), scores(static_cast<size_t>(kQueryRows) * kTileTokens);
    PackKeyPanels(data_->k.At(static_cast<size_t>(begin) * dim), data_->k.dtype(), count, dim, panels.data());
    for (int first = 0; first < num_rows; first += kQueryRows) {
      const int some = std::min(kQueryRows, num_rows - first);
      const auto block = query_rows.subspan(first, some);
      const auto [oldest, newest] = std::minmax_element(block.begin(), block.end());
      if (q_token_[*newest] < begin || rule_.FirstSeen(q_token_[*oldest]) >= begin + count) continue;
      ScoreTile(&q[static_cast<size_t>(first) * dim], dim, some, panels.data(), count, dim, rule_, scores.data(),
                kTileTokens);
      for (int i = 0; i < some; ++i) {
        const int stored = query_rows[first + i], query = q_token_[stored];
        const int hidden = std::max(0, rule_.FirstSeen(query) - begin), seen = std::min(count, query - begin + 1);
        if (hidden >= seen) continue;
        const std::span<float> weights(&scores[static_cast<size_t>(i) * kTileTokens], seen);
        ExpShifted(weights.subspan(hidden), data_->lse[static_cast<size_t>(member_) * data_->num_rows + stored]);
        float* const cells =
            &known_.cells[static_cast<size_t>(row_of_query_[query - window.query_begin]) * known_.columns];
        const int skip = std::max(hidden, window.token_begin - begin), end = std::min(seen, window.token_end - begin);
        for (int token = skip; token < end;) {
          const int column = column_of_token_[begin + token - window.token_begin];
          float highest = 0;
          for (; token < end && column_of_token_[begin + token - window.token_begin] == column; ++token)
            highest = std::max(highest, weights[token]);
          RaiseTo(cells[column], highest);
        }
      }
    }
  });
}

bool WeightMap::Refine(int max_rows, const std::atomic<bool>& is_cancelled) {
  if (next_ == order_.size()) return false;
  const size_t count = std::min(order_.size() - next_, static_cast<size_t>(std::max(1, max_rows)));
  const std::span<const int> batch = std::span(order_).subspan(next_, count);
  Look(batch, tiles_, is_cancelled);
  if (!are_bands_done_ && !is_cancelled) {
    for (size_t first = 0; first < order_.size() && !band_tiles_.empty(); first += kBandRows)
      Look(std::span(order_).subspan(first, std::min(kBandRows, order_.size() - first)), band_tiles_, is_cancelled);
    are_bands_done_ = !is_cancelled;
  }
  if (is_cancelled) return true;
  for (const int stored : batch) {
    const int row = row_of_query_[q_token_[stored] - known_.window.query_begin];
    --row_left_[row];
    is_row_looked_at_[row] = true;
  }
  next_ += count;
  return next_ < order_.size();
}

}  // namespace kvscope
