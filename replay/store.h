// SPDX-License-Identifier: Apache-2.0
// How entries are kept: geometry, groups, encoding, bytes. A Store makes one StoredHead per (layer, KV head), which
// really holds the packed bytes; replay and live attend over it through the same calls.
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
  // Keeps these slots (ascending) and drops the rest; memory shrinks.
  virtual void Keep(std::span<const int> slots) = 0;
  // Decodes entries [slot_begin, slot_begin + count) as f32.
  virtual void ReadKeys(int slot_begin, int count, float* k) const = 0;
  virtual void ReadValues(int slot_begin, int count, float* v) const = 0;
  // Keys from slot_begin on as rows of head_dim_k elements of `dtype`, where the store keeps them so; else null.
  virtual const void* RawKeys(int slot_begin, DType& dtype) const { return (void)slot_begin, (void)dtype, nullptr; }
  virtual int64_t bytes() const = 0;  // payload, scales and zero points of the present entries
  virtual std::unique_ptr<StoredHead> Clone() const = 0;
};

class Store {
 public:
  virtual ~Store() = default;
  // Bytes an entry takes once its groups are full; what budgets are divided by.
  virtual double BytesPerEntry(int head_dim_k, int head_dim_v) const = 0;
  virtual double bits() const = 0;  // nominal bits of a channel, for reports
  virtual std::unique_ptr<StoredHead> Make(int head_dim_k, int head_dim_v) const = 0;
};

}  // namespace kvscope
