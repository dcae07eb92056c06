// SPDX-License-Identifier: Apache-2.0
// What a policy keeps, as a map of (layer, KV head) by token, and as pixels: pure functions, no window.
#pragma once

#include <vector>

#include "replay/cache_history.h"
#include "viewer/heatmap_model.h"
#include "viewer/image.h"
#include "viewer/view_state.h"

namespace kvscope {

struct KeptMap {
  int rows = 0, columns = 0, num_tokens = 0;  // a row for each KV head of each layer
  std::vector<float> kept;                    // [rows, columns] share of a cell's tokens that are there
  std::vector<float> bits;                    // [rows, columns] mean bits of a cell's tokens, dropped ones 0
  std::vector<float> outside;                 // [rows, columns] share of a cell's tokens that the window has left
  int TokenBegin(int column) const { return static_cast<int>(int64_t{num_tokens} * column / columns); }
  int ColumnOf(int token) const { return static_cast<int>(((int64_t{token} + 1) * columns - 1) / num_tokens); }
};

// After a query was done. At most max_columns cells across.
KeptMap MakeKeptMap(const CacheHistory& history, int query_token, int max_columns);

// [layer, kv_head] share of these tokens, of those in the layer's window, that is there after a query; NaN: the window
// has left them all.
std::vector<float> RetentionAfter(const CacheHistory& history, std::span<const int> tokens, int query_token);

// What a policy did to some tokens in all KV heads.
struct LossCount {
  int num_heads = 0;    // KV heads whose window held some of them at the decision
  int num_entries = 0;  // that these held or would have held
  int at_decision = 0, later = 0;
  int heads_without = 0;  // of these KV heads: the policy took all that they had
};
LossCount CountLosses(const CacheHistory& history, std::span<const int> counted, int query_token);

inline constexpr float kFullBits = 16;
// Ink of a number of bits, in [0, 1]: 16 bits are full ink, 2 bits still stand out from none.
double BitsInk(double bits);

// first: of the first policy, for differences; blue where the other holds less than it, orange where more. A map of
// another shape has no difference: background. What a window has left is grey.
Image MakeKeptImage(const KeptMap& map, KeptMapKind kind, const KeptMap& first, const HeatmapColors& colors);
uint32_t OutsideColor(double share, const HeatmapColors& colors);          // of what a window has left
uint32_t DifferenceColor(double difference, const HeatmapColors& colors);  // in [-1, 1]
uint32_t Blend(uint32_t from, uint32_t to, double share);

}  // namespace kvscope
