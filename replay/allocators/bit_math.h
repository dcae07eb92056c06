// SPDX-License-Identifier: Apache-2.0
// What allocators of bits share: counting bytes, and eviction of the least relevant until they hold.
#pragma once

#include <algorithm>
#include <vector>

#include "core/error.h"
#include "replay/policy.h"

namespace kvscope {

// Index in the ladder; the ladder's size for 0, which is to be dropped.
inline size_t LadderIndex(std::span<const uint8_t> ladder, int bits) {
  return bits == 0 ? ladder.size() : std::find(ladder.begin(), ladder.end(), bits) - ladder.begin();
}

inline double BytesOfBits(const SpendingView& view, int bits) {
  return bits == 0 ? 0.0 : view.entry_bytes[LadderIndex(view.ladder, bits)];
}

inline double BytesOf(const SpendingView& view, const Bits& bits) {
  std::vector<double> count(view.ladder.size() + 1);
  for (const std::vector<uint8_t>& row : bits) {
    for (const uint8_t value : row) ++count[LadderIndex(view.ladder, value)];
  }
  double bytes = 0;
  for (size_t i = 0; i < view.ladder.size(); ++i) bytes += count[i] * view.entry_bytes[i];
  return bytes;
}

// A slot of a row, ordered by who goes first.
struct Entry {
  float priority = 0;
  int row = 0, slot = 0;
};
// From the least relevant on; of equal priority the higher token, then the later row, goes first.
inline std::vector<Entry> LeastFirst(const SpendingView& view) {
  std::vector<Entry> entries;
  for (size_t row = 0; row < view.rows.size(); ++row) {
    for (size_t slot = 0; slot < view.rows[row].priority.size(); ++slot) {
      entries.push_back({view.rows[row].priority[slot], static_cast<int>(row), static_cast<int>(slot)});
    }
  }
  std::sort(entries.begin(), entries.end(), [&](const Entry& a, const Entry& b) {
    if (a.priority != b.priority) return a.priority < b.priority;
    const int token_a = view.rows[a.row].token_from_slot[a.slot], token_b = view.rows[b.row].token_from_slot[b.slot];
    return token_a != token_b ? token_a > token_b : a.row > b.row;
  });
  return entries;
}

// Slots of a row that are still there, the most relevant first; of equal priority the lower token.
inline std::vector<int> MostFirst(const SpendingView::Row& row) {
  std::vector<int> slots;
  for (size_t slot = 0; slot < row.priority.size(); ++slot) {
    if (row.bits_now[slot] > 0) slots.push_back(static_cast<int>(slot));
  }
  std::stable_sort(slots.begin(), slots.end(), [&](int a, int b) { return row.priority[a] > row.priority[b]; });
  return slots;
}

inline double EntriesOf(const SpendingView& view) {
  double entries = 0;
  for (const SpendingView::Row& row : view.rows) {
    entries += static_cast<double>(row.bits_now.size() - std::count(row.bits_now.begin(), row.bits_now.end(), 0));
  }
  return entries;
}

// Each slot's `wanted` bits, but not above those it has.
inline Bits CappedByPresent(const SpendingView& view, Bits wanted) {
  for (size_t row = 0; row < wanted.size(); ++row) {
    for (size_t slot = 0; slot < wanted[row].size(); ++slot) {
      wanted[row][slot] = std::min(wanted[row][slot], view.rows[row].bits_now[slot]);
    }
  }
  return wanted;
}

// Lowers entries to `target` bits or drops them (0), in the order given, until the bytes hold. Only those of more bits.
// A row keeps its last entry.
inline void LowerUntilItFits(const SpendingView& view, std::span<const Entry> order, int target, Bits& bits) {
  double bytes = BytesOf(view, bits);
  std::vector<int64_t> left;
  for (const std::vector<uint8_t>& row : bits) left.push_back(std::ssize(row) - std::count(row.begin(), row.end(), 0));
  for (const Entry& entry : order) {
    if (bytes <= view.bytes) return;
    uint8_t& value = bits[entry.row][entry.slot];
    if (value <= target || (target == 0 && left[entry.row] == 1)) continue;
    bytes -= BytesOfBits(view, value) - BytesOfBits(view, target);
    left[entry.row] -= target == 0;
    value = static_cast<uint8_t>(target);
  }
}

}  // namespace kvscope
