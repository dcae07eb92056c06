// SPDX-License-Identifier: Apache-2.0
// Mixed: every entry has bits of its own, 16, 8, 4 or 2, and may sink but never rise. A KV head keeps four pools, read
// in the order 2 | 4 | 8 | 16 bits and ascending by token within each, so that attention runs over dense rows. New
// entries go to the 16-bit pool (fp16); 8, 4 and 2 bits are asymmetric groups of channels of one token, with an f16
// scale and minimum. An entry that sinks is quantised again from what it had become (source=stored); source=original
// takes the fp16 original, kept beside and not billed: an upper bound that no real cache reaches. Idea: mixed precision
// by importance, as in MiKV (Yang et al., No Token Left Behind, https://arxiv.org/abs/2402.18096). balance: keys below
// 16 bits are stored times a factor per channel and divided when read; MiKV divides the query, which is the same. The
// factors, head_dim_k floats of a KV head, are not billed. Departs: f32 arithmetic, scales rounded up.
#include <algorithm>
#include <array>
#include <cmath>

#include "core/error.h"
#include "replay/registry.h"
#include "replay/stores/asymmetric_rows.h"

namespace kvscope {
namespace {

constexpr std::array<uint8_t, 4> kLadder{16, 8, 4, 2};

struct Settings {
  int group = 64;
  KeyBalance balance = KeyBalance::kNone;
  bool keeps_originals = false;
};

// K or V of a pool.
struct PoolRows {
  PoolRows(int dim, int bits, int group) : codec{dim, bits, group}, packed(RowBytes(codec)) {}

  static size_t RowBytes(const AsymmetricRows& codec) {
    return codec.bits == 16 ? Fp16Codec::RowBytes(codec.dim) : codec.RowBytes();
  }
  void Encode(const float* rows, int count, std::byte* target) const {
    codec.bits == 16 ? Fp16Codec::Encode(rows, count, codec.dim, target) : codec.Encode(rows, count, target);
  }
  void Decode(int row_begin, int count, float* rows) const {
    const std::byte* const source = packed.Row(row_begin);
    codec.bits == 16 ? Fp16Codec::Decode(source, count, codec.dim, rows) : codec.Decode(source, count, rows);
  }

  AsymmetricRows codec;
  PackedRows packed;
};

struct Pool {
  Pool(int pool_bits, int dim_k, int dim_v, int group)
      : bits(pool_bits), keys(dim_k, pool_bits, group), values(dim_v, pool_bits, group) {}

  int bits, num_rows = 0;
  PoolRows keys, values;
};

class MixedHead final : public StoredHead {
 public:
  MixedHead(int head_dim_k, int head_dim_v, const Settings& settings)
      : dim_k_(head_dim_k),
        dim_v_(head_dim_v),
        settings_(settings),
        original_k_(Fp16Codec::RowBytes(dim_k_)),
        original_v_(Fp16Codec::RowBytes(dim_v_)) {
    for (auto bits = kLadder.rbegin(); bits != kLadder.rend(); ++bits) {
      pools_.emplace_back(*bits, dim_k_, dim_v_, settings_.group);
    }
  }

  int num_slots() const override { return static_cast<int>(bits_from_slot_.size()); }
  std::span<const int> SlotFromRow() const override { return slot_from_row_; }
  std::span<const uint8_t> BitsFromSlot() const override { return bits_from_slot_; }

  void Append(std::span<const float> k, std::span<const float> v, int count) override {
    KVSCOPE_CHECK_EQ(k.size(), static_cast<size_t>(count) * dim_k_);
    KVSCOPE_CHECK_EQ(v.size(), static_cast<size_t>(count) * dim_v_);
    Pool& newest = pools_.back();
    newest.keys.Encode(k.data(), count, newest.keys.packed.Append(count));
    newest.values.Encode(v.data(), count, newest.values.packed.Append(count));
    newest.num_rows += count;
    if (settings_.keeps_originals) {
      Fp16Codec::Encode(k.data(), count, dim_k_, original_k_.Append(count));
      Fp16Codec::Encode(v.data(), count, dim_v_, original_v_.Append(count));
    }
    for (int i = 0; i < count; ++i) {
      slot_from_row_.push_back(num_slots());
      bits_from_slot_.push_back(kLadder.front());
    }
  }

