// SPDX-License-Identifier: Apache-2.0
// A head's attention weights as a picture that comes progressively: cells over a window of query tokens and tokens,
// each the largest weight that fell into it, so that a needle of a few tokens stays visible in a map of any length. The
// first pass looks at one query of every second row of cells and at everything in the bands that were asked for; the
// rest follows. The n x n matrix of weights never exists, and neither do unpacked keys: a tile of them at a time and
// thread, so that a map of 1024 x 2048 cells costs 8.4 MB beside the head's own data, however long the head is.
#pragma once

#include <atomic>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/trace.h"
#include "kernels/attention_rule.h"

namespace kvscope {

// Half-open ranges of absolute tokens.
struct MapWindow {
  int query_begin = 0, query_end = 0, token_begin = 0, token_end = 0;
  friend bool operator==(const MapWindow&, const MapWindow&) = default;
};
struct TokenBand {
  int token_begin = 0, token_end = 0;
  friend bool operator==(const TokenBand&, const TokenBand&) = default;
};

// Why a layer's weights cannot be computed from its q, k and lse, in a sentence; empty: they can.
std::string WhyNoWeights(const LayerInfo& layer);
// Throws Error with that sentence, or as TraceSource does.
std::shared_ptr<const KvHeadData> ReadKvHeadForWeights(const TraceSource& source, int layer_index, int kv_head_index);

// Of stored row `row` of a query head and a token that it sees.
float WeightOfPair(const KvHeadData& data, int member, int row, int token, const AttentionRule& rule);

// [rows, columns], the largest weight of each cell; kNoWeight where no stored query sees a token.
struct WeightCells {
  MapWindow window;
  int rows = 0, columns = 0;
  std::vector<float> cells;

  static constexpr float kNoWeight = -1;
  int QueryBegin(int row) const { return Border(window.query_begin, window.query_end, row, rows); }
  int TokenBegin(int column) const { return Border(window.token_begin, window.token_end, column, columns); }
  friend bool operator==(const WeightCells&, const WeightCells&) = default;

 private:
  static int Border(int begin, int end, int index, int count) {
    return begin + static_cast<int>(int64_t{end - begin} * index / count);
  }
};

class WeightMap {
 public:
  // Query head `member` of the KV head's group; q_token are the tokens of its stored rows, ascending. At most `rows`
  // and `columns` cells; never more than the window has queries and tokens.
  WeightMap(std::shared_ptr<const KvHeadData> data, std::span<const int> q_token, int member, const AttentionRule& rule,
            const MapWindow& window, int rows, int columns, std::span<const TokenBand> bands);

  // Looks at the next query rows, at least one and about max_rows, on all threads. Returns false when nothing is left.
  // After is_cancelled became true it returns soon, and what was begun counts as not looked at.
  bool Refine(int max_rows, const std::atomic<bool>& is_cancelled);

  int rows() const { return known_.rows; }
  int columns() const { return known_.columns; }
  const MapWindow& window() const { return known_.window; }
  const WeightCells& known() const { return known_; }
  const std::vector<float>& cells() const { return known_.cells; }
  // All its pairs were looked at; until then a cell says that its weight is at least this.
  bool IsExact(int row, int column) const {
    return row_left_[row] == 0 || (is_band_column_[column] && are_bands_done_);
  }
  bool is_exact() const { return next_ == order_.size(); }
  // The row to show in its place: itself, or before any of its queries was looked at the next one.
  int ShownRow(int row) const { return is_row_looked_at_[row] || row + 1 == rows() ? row : row + 1; }
  double progress() const {
    return order_.empty() ? 1 : static_cast<double>(next_) / static_cast<double>(order_.size());
  }

  int QueryBegin(int row) const { return known_.QueryBegin(row); }
  int TokenBegin(int column) const { return known_.TokenBegin(column); }
  // Rows of the first pass: that many for Refine give a first picture.
  int first_rows() const { return first_rows_; }

  static constexpr float kNoWeight = WeightCells::kNoWeight;

 private:
  // Pools the weights of query rows (indices of stored rows) over the tokens of `tiles`.
  void Look(std::span<const int> query_rows, std::span<const int> tiles, const std::atomic<bool>& is_cancelled);

  std::shared_ptr<const KvHeadData> data_;
  std::vector<int> q_token_;
  int member_;
  AttentionRule rule_;
  WeightCells known_;
  std::vector<int> row_of_query_;     // [query in window]
  std::vector<int> column_of_token_;  // [token in window]
  std::vector<int> order_;            // stored rows, in the order of looking
  size_t next_ = 0;                   // of order_
  int first_rows_ = 0;
  std::vector<int> row_left_;           // [row] stored rows not looked at
  std::vector<bool> is_row_looked_at_;  // [row] one of them was, or there are none
  std::vector<bool> is_band_column_;    // [column]
  bool are_bands_done_ = false;
  std::vector<int> tiles_, band_tiles_;  // of the window; those with a column of a band
};

}  // namespace kvscope
