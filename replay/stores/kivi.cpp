// SPDX-License-Identifier: Apache-2.0
// KIVI: keys have outlier channels, values do not. So keys are packed per channel, in groups of consecutive tokens, and
// values per token, in groups of channels; the newest tokens stay in fp16.
// Paper: Liu et al., KIVI: A Tuning-Free Asymmetric 2bit Quantization for KV Cache, ICML 2024,
// https://arxiv.org/abs/2402.02750 (code: jy-yuan/KIVI).
// Of S entries the first floor(S / residual) * residual keys are packed, none of the rest, and all values but the last
// `residual`. Packing happens when the step's queries have attended (Settle), so they still see fp16; several entries
// settled at once give what one at a time gives. Right after a prompt of a multiple of `residual` no key is in fp16.
// In a layer with a window, entries that have left it go group by group: until the last of its group has left, an entry
// is not read but keeps its bytes. So up to `residual` entries are held however short the window is.
// Departs: f32 arithmetic, a guard for constant groups, scales rounded up and minima down to f16. Codes of keys lie
// [token, channel], not along tokens, so that rows are read without a transpose; they take the same bytes.
#include <algorithm>

#include "core/error.h"
#include "replay/registry.h"
#include "replay/stores/asymmetric_rows.h"

namespace kvscope {
namespace {

struct Settings {
  int bits = 2, group = 32, residual = 32;

  int PackedKeys(int entries) const { return entries / residual * residual; }
  int PackedValues(int entries) const { return std::max(0, entries - residual); }
  cpu::ColumnGroups KeyBlock(int dim) const { return {group, dim, bits}; }  // of `group` tokens
  AsymmetricRows ValueRows(int dim) const { return {dim, bits, group}; }
};

class KiviHead final : public StoredHead {
 public:
  KiviHead(int head_dim_k, int head_dim_v, const Settings& settings)
      : dim_k_(head_dim_k),
        dim_v_(head_dim_v),
        settings_(settings),
        key_block_(settings.KeyBlock(dim_k_)),
        value_rows_(settings.ValueRows(dim_v_)),
        packed_keys_(key_block_.bytes()),
        packed_values_(value_rows_.RowBytes()),
        recent_keys_(Fp16Codec::RowBytes(dim_k_)),
        recent_values_(Fp16Codec::RowBytes(dim_v_)) {}

  int num_slots() const override { return num_entries_ - num_unread_; }
  void Append(std::span<const float> k, std::span<const float> v, int count) override {
    KVSCOPE_CHECK_EQ(k.size(), static_cast<size_t>(count) * dim_k_);
    KVSCOPE_CHECK_EQ(v.size(), static_cast<size_t>(count) * dim_v_);
    Fp16Codec::Encode(k.data(), count, dim_k_, recent_keys_.Append(count));
    Fp16Codec::Encode(v.data(), count, dim_v_, recent_values_.Append(count));
    num_entries_ += count;
  }

  void Settle() override {
    const int entries = num_gone_ + num_entries_;  // ever
    const int new_keys = settings_.PackedKeys(entries) - num_gone_ - num_packed_keys_;
    const int new_values = settings_.PackedValues(entries) - num_gone_ - num_packed_values_;
    if (new_keys == 0 && new_values == 0) return;
    std::vector<float> rows(static_cast<size_t>(settings_.group) * std::max(dim_k_, dim_v_));
    for (int begin = 0; begin < new_keys; begin += settings_.group) {
      Fp16Codec::Decode(recent_keys_.Row(begin), settings_.group, dim_k_, rows.data());
      cpu::QuantizeColumns(key_block_, rows.data(), packed_keys_.Append(1));
    }
    for (int begin = 0; begin < new_values; begin += settings_.group) {
      const int count = std::min(settings_.group, new_values - begin);
      Fp16Codec::Decode(recent_values_.Row(begin), count, dim_v_, rows.data());
      value_rows_.Encode(rows.data(), count, packed_values_.Append(count));
    }
    if (new_keys > 0) recent_keys_.DropFirst(new_keys);
    if (new_values > 0) recent_values_.DropFirst(new_values);
    num_packed_keys_ += new_keys;
    num_packed_values_ += new_values;
  }

  void Keep(std::span<const int> slots, std::span<const uint8_t> bits) override {
    KVSCOPE_CHECK(bits.empty());
    CheckKeptSlots(slots, num_slots());
    const int dropped = num_slots() - static_cast<int>(slots.size());
    if (dropped == 0) return;
    if (slots.empty() || slots.front() == dropped) return DropOldest(dropped);
    KVSCOPE_CHECK(num_packed_keys_ == 0 && num_packed_values_ == 0 && num_unread_ == 0);  // groups are not torn
    recent_keys_.Keep(slots);
    recent_values_.Keep(slots);
    num_entries_ = static_cast<int>(slots.size());
  }