  void Keep(std::span<const int> slots, std::span<const uint8_t> bits) override {
    CheckKeptSlots(slots, num_slots());
    KVSCOPE_CHECK(bits.empty() || bits.size() == slots.size());
    Kept kept{slots, {}, std::vector<int>(num_slots())};
    for (size_t i = 0; i < slots.size(); ++i) {
      const uint8_t old_bits = bits_from_slot_[slots[i]];
      kept.bits.push_back(bits.empty() ? old_bits : bits[i]);
      KVSCOPE_CHECK(std::ranges::find(kLadder, kept.bits[i]) != kLadder.end());
      KVSCOPE_CHECK_LE(int{kept.bits[i]}, int{old_bits});
    }
    int row = 0;
    for (const Pool& pool : pools_) {
      for (int pool_row = 0; pool_row < pool.num_rows; ++pool_row) kept.pool_row[slot_from_row_[row++]] = pool_row;
    }
    slot_from_row_.clear();
    // From the lowest: what sinks into a pool still lies in a higher one.
    for (Pool& pool : pools_) Refill(pool, kept);
    bits_from_slot_ = std::move(kept.bits);
    if (settings_.keeps_originals) original_k_.Keep(slots), original_v_.Keep(slots);
  }

  void ReadKeys(int row_begin, int count, float* k) const override {
    EachPool(row_begin, count, [&](const Pool& pool, int begin, int rows) {
      ReadKeysOf(pool, begin, rows, k);
      k += static_cast<int64_t>(rows) * dim_k_;
    });
  }
  void ReadValues(int row_begin, int count, float* v) const override {
    EachPool(row_begin, count, [&](const Pool& pool, int begin, int rows) {
      pool.values.Decode(begin, rows, v);
      v += static_cast<int64_t>(rows) * dim_v_;
    });
  }
  const void* RawKeys(int row_begin, DType& dtype) const override {
    const Pool& newest = pools_.back();
    const int first = num_slots() - newest.num_rows;
    if (row_begin < first) return nullptr;
    dtype = Fp16Codec::kDType;
    return newest.keys.packed.Row(row_begin - first);
  }

  void BalanceKeys(std::span<const float> factors) override {
    KVSCOPE_CHECK(settings_.balance != KeyBalance::kNone && num_slots() == 0);
    KVSCOPE_CHECK_EQ(factors.size(), static_cast<size_t>(dim_k_));
    for (const float factor : factors) KVSCOPE_CHECK(factor > 0 && std::isfinite(factor));
    factors_.assign(factors.begin(), factors.end());
  }

  int64_t bytes() const override {
    int64_t bytes = 0;
    for (const Pool& pool : pools_) bytes += pool.keys.packed.bytes() + pool.values.packed.bytes();
    return bytes;
  }
  std::unique_ptr<StoredHead> Clone() const override { return std::make_unique<MixedHead>(*this); }

 private:
  struct Kept {
    std::span<const int> slots;  // as before the call
    std::vector<uint8_t> bits;   // [slots] new
    std::vector<int> pool_row;   // [num_slots] within the old pool
  };

  // Calls function(pool, first row in it, rows) for each pool that a range of rows touches.
  template <typename Function>
  void EachPool(int row_begin, int count, Function function) const {
    KVSCOPE_CHECK(row_begin >= 0 && count >= 0 && row_begin <= num_slots() - count);
    for (const Pool& pool : pools_) {
      const int rows = std::clamp(pool.num_rows - row_begin, 0, count);
      if (rows > 0) function(pool, row_begin, rows);
      count -= rows;
      row_begin = std::max(0, row_begin - pool.num_rows);
    }
  }

  bool IsBalanced(const Pool& pool) const { return pool.bits != kLadder.front() && !factors_.empty(); }
  void ReadKeysOf(const Pool& pool, int begin, int count, float* k) const {
    pool.keys.Decode(begin, count, k);
    for (int row = 0; row < count && IsBalanced(pool); ++row, k += dim_k_) {
      for (int channel = 0; channel < dim_k_; ++channel) k[channel] /= factors_[channel];
    }
  }

  // What a sinking entry is quantised from.
  void ReadSource(int slot, int pool_row, float* k, float* v) const {
    if (settings_.keeps_originals) {
      Fp16Codec::Decode(original_k_.Row(slot), 1, dim_k_, k);
      Fp16Codec::Decode(original_v_.Row(slot), 1, dim_v_, v);
      return;
    }
    const Pool& pool = *std::ranges::find(pools_, int{bits_from_slot_[slot]}, &Pool::bits);
    ReadKeysOf(pool, pool_row, 1, k);
    pool.values.Decode(pool_row, 1, v);
  }

