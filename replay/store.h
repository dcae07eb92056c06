// SPDX-License-Identifier: Apache-2.0
// How entries are kept: geometry, groups, encoding, bytes. A Store makes one StoredHead per (layer, KV head), which
// really holds the packed bytes; replay and live attend over it through the same calls.
//
// slot: an entry's place by token, ascending. row: its place in the order in which entries are read; a store that keeps
// entries of different bits in pools of their own reads pool after pool. The newest entries are the last in both.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "core/dtype.h"

namespace kvscope {

class StoredHead {
 public:
  virtual ~StoredHead() = default;
  virtual int num_slots() const = 0;
  // Appends `count` entries. k: [count, head_dim_k], v: [count, head_dim_v], f32, already rounded to the cache dtype.
  virtual void Append(std::span<const float> k, std::span<const float> v, int count) = 0;
  // Queries have attended over everything appended so far, so that it may be packed further (KIVI's residual).
  virtual void Settle() {}
  // Keeps these slots (ascending) and drops the rest; memory shrinks. bits: of each kept slot, from the store's ladder
  // and not above what it has; empty: as they are.
  virtual void Keep(std::span<const int> slots, std::span<const uint8_t> bits) = 0;
  // Decodes rows [row_begin, row_begin + count) as f32.
  virtual void ReadKeys(int row_begin, int count, float* k) const = 0;
  virtual void ReadValues(int row_begin, int count, float* v) const = 0;
  // Keys from row_begin on as rows of head_dim_k elements of `dtype`, where the store keeps them so; else null.
  virtual const void* RawKeys(int row_begin, DType& dtype) const { return (void)row_begin, (void)dtype, nullptr; }
  // [num_slots]; empty: rows are slots.
  virtual std::span<const int> SlotFromRow() const { return {}; }
  // [num_slots] bits of each entry; empty: the store's own.
  virtual std::span<const uint8_t> BitsFromSlot() const { return {}; }
  // Keys are multiplied by this before they are packed and divided after [head_dim_k], all above 0. Comes before the
  // first entry; only for stores that balance keys.
  virtual void BalanceKeys(std::span<const float> factors);
  virtual int64_t bytes() const = 0;  // payload, scales and zero points of the present entries
  virtual std::unique_ptr<StoredHead> Clone() const = 0;
};

// Which channels of keys are made alike before they are packed, from the prompt.
enum class KeyBalance {
  kNone,
  kKey,       // by sqrt of the largest |k| of a channel
  kQueryKey,  // by sqrt(largest |q| / largest |k|): MiKV
};

class Store {
 public:
  virtual ~Store() = default;
  // Bytes a new entry takes once its groups are full.
  virtual double BytesPerEntry(int head_dim_k, int head_dim_v) const = 0;
  virtual double bits() const = 0;  // nominal bits of a channel of a new entry, for reports
  // Bits that a plan may give an entry, descending; the first is what new entries have. Empty: a store of one kind.
  virtual std::span<const uint8_t> ladder() const { return {}; }
  // Bytes of an entry of these bits; for stores with a ladder.
  virtual double BytesPerEntry(int head_dim_k, int head_dim_v, int bits) const;
  // Bytes of a KV head right after `entries` were loaded into it and settled. Where entries are packed in groups, one
  // more may take less: a group that fills is packed.
  virtual double LoadedBytes(int entries, int head_dim_k, int head_dim_v) const {
    return entries * BytesPerEntry(head_dim_k, head_dim_v);
  }
  // Entries share scales with their neighbours, so that they cannot go one by one.
  virtual bool groups_tokens() const { return false; }
  virtual KeyBalance key_balance() const { return KeyBalance::kNone; }
  virtual bool is_oracle() const { return false; }  // keeps what it does not bill
  virtual std::unique_ptr<StoredHead> Make(int head_dim_k, int head_dim_v) const = 0;
};

}  // namespace kvscope