  void ReadKeys(int row_begin, int count, float* k) const override {
    CheckRange(row_begin, count);
    int row = num_unread_ + row_begin;
    const int end = row + count;
    while (row < std::min(end, num_packed_keys_)) {
      const int block = row / settings_.group, first = row % settings_.group;
      const int rows = std::min(settings_.group - first, end - row);
      cpu::DequantizeColumns(key_block_, packed_keys_.Row(block), first, rows, k);
      k += static_cast<int64_t>(rows) * dim_k_;
      row += rows;
    }
    if (row < end) Fp16Codec::Decode(recent_keys_.Row(row - num_packed_keys_), end - row, dim_k_, k);
  }
  void ReadValues(int row_begin, int count, float* v) const override {
    CheckRange(row_begin, count);
    const int row = num_unread_ + row_begin;
    const int packed = std::clamp(num_packed_values_ - row, 0, count);
    if (packed > 0) value_rows_.Decode(packed_values_.Row(row), packed, v);
    if (packed == count) return;
    Fp16Codec::Decode(recent_values_.Row(row + packed - num_packed_values_), count - packed, dim_v_,
                      v + static_cast<int64_t>(packed) * dim_v_);
  }
  const void* RawKeys(int row_begin, DType& dtype) const override {
    const int row = num_unread_ + row_begin;
    if (row < num_packed_keys_) return nullptr;
    dtype = Fp16Codec::kDType;
    return recent_keys_.Row(row - num_packed_keys_);
  }

  int64_t bytes() const override {
    return packed_keys_.bytes() + packed_values_.bytes() + recent_keys_.bytes() + recent_values_.bytes();
  }
  std::unique_ptr<StoredHead> Clone() const override { return std::make_unique<KiviHead>(*this); }

 private:
  void CheckRange(int row_begin, int count) const {
    KVSCOPE_CHECK(row_begin >= 0 && count >= 0 && row_begin <= num_slots() - count);
  }
  // They are not read any more; packed groups that are wholly unread go.
  void DropOldest(int count) {
    num_unread_ += count;
    const int groups = std::min({num_unread_, num_packed_keys_, num_packed_values_}) / settings_.group;
    if (groups == 0) return;
    const int entries = groups * settings_.group;
    packed_keys_.DropFirst(groups);
    packed_values_.DropFirst(entries);
    for (int* number : {&num_entries_, &num_unread_, &num_packed_keys_, &num_packed_values_}) *number -= entries;
    num_gone_ += entries;
  }

  int dim_k_, dim_v_;
  // By age: num_gone_ entries that are not stored any more (whole groups), then num_entries_ that are. Of these the
  // first num_unread_ have left the window; the first num_packed_... are packed, the others fp16.
  int num_gone_ = 0, num_entries_ = 0, num_unread_ = 0, num_packed_keys_ = 0, num_packed_values_ = 0;
  Settings settings_;
  cpu::ColumnGroups key_block_;
  AsymmetricRows value_rows_;
  PackedRows packed_keys_, packed_values_;  // [block of `group` tokens], [token]
  PackedRows recent_keys_, recent_values_;  // the entries after those, fp16
};

class KiviStore final : public Store {
 public:
  explicit KiviStore(const Settings& settings) : settings_(settings) {}

  double BytesPerEntry(int head_dim_k, int head_dim_v) const override {
    return static_cast<double>(settings_.KeyBlock(head_dim_k).bytes()) / settings_.group +
           static_cast<double>(settings_.ValueRows(head_dim_v).RowBytes());
  }
  double LoadedBytes(int entries, int head_dim_k, int head_dim_v) const override {
    const int keys = settings_.PackedKeys(entries), values = settings_.PackedValues(entries);
    const size_t blocks = keys / settings_.group;
    return static_cast<double>(
        blocks * settings_.KeyBlock(head_dim_k).bytes() + values * settings_.ValueRows(head_dim_v).RowBytes() +
        (entries - keys) * Fp16Codec::RowBytes(head_dim_k) + (entries - values) * Fp16Codec::RowBytes(head_dim_v));
  }
  double bits() const override { return settings_.bits; }
  bool groups_tokens() const override { return true; }
  std::unique_ptr<StoredHead> Make(int head_dim_k, int head_dim_v) const override {
    return std::make_unique<KiviHead>(head_dim_k, head_dim_v, settings_);
  }

 private:
  Settings settings_;
};

std::unique_ptr<Store> Make(Params& params) {
  Settings settings;
  settings.bits = std::stoi(params.Choice("bits", "2", {"2", "4"}, "of packed keys and values"));
  settings.group = std::stoi(
      params.Choice("group", "32", {"16", "32", "64", "128"}, "tokens (keys) or channels (values) that share a scale"));
  settings.residual = params.Int("residual", 32, 16, 1 << 20, "newest tokens in fp16, a multiple of group");
  if (settings.residual % settings.group != 0) {
    throw Error(StrCat(params.where(), ": residual: expected a multiple of group=", settings.group, ", found ",
                       settings.residual));
  }
  return std::make_unique<KiviStore>(settings);
}

constexpr const char* kPaper = "https://arxiv.org/abs/2402.02750";
const StoreRegistration registration({
    {.name = "kivi",
     .paper_url = kPaper,
     .summary = "2 or 4 bits, keys by channel over tokens, values by token; the newest tokens in fp16",
     .departs = "f32 arithmetic, constant groups guarded, scales rounded up"},
    Make,
});
const CombinationRegistration kivi_2(
    {{.name = "kivi_2", .paper_url = kPaper, .summary = "the whole cache in KIVI's 2 bits", .departs = ""},
     "full@kivi:bits=2"});
const CombinationRegistration kivi_4(
    {{.name = "kivi_4", .paper_url = kPaper, .summary = "the whole cache in KIVI's 4 bits", .departs = ""},
     "full@kivi:bits=4"});

}  // namespace
}  // namespace kvscope
