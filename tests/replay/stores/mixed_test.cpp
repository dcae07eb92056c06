// SPDX-License-Identifier: Apache-2.0
// The store of mixed bits against a plain one that keeps what each slot decodes to, under random appends and evictions.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "core/half.h"
#include "kernels/quantize.h"
#include "replay/registry.h"
#include "tests/support/replay_rows.h"

namespace kvscope {
namespace {

using Floats = std::vector<float>;

struct StoreSetup {
  int dim_k, dim_v, group;
  std::string balance, source;
};

std::unique_ptr<Store> MakeStore(const StoreSetup& setup) {
  Params params("test", {{"group", std::to_string(setup.group)}, {"balance", setup.balance}, {"source", setup.source}});
  return Stores().at("mixed").make(params);
}

// The specification: what each slot reads as.
struct PlainEntry {
  int bits;
  Floats k, v, original_k, original_v;
};
struct PlainHead {
  StoreSetup setup;
  Floats factors;  // of keys; empty: none
  std::vector<PlainEntry> slots;

  Floats Quantized(Floats values, int bits) const {
    for (size_t begin = 0; begin < values.size(); begin += setup.group) {
      const std::span<float> group =
          std::span(values).subspan(begin).first(std::min<size_t>(setup.group, values.size() - begin));
      std::vector<std::byte> packed(cpu::AsymmetricGroupBytes(static_cast<int>(group.size()), bits));
      cpu::QuantizeAsymmetric(group, bits, packed.data());
      cpu::DequantizeAsymmetric(packed.data(), bits, group);
    }
    return values;
  }
  void Append(const Floats& k, const Floats& v, int count) {
    for (int i = 0; i < count; ++i) {
      const Floats key(k.begin() + i * setup.dim_k, k.begin() + (i + 1) * setup.dim_k);
      const Floats value(v.begin() + i * setup.dim_v, v.begin() + (i + 1) * setup.dim_v);
      slots.push_back({16, key, value, key, value});
    }
  }
  void Lower(PlainEntry& entry, int bits) const {
    if (bits == entry.bits) return;
    Floats k = setup.source == "original" ? entry.original_k : entry.k;
    for (size_t channel = 0; channel < factors.size(); ++channel) k[channel] *= factors[channel];
    k = Quantized(k, bits);
    for (size_t channel = 0; channel < factors.size(); ++channel) k[channel] /= factors[channel];
    entry = {bits, k, Quantized(setup.source == "original" ? entry.original_v : entry.v, bits), entry.original_k,
             entry.original_v};
  }
  void Keep(const std::vector<int>& keep, const std::vector<uint8_t>& bits) {
    std::vector<PlainEntry> kept;
    for (size_t i = 0; i < keep.size(); ++i) {
      kept.push_back(slots[keep[i]]);
      if (!bits.empty()) Lower(kept.back(), bits[i]);
    }
    slots = kept;
  }
  std::vector<int> SlotFromRow() const {
    std::vector<int> slot_from_row;
    for (int bits : {2, 4, 8, 16}) {
      for (size_t slot = 0; slot < slots.size(); ++slot) {
        if (slots[slot].bits == bits) slot_from_row.push_back(static_cast<int>(slot));
      }
    }
    return slot_from_row;
  }
};

void ExpectSame(const StoredHead& head, const PlainHead& plain, const Store& store, std::mt19937& random) {
  const StoreSetup& setup = plain.setup;
  const int num_slots = static_cast<int>(plain.slots.size());
  ASSERT_EQ(head.num_slots(), num_slots);
  const std::vector<int> slot_from_row = plain.SlotFromRow();
  ASSERT_THAT(head.SlotFromRow(), testing::ElementsAreArray(slot_from_row));
  Floats k, v;
  double bytes = 0;
  int packed = 0;  // rows below 16 bits
  for (int row = 0; row < num_slots; ++row) {
    const PlainEntry& entry = plain.slots[slot_from_row[row]];
    k.insert(k.end(), entry.k.begin(), entry.k.end());
    v.insert(v.end(), entry.v.begin(), entry.v.end());
    ASSERT_EQ(head.BitsFromSlot()[row], plain.slots[row].bits);
    bytes += store.BytesPerEntry(setup.dim_k, setup.dim_v, entry.bits);
    packed += entry.bits < 16;
  }
  ASSERT_EQ(head.bytes(), bytes);
  Floats read_k(k.size()), read_v(v.size());
  for (int begin = 0; begin < num_slots;) {  // tiles of any size, across pools
    const int count = std::uniform_int_distribution(1, std::min(256, num_slots - begin))(random);
    head.ReadKeys(begin, count, read_k.data() + begin * setup.dim_k);
    head.ReadValues(begin, count, read_v.data() + begin * setup.dim_v);
    begin += count;
  }
  ASSERT_TRUE(SameBits(read_k, k));
  ASSERT_TRUE(SameBits(read_v, v));
  DType dtype = DType::kF32;
  if (packed > 0) {
    ASSERT_EQ(head.RawKeys(0, dtype), nullptr);
    ASSERT_EQ(head.RawKeys(packed - 1, dtype), nullptr);
  }
  if (packed < num_slots) {
    const void* const rows = head.RawKeys(packed, dtype);
    ASSERT_EQ(dtype, DType::kF16);
    Floats raw((num_slots - packed) * setup.dim_k);
    FloatsFromHalves({static_cast<const Half*>(rows), raw.size()}, raw);
    ASSERT_TRUE(SameBits(raw, Floats(k.begin() + packed * setup.dim_k, k.end())));
  }
}

class Mixed : public testing::TestWithParam<StoreSetup> {};
INSTANTIATE_TEST_SUITE_P(
    Setups, Mixed,
    testing::Values(StoreSetup{64, 64, 64, "none", "stored"}, StoreSetup{80, 96, 64, "none", "stored"},
                    StoreSetup{128, 64, 32, "key", "stored"}, StoreSetup{64, 64, 128, "query_key", "stored"},
                    StoreSetup{64, 128, 64, "none", "original"}, StoreSetup{20, 16, 16, "query_key", "original"}));

TEST_P(Mixed, EqualsThePlainSpecification) {
  const StoreSetup& setup = GetParam();
  const std::unique_ptr<Store> store = MakeStore(setup);
  for (int seed = 0; seed < 12; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    const auto chance = [&](double share) { return std::bernoulli_distribution(share)(random); };
    PlainHead plain{setup, {}, {}};
    std::unique_ptr<StoredHead> head = store->Make(setup.dim_k, setup.dim_v);
    if (setup.balance != "none") {
      for (int channel = 0; channel < setup.dim_k; ++channel) {
        plain.factors.push_back(std::exp(std::normal_distribution<float>(0, 1)(random)));
      }
      head->BalanceKeys(plain.factors);
    }
    for (int operation = 0; operation < 14; ++operation) {
      if (operation % 2 == 0) {
        const int count = std::vector{1, 1, 16, 300}[random() % 4];
        const Floats k = RandomHalves(count * setup.dim_k, random), v = RandomHalves(count * setup.dim_v, random);
        head->Append(k, v, count);
        plain.Append(k, v, count);
      } else {
        std::vector<int> slots;
        std::vector<uint8_t> bits;
        const double kept = chance(0.1) ? 0 : chance(0.5) ? 1 : 0.8, lowered = chance(0.2) ? 1 : 0.25;
        for (size_t slot = 0; slot < plain.slots.size(); ++slot) {
          if (!chance(kept)) continue;
          slots.push_back(static_cast<int>(slot));
          const int old_bits = plain.slots[slot].bits;
          bits.push_back(static_cast<uint8_t>(chance(lowered) ? std::max<int>(2, old_bits >> random() % 4) : old_bits));
        }
        if (chance(0.3)) bits.clear();
        head->Keep(slots, bits);
        plain.Keep(slots, bits);
      }
      ASSERT_NO_FATAL_FAILURE(ExpectSame(*head, plain, *store, random)) << "after operation " << operation;
      if (chance(0.2)) {  // goes on with the clone, while the first one is emptied
        std::unique_ptr<StoredHead> clone = head->Clone();
        head->Keep({}, {});
        ASSERT_EQ(head->bytes(), 0);
        head = std::move(clone);
        ASSERT_NO_FATAL_FAILURE(ExpectSame(*head, plain, *store, random)) << "a clone shares nothing";
      }
    }
  }
}

TEST(Mixed, BillsWhatTheCatalogueSays) {
  const std::unique_ptr<Store> store = MakeStore({64, 64, 64, "none", "stored"});
  EXPECT_THAT(store->ladder(), testing::ElementsAre(16, 8, 4, 2));
  EXPECT_EQ(store->BytesPerEntry(64, 64, 16), 256);
  EXPECT_EQ(store->BytesPerEntry(64, 64, 8), 136);
  EXPECT_EQ(store->BytesPerEntry(64, 64, 4), 72);
  EXPECT_EQ(store->BytesPerEntry(64, 64, 2), 40);
  EXPECT_EQ(store->BytesPerEntry(80, 96, 8), 80 + 96 + 4 * 4);
  EXPECT_EQ(MakeStore({64, 64, 32, "none", "stored"})->BytesPerEntry(64, 64, 2), 48);
  EXPECT_EQ(MakeStore({64, 64, 128, "none", "stored"})->BytesPerEntry(64, 64, 2), 40) << "a row has 64 channels";
}

TEST(Mixed, OnlyOriginalsMakeAnOracle) {
  EXPECT_FALSE(MakeStore({64, 64, 64, "none", "stored"})->is_oracle());
  EXPECT_TRUE(MakeStore({64, 64, 64, "none", "original"})->is_oracle());
  EXPECT_EQ(MakeStore({64, 64, 64, "none", "stored"})->key_balance(), KeyBalance::kNone);
  EXPECT_EQ(MakeStore({64, 64, 64, "key", "stored"})->key_balance(), KeyBalance::kKey);
  EXPECT_EQ(MakeStore({64, 64, 64, "query_key", "stored"})->key_balance(), KeyBalance::kQueryKey);
}

// Two roundings lose more than one, on average over many values.
TEST(Mixed, LosesMoreFromStoredThanFromOriginal) {
  std::mt19937 random(7);
  const Floats rows = RandomHalves(200 * 64, random);
  std::vector<int> slots(200);
  std::iota(slots.begin(), slots.end(), 0);
  const auto error = [&](const std::string& source) {
    const auto head = MakeStore({64, 64, 64, "none", source})->Make(64, 64);
    head->Append(rows, rows, 200);
    for (uint8_t bits : {8, 4, 2}) head->Keep(slots, std::vector<uint8_t>(200, bits));
    Floats read(rows.size());
    head->ReadKeys(0, 200, read.data());
    double sum = 0;
    for (size_t i = 0; i < rows.size(); ++i) sum += (read[i] - rows[i]) * (read[i] - rows[i]);
    return sum;
  };
  EXPECT_LT(error("original"), error("stored"));
}

TEST(Mixed, BalancingHelpsKeysWithAnOutlierChannel) {
  std::mt19937 random(3);
  Floats keys = RandomHalves(100 * 64, random);
  for (size_t i = 5; i < keys.size(); i += 64) keys[i] *= 32;
  std::vector<int> slots(100);
  std::iota(slots.begin(), slots.end(), 0);
  const auto error = [&](const std::string& balance) {
    const auto head = MakeStore({64, 64, 64, balance, "stored"})->Make(64, 64);
    Floats factors(64, 1.0f);
    factors[5] = 1 / 32.0f;
    if (balance != "none") head->BalanceKeys(factors);
    head->Append(keys, keys, 100);
    head->Keep(slots, std::vector<uint8_t>(100, 4));
    Floats read(keys.size());
    head->ReadKeys(0, 100, read.data());
    double sum = 0;
    for (size_t i = 0; i < keys.size(); ++i) sum += i % 64 == 5 ? 0 : (read[i] - keys[i]) * (read[i] - keys[i]);
    return sum;
  };
  EXPECT_LT(error("key"), 0.1 * error("none"));
}

TEST(MixedDeathTest, RefusesWhatCannotBe) {
  const Floats rows(64, 1.0f);
  const auto head = MakeStore({64, 64, 64, "none", "stored"})->Make(64, 64);
  head->Append(rows, rows, 1);
  const std::vector<int> slots{0};
  const auto keep = [&](uint8_t bits) { head->Keep(slots, std::vector<uint8_t>{bits}); };
  EXPECT_DEATH(keep(3), "check failed");
  keep(4);
  EXPECT_DEATH(keep(8), "check failed") << "bits never rise";
  EXPECT_DEATH(head->BalanceKeys(rows), "check failed") << "it was not asked to balance";
  const auto balanced = MakeStore({64, 64, 64, "key", "stored"})->Make(64, 64);
  balanced->Append(rows, rows, 1);
  EXPECT_DEATH(balanced->BalanceKeys(rows), "check failed") << "too late";
  EXPECT_DEATH(balanced->Keep(slots, std::vector<uint8_t>{8}), "check failed") << "the factors never came";
}

}  // namespace
}  // namespace kvscope
