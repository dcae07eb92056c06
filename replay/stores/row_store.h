// SPDX-License-Identifier: Apache-2.0
// A StoredHead whose entries are rows of fixed size: K and V of a token are each encoded alone, by a Codec:
//   size_t RowBytes(int dim)
//   void Encode(const float* rows, int count, int dim, std::byte* packed)
//   void Decode(const std::byte* packed, int count, int dim, float* rows)
// Memory follows the entries: it shrinks when they go, and grows by an eighth at a time.
#pragma once

#include <cstring>
#include <vector>

#include "core/error.h"
#include "core/half.h"
#include "replay/store.h"

namespace kvscope {

// The cache as it is.
struct Fp16Codec {
  static constexpr double kBits = 16;
  static constexpr DType kDType = DType::kF16;
  static size_t RowBytes(int dim) { return dim * sizeof(Half); }
  static void Encode(const float* rows, int count, int dim, std::byte* packed) {
    const size_t size = static_cast<size_t>(count) * dim;
    HalvesFromFloats({rows, size}, {reinterpret_cast<Half*>(packed), size});
  }
  static void Decode(const std::byte* packed, int count, int dim, float* rows) {
    const size_t size = static_cast<size_t>(count) * dim;
    FloatsFromHalves({reinterpret_cast<const Half*>(packed), size}, {rows, size});
  }
};

inline void CheckKeptSlots(std::span<const int> slots, int num_slots) {
  for (size_t kept = 0; kept < slots.size(); ++kept) {
    KVSCOPE_CHECK(slots[kept] >= 0 && slots[kept] < num_slots && (kept == 0 || slots[kept - 1] < slots[kept]));
  }
}

class PackedRows {
 public:
  explicit PackedRows(size_t row_bytes) : row_bytes_(row_bytes) {}

  int64_t bytes() const { return static_cast<int64_t>(data_.size()); }
  const std::byte* Row(int slot) const { return data_.data() + slot * row_bytes_; }
  // Makes room for `count` rows and returns the first.
  std::byte* Append(int count) {
    const size_t old_size = data_.size(), size = old_size + count * row_bytes_;
    if (size > data_.capacity()) data_.reserve(old_size == 0 ? size : size + size / 8);
    data_.resize(size);
    return data_.data() + old_size;
  }
  void Keep(std::span<const int> slots) {
    int target = 0;
    for (size_t i = 0; i < slots.size();) {  // run by run: an eviction of one entry moves one block
      size_t run = 1;
      while (i + run < slots.size() && slots[i + run] == slots[i] + static_cast<int>(run)) ++run;
      if (slots[i] != target) std::memmove(data_.data() + target * row_bytes_, Row(slots[i]), run * row_bytes_);
      target += static_cast<int>(run);
      i += run;
    }
    Shrink(target * row_bytes_);
  }
  void DropFirst(int count) {
    const size_t rest = data_.size() - count * row_bytes_;
    std::memmove(data_.data(), Row(count), rest);
    Shrink(rest);
  }

 private:
  void Shrink(size_t size) {
    data_.resize(size);
    if (data_.capacity() > size + size / 4) data_.shrink_to_fit();
  }

  size_t row_bytes_;
  std::vector<std::byte> data_;
};

template <typename Codec>
class RowHead final : public StoredHead {
 public:
  RowHead(int head_dim_k, int head_dim_v)
      : dim_k_(head_dim_k), dim_v_(head_dim_v), keys_(Codec::RowBytes(dim_k_)), values_(Codec::RowBytes(dim_v_)) {}

  int num_slots() const override { return num_slots_; }
  void Append(std::span<const float> k, std::span<const float> v, int count) override {
    KVSCOPE_CHECK_EQ(k.size(), static_cast<size_t>(count) * dim_k_);
    KVSCOPE_CHECK_EQ(v.size(), static_cast<size_t>(count) * dim_v_);
    Codec::Encode(k.data(), count, dim_k_, keys_.Append(count));
    Codec::Encode(v.data(), count, dim_v_, values_.Append(count));
    num_slots_ += count;
  }
  void Keep(std::span<const int> slots, std::span<const uint8_t> bits) override {
    KVSCOPE_CHECK(bits.empty());
    CheckKeptSlots(slots, num_slots_);
    keys_.Keep(slots);
    values_.Keep(slots);
    num_slots_ = static_cast<int>(slots.size());
  }
  void ReadKeys(int row_begin, int count, float* k) const override {
    CheckRange(row_begin, count);
    Codec::Decode(keys_.Row(row_begin), count, dim_k_, k);
  }
  void ReadValues(int row_begin, int count, float* v) const override {
    CheckRange(row_begin, count);
    Codec::Decode(values_.Row(row_begin), count, dim_v_, v);
  }
  const void* RawKeys(int row_begin, DType& dtype) const override {
    if constexpr (requires { Codec::kDType; }) {
      dtype = Codec::kDType;
      return keys_.Row(row_begin);
    } else {
      return StoredHead::RawKeys(row_begin, dtype);
    }
  }
  int64_t bytes() const override { return keys_.bytes() + values_.bytes(); }
  std::unique_ptr<StoredHead> Clone() const override { return std::make_unique<RowHead>(*this); }

 private:
  void CheckRange(int row_begin, int count) const {
    KVSCOPE_CHECK(row_begin >= 0 && count >= 0 && row_begin <= num_slots_ - count);
  }

  int dim_k_, dim_v_, num_slots_ = 0;
  PackedRows keys_, values_;
};

template <typename Codec>
class RowStore final : public Store {
 public:
  double BytesPerEntry(int head_dim_k, int head_dim_v) const override {
    return static_cast<double>(Codec::RowBytes(head_dim_k) + Codec::RowBytes(head_dim_v));
  }
  double bits() const override { return Codec::kBits; }
  std::unique_ptr<StoredHead> Make(int head_dim_k, int head_dim_v) const override {
    return std::make_unique<RowHead<Codec>>(head_dim_k, head_dim_v);
  }
};

}  // namespace kvscope
