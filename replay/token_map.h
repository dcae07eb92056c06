// SPDX-License-Identifier: Apache-2.0
// What each token receives, a row for a layer or for a decode step: rows of attention weights, reduced in the order of
// their queries. A query gives the tokens that it does not see nothing, and that counts in the mean.
#pragma once

#include <atomic>
#include <span>
#include <vector>

#include "core/trace.h"
#include "replay/weight_map.h"

namespace kvscope {

enum class RowReduction { kMax, kMean, kSum, kEma, kNone };
inline constexpr const char* kRowReductionNames[] = {"max", "mean", "sum", "ema", "none"};
inline constexpr double kEmaDecay = 0.9;  // ema = decay * ema + (1 - decay) * weight, begun with the first row

// Rows so far, token by token. kNone keeps the last row.
class RowReducer {
 public:
  RowReducer(RowReduction reduction, int num_tokens) : reduction_(reduction), state_(num_tokens) {}
  // The next row's weights of the first tokens; those after get nothing from it.
  void Add(std::span<const float> weights);
  float ValueOf(int token) const;

 private:
  RowReduction reduction_;
  int num_rows_ = 0;
  std::vector<double> state_;  // [token]
};

// Stored rows of query heads that share a KV head.
struct RowChoice {
  const KvHeadData& data;
  std::span<const int> q_token;  // of every stored row, ascending
  AttentionRule rule{};
  std::span<const int> members;  // query heads of the group
  std::span<const int> rows;     // of those stored, ascending
};

// More than kMostRows rows are too many for every head of a model: as many, spread evenly, then stand for all.
inline constexpr int kMostRows = 2048;
// The rows whose queries lie in `askers`, or all when there are no askers; at most kMostRows.
std::vector<int> ChooseRows(std::span<const int> row_token, std::span<const TokenBand> askers);

// [members, num_tokens]; zeros without rows; empty when cancelled. On all threads, the same at any number of them.
std::vector<float> ReduceRows(const RowChoice& choice, RowReduction reduction, const std::atomic<bool>& is_cancelled);
// Of recorded rows: [num_tokens].
std::vector<float> ReduceRows(const RecordedRows& recorded, std::span<const int> rows, RowReduction reduction);
// Of column statistics, over all their rows: [num_tokens]. They know the maximum, the mean and the sum.
std::vector<float> ReduceRows(const ColumnStatistics& columns, int head_index, RowReduction reduction);

// What is known after each row, [token] up to the query of the newest; WeightMap::kNoWeight for what no row has seen so
// far (kNone: no row of the line). Rows [i * rows_per_line, ...) share line i: the largest value of each token. Of the
// first member; empty when cancelled.
using TokenLines = std::vector<std::vector<float>>;
TokenLines RunningLines(const RowChoice& choice, RowReduction reduction, int rows_per_line,
                        const std::atomic<bool>& is_cancelled);
TokenLines RunningLines(const RecordedRows& recorded, const AttentionRule& rule, RowReduction reduction,
                        int rows_per_line);
// Makes kNoWeight of the values [token] of what none of these queries (ascending) sees.
void HideUnseen(std::span<const int> queries, const AttentionRule& rule, std::span<float> values);

}  // namespace kvscope