  void Refill(Pool& pool, const Kept& kept) {
    std::vector<int> members, staying_rows;  // members: slots
    for (size_t i = 0; i < kept.slots.size(); ++i) {
      if (kept.bits[i] != pool.bits) continue;
      const int slot = kept.slots[i];
      slot_from_row_.push_back(static_cast<int>(i));
      members.push_back(slot);
      if (bits_from_slot_[slot] == pool.bits) staying_rows.push_back(kept.pool_row[slot]);
    }
    pool.num_rows = static_cast<int>(members.size());
    if (staying_rows.size() < members.size()) return Merge(pool, members, kept.pool_row);
    pool.keys.packed.Keep(staying_rows);
    pool.values.packed.Keep(staying_rows);
  }

  // Some members come from higher pools: a new pool is written.
  void Merge(Pool& pool, std::span<const int> members, std::span<const int> pool_row) {
    KVSCOPE_CHECK(settings_.balance == KeyBalance::kNone || !factors_.empty());
    const size_t key_bytes = PoolRows::RowBytes(pool.keys.codec), value_bytes = PoolRows::RowBytes(pool.values.codec);
    PackedRows keys(key_bytes), values(value_bytes);
    std::byte* key = keys.Append(pool.num_rows);
    std::byte* value = values.Append(pool.num_rows);
    std::vector<float> k(dim_k_), v(dim_v_);
    for (const int slot : members) {
      if (bits_from_slot_[slot] == pool.bits) {
        std::memcpy(key, pool.keys.packed.Row(pool_row[slot]), key_bytes);
        std::memcpy(value, pool.values.packed.Row(pool_row[slot]), value_bytes);
      } else {
        ReadSource(slot, pool_row[slot], k.data(), v.data());
        for (int channel = 0; channel < dim_k_ && IsBalanced(pool); ++channel) k[channel] *= factors_[channel];
        pool.keys.Encode(k.data(), 1, key);
        pool.values.Encode(v.data(), 1, value);
      }
      key += key_bytes, value += value_bytes;
    }
    pool.keys.packed = std::move(keys);
    pool.values.packed = std::move(values);
  }

  int dim_k_, dim_v_;
  Settings settings_;
  std::vector<Pool> pools_;  // ascending by bits
  std::vector<int> slot_from_row_;
  std::vector<uint8_t> bits_from_slot_;
  std::vector<float> factors_;          // [head_dim_k]; empty: keys are packed as they are
  PackedRows original_k_, original_v_;  // [slot] of the oracle, else empty
};

class MixedStore final : public Store {
 public:
  explicit MixedStore(const Settings& settings) : settings_(settings) {}

  double BytesPerEntry(int head_dim_k, int head_dim_v) const override {
    return BytesPerEntry(head_dim_k, head_dim_v, kLadder.front());
  }
  double BytesPerEntry(int head_dim_k, int head_dim_v, int bits) const override {
    KVSCOPE_CHECK(std::ranges::find(kLadder, bits) != kLadder.end());
    return static_cast<double>(PoolRows::RowBytes({head_dim_k, bits, settings_.group}) +
                               PoolRows::RowBytes({head_dim_v, bits, settings_.group}));
  }
  double bits() const override { return kLadder.front(); }
  std::span<const uint8_t> ladder() const override { return kLadder; }
  KeyBalance key_balance() const override { return settings_.balance; }
  bool is_oracle() const override { return settings_.keeps_originals; }
  std::unique_ptr<StoredHead> Make(int head_dim_k, int head_dim_v) const override {
    return std::make_unique<MixedHead>(head_dim_k, head_dim_v, settings_);
  }

 private:
  Settings settings_;
};

std::unique_ptr<Store> Make(Params& params) {
  Settings settings;
  settings.group = std::stoi(params.Choice("group", "64", {"16", "32", "64", "128"}, "channels that share a scale"));
  const std::string balance = params.Choice("balance", "none", {"none", "key", "query_key"},
                                            "make channels of keys alike before they are packed, by the prompt's "
                                            "largest |k| or |q| / |k|");
  settings.balance = balance == "key"         ? KeyBalance::kKey
                     : balance == "query_key" ? KeyBalance::kQueryKey
                                              : KeyBalance::kNone;
  settings.keeps_originals = params.Choice("source", "stored", {"stored", "original"},
                                           "what lower bits are made from; original is an oracle: it keeps fp16 "
                                           "beside, not billed") == "original";
  return std::make_unique<MixedStore>(settings);
}

const StoreRegistration registration({
    {.name = "mixed",
     .paper_url = "",
     .summary = "16, 8, 4 or 2 bits by entry, asymmetric; a policy lowers them (source=original: an oracle)",
     .departs = ""},
    Make,
});

}  // namespace
}  // namespace kvscope
