// SPDX-License-Identifier: Apache-2.0
#include "replay/token_map.h"

#include <tbb/parallel_for.h>

#include <algorithm>

#include "core/error.h"
#include "core/half.h"
#include "kernels/attention_tile.h"
#include "replay/head_rows.h"

namespace kvscope {
namespace {

constexpr int kQueryRows = 32;  // scored together

// Calls see(member's place, row's place, tokens before the tile, weights of the tile's tokens up to the row's query, 0
// outside its window) for one tile, member by member and row by row.
template <typename See>
void VisitTile(const RowChoice& choice, int tile, const See& see) {
  const KvHeadData& data = choice.data;
  const int dim = data.head_dim_k, begin = tile * kTileTokens, count = std::min(kTileTokens, data.num_tokens - begin);
  std::vector<float> panels(PanelFloats(count, dim)), q(static_cast<size_t>(kQueryRows) * dim);
  std::vector<float> scores(static_cast<size_t>(kQueryRows) * kTileTokens);
  PackKeyPanels(data.k.At(static_cast<size_t>(begin) * dim), data.k.dtype(), count, dim, panels.data());
  const int num_rows = static_cast<int>(choice.rows.size());
  for (size_t place = 0; place < choice.members.size(); ++place) {
    for (int first = 0; first < num_rows; first += kQueryRows) {
      const int some = std::min(kQueryRows, num_rows - first);
      for (int i = 0; i < some; ++i) {
        const size_t stored = static_cast<size_t>(choice.members[place]) * data.num_rows + choice.rows[first + i];
        ReadFloats(data.q, stored * dim, std::span(q).subspan(static_cast<size_t>(i) * dim, dim));
      }
      ScoreTile(q.data(), dim, some, panels.data(), count, dim, choice.rule, scores.data(), kTileTokens);
      for (int i = 0; i < some; ++i) {
        const int row = choice.rows[first + i], seen = std::clamp(choice.q_token[row] + 1 - begin, 0, count);
        const std::span<float> weights(&scores[static_cast<size_t>(i) * kTileTokens], seen);
        WeightsFromScores(weights, begin, choice.q_token[row], choice.rule,
                          data.lse[static_cast<size_t>(choice.members[place]) * data.num_rows + row]);
        see(static_cast<int>(place), first + i, begin, weights);
      }
    }
  }
}

int NumTiles(const RowChoice& choice) {
  return (choice.data.num_tokens + kTileTokens - 1) / kTileTokens;
}

// Lines that nobody has seen, each as long as the newest of its rows sees.
template <typename TokenOfRow>
TokenLines EmptyLines(int num_rows, int rows_per_line, int num_tokens, const TokenOfRow& token_of_row) {
  KVSCOPE_CHECK(rows_per_line > 0);
  TokenLines lines((num_rows + rows_per_line - 1) / rows_per_line);
  for (int row = 0; row < num_rows; ++row)
    lines[row / rows_per_line].assign(std::min(num_tokens, token_of_row(row) + 1), WeightMap::kNoWeight);
  return lines;
}

// The first token of which something is known after the row of `query`.
int FirstKnown(const AttentionRule& rule, RowReduction reduction, int first_query, int query) {
  return rule.FirstSeen(reduction == RowReduction::kNone ? query : first_query);
}

// The reducer knows the tokens from `begin` on; those before first_known are left out.
void RaiseLine(const RowReducer& reducer, int begin, int num_tokens, int first_known, std::vector<float>& line) {
  const int end = std::min(begin + num_tokens, static_cast<int>(line.size()));
  for (int token = std::max(begin, first_known); token < end; ++token)
    line[token] = std::max(line[token], reducer.ValueOf(token - begin));
}

// Weights of a recorded row, up to its query.
void ReadRow(const RecordedRows& recorded, int row, std::vector<float>& weights) {
  weights.resize(std::min(recorded.num_tokens, recorded.row_token[row] + 1));
  FloatsFromHalves(std::span(recorded.weights).subspan(size_t(row) * recorded.num_tokens, weights.size()), weights);
}

}  // namespace

void RowReducer::Add(std::span<const float> weights) {
  KVSCOPE_CHECK_LE(weights.size(), state_.size());
  // kMean and kSum add up; kEma forgets a little, kNone everything. Both begin with the first row.
  const bool adds = reduction_ == RowReduction::kMean || reduction_ == RowReduction::kSum;
  const bool begins = num_rows_ == 0 || reduction_ == RowReduction::kNone;
  const double keep = adds ? 1 : begins ? 0 : kEmaDecay, take = adds || begins ? 1 : 1 - kEmaDecay;
  ++num_rows_;
  if (reduction_ == RowReduction::kMax) {
    for (size_t token = 0; token < weights.size(); ++token)
      state_[token] = std::max(state_[token], double{weights[token]});
    return;
  }
  for (size_t token = 0; token < weights.size(); ++token) state_[token] = keep * state_[token] + take * weights[token];
  for (size_t token = weights.size(); token < state_.size(); ++token) state_[token] *= keep;
}

float RowReducer::ValueOf(int token) const {
  const double state = state_[token];
  return static_cast<float>(reduction_ == RowReduction::kMean && num_rows_ > 0 ? state / num_rows_ : state);
}

std::vector<int> ChooseRows(std::span<const int> row_token, std::span<const TokenBand> askers) {
  std::vector<int> rows;
  for (size_t row = 0; row < row_token.size(); ++row) {
    const int token = row_token[row];
    if (askers.empty() || std::ranges::any_of(askers, [token](const TokenBand& band) {
          return token >= band.token_begin && token < band.token_end;
        })) {
      rows.push_back(static_cast<int>(row));
    }
  }
  const auto found = static_cast<int64_t>(rows.size());
  if (found <= kMostRows) return rows;
  // The last row of each of kMostRows equal parts.
  for (int64_t i = 0; i < kMostRows; ++i) rows[i] = rows[found * (i + 1) / kMostRows - 1];
  rows.resize(kMostRows);
  return rows;
}

std::vector<float> ReduceRows(const RowChoice& choice, RowReduction reduction, const std::atomic<bool>& is_cancelled) {
  const size_t tokens = choice.data.num_tokens, num_members = choice.members.size();
  std::vector<float> reduced(num_members * tokens);
  if (choice.rows.empty()) return reduced;
  tbb::parallel_for(0, NumTiles(choice), [&](int tile) {
    if (is_cancelled) return;
    std::vector<RowReducer> reducers(num_members, RowReducer(reduction, kTileTokens));
    VisitTile(choice, tile,
              [&](int member, int, int, std::span<const float> weights) { reducers[member].Add(weights); });
    const size_t begin = size_t(tile) * kTileTokens, end = std::min(tokens, begin + kTileTokens);
    for (size_t member = 0; member < num_members; ++member) {
      for (size_t token = begin; token < end; ++token)
        reduced[member * tokens + token] = reducers[member].ValueOf(static_cast<int>(token - begin));
    }
  });
  if (is_cancelled) return {};
  return reduced;
}

std::vector<float> ReduceRows(const RecordedRows& recorded, std::span<const int> rows, RowReduction reduction) {
  RowReducer reducer(reduction, recorded.num_tokens);
  std::vector<float> weights, reduced(recorded.num_tokens);
  for (const int row : rows) {
    ReadRow(recorded, row, weights);
    reducer.Add(weights);
  }
  for (int token = 0; token < recorded.num_tokens; ++token) reduced[token] = reducer.ValueOf(token);
  return reduced;
}

std::vector<float> ReduceRows(const ColumnStatistics& columns, int head_index, RowReduction reduction) {
  KVSCOPE_CHECK(reduction == RowReduction::kMax || reduction == RowReduction::kMean || reduction == RowReduction::kSum);
  const std::vector<float>& from = reduction == RowReduction::kMax ? columns.max : columns.sum;
  const auto begin = from.begin() + int64_t{head_index} * columns.num_tokens;
  std::vector<float> reduced(begin, begin + columns.num_tokens);
  if (reduction == RowReduction::kMean) {
    for (float& value : reduced) value /= static_cast<float>(std::max(1, columns.num_rows));
  }
  return reduced;
}

TokenLines RunningLines(const RowChoice& choice, RowReduction reduction, int rows_per_line,
                        const std::atomic<bool>& is_cancelled) {
  const int tokens = choice.data.num_tokens;
  TokenLines lines = EmptyLines(static_cast<int>(choice.rows.size()), rows_per_line, tokens,
                                [&](int row) { return choice.q_token[choice.rows[row]]; });
  RowChoice first = choice;
  first.members = choice.members.first(1);
  // Threads share lines, but not their tokens.
  tbb::parallel_for(0, NumTiles(choice), [&](int tile) {
    if (is_cancelled) return;
    RowReducer reducer(reduction, kTileTokens);
    VisitTile(first, tile, [&](int, int row, int begin, std::span<const float> weights) {
      reducer.Add(weights);
      const int first_known =
          FirstKnown(choice.rule, reduction, choice.q_token[choice.rows[0]], choice.q_token[choice.rows[row]]);
      RaiseLine(reducer, begin, kTileTokens, first_known, lines[row / rows_per_line]);
    });
  });
  if (is_cancelled) return {};
  return lines;
}

TokenLines RunningLines(const RecordedRows& recorded, const AttentionRule& rule, RowReduction reduction,
                        int rows_per_line) {
  TokenLines lines = EmptyLines(recorded.num_steps, rows_per_line, recorded.num_tokens,
                                [&](int row) { return recorded.row_token[row]; });
  RowReducer reducer(reduction, recorded.num_tokens);
  std::vector<float> weights;
  for (int row = 0; row < recorded.num_steps; ++row) {
    ReadRow(recorded, row, weights);
    reducer.Add(weights);
    const int first_known = FirstKnown(rule, reduction, recorded.row_token[0], recorded.row_token[row]);
    RaiseLine(reducer, 0, recorded.num_tokens, first_known, lines[row / rows_per_line]);
  }
  return lines;
}

void HideUnseen(std::span<const int> queries, const AttentionRule& rule, std::span<float> values) {
  int seen = 0;
  const auto hide = [&](int end) {
    for (; seen < std::min(end, static_cast<int>(values.size())); ++seen) values[seen] = WeightMap::kNoWeight;
  };
  for (const int query : queries) {
    hide(rule.FirstSeen(query));
    seen = std::max(seen, query + 1);
  }
  hide(static_cast<int>(values.size()));
}

}  // namespace kvscope
