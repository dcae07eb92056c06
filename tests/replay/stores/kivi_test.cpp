// SPDX-License-Identifier: Apache-2.0
// KIVI against a plain cache that packs as the paper's code does: after the prompt, then entry by entry.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>

#include "core/error.h"
#include "kernels/quantize.h"
#include "replay/registry.h"
#include "tests/support/replay_rows.h"

namespace kvscope {
namespace {

using Floats = std::vector<float>;

struct StoreSetup {
  int dim_k, dim_v, bits, group, residual;
};

std::unique_ptr<Store> MakeStore(const StoreSetup& setup) {
  Params params("policy 'test'", {{"bits", std::to_string(setup.bits)},
                                  {"group", std::to_string(setup.group)},
                                  {"residual", std::to_string(setup.residual)}});
  return Stores().at("kivi").make(params);
}

Floats Quantized(Floats group, int bits) {
  std::vector<std::byte> packed(cpu::AsymmetricGroupBytes(static_cast<int>(group.size()), bits));
  cpu::QuantizeAsymmetric(group, bits, packed.data());
  cpu::DequantizeAsymmetric(packed.data(), bits, group);
  return group;
}

// The specification: rows as they read, and how many of each are packed.
struct PlainHead {
  StoreSetup setup;
  std::vector<Floats> k, v;
  int packed_k = 0, packed_v = 0;

  int num_entries() const { return static_cast<int>(k.size()); }
  void Append(const Floats& key, const Floats& value) { k.push_back(key), v.push_back(value); }
  void PackKeys(int count) {
    for (; count > 0; count -= setup.group, packed_k += setup.group) {
      for (int channel = 0; channel < setup.dim_k; ++channel) {
        Floats group;
        for (int i = 0; i < setup.group; ++i) group.push_back(k[packed_k + i][channel]);
        group = Quantized(group, setup.bits);
        for (int i = 0; i < setup.group; ++i) k[packed_k + i][channel] = group[i];
      }
    }
  }
  void PackValues(int count) {
    for (; count > 0; --count, ++packed_v) {
      Floats& row = v[packed_v];
      for (int begin = 0; begin < setup.dim_v; begin += setup.group) {
        const int end = std::min(begin + setup.group, setup.dim_v);
        std::ranges::copy(Quantized(Floats(row.begin() + begin, row.begin() + end), setup.bits), row.begin() + begin);
      }
    }
  }
  void AfterPrompt() {
    PackKeys(num_entries() / setup.residual * setup.residual);
    PackValues(num_entries() - setup.residual);
  }
  void AfterStep() {
    if (num_entries() - packed_k == setup.residual) PackKeys(setup.residual);
    if (num_entries() - packed_v > setup.residual) PackValues(1);
  }
};

struct Pair {
  explicit Pair(const StoreSetup& setup)
      : store(MakeStore(setup)), head(store->Make(setup.dim_k, setup.dim_v)), plain{setup, {}, {}} {}
  void Append(int count, std::mt19937& random) {
    const StoreSetup& setup = plain.setup;
    const Floats k = RandomHalves(count * setup.dim_k, random), v = RandomHalves(count * setup.dim_v, random);
    head->Append(k, v, count);
    for (int i = 0; i < count; ++i) {
      plain.Append(Floats(k.begin() + i * setup.dim_k, k.begin() + (i + 1) * setup.dim_k),
                   Floats(v.begin() + i * setup.dim_v, v.begin() + (i + 1) * setup.dim_v));
    }
  }
  void ExpectSame(std::mt19937& random) const {
    const int num_entries = plain.num_entries(), dim_k = plain.setup.dim_k, dim_v = plain.setup.dim_v;
    ASSERT_EQ(head->num_slots(), num_entries);
    Floats k, v, read_k(num_entries * dim_k), read_v(num_entries * dim_v);
    for (const Floats& row : plain.k) k.insert(k.end(), row.begin(), row.end());
    for (const Floats& row : plain.v) v.insert(v.end(), row.begin(), row.end());
    for (int begin = 0; begin < num_entries;) {
      const int count = std::uniform_int_distribution(1, std::min(256, num_entries - begin))(random);
      head->ReadKeys(begin, count, read_k.data() + begin * dim_k);
      head->ReadValues(begin, count, read_v.data() + begin * dim_v);
      begin += count;
    }
    ASSERT_TRUE(SameBits(read_k, k)) << num_entries;
    ASSERT_TRUE(SameBits(read_v, v)) << num_entries;
    DType dtype = DType::kF32;
    if (plain.packed_k > 0) {
      ASSERT_EQ(head->RawKeys(plain.packed_k - 1, dtype), nullptr);
    }
    if (plain.packed_k < num_entries) {
      ASSERT_NE(head->RawKeys(plain.packed_k, dtype), nullptr);
      ASSERT_EQ(dtype, DType::kF16);
    }
  }

  std::unique_ptr<Store> store;
  std::unique_ptr<StoredHead> head;
  PlainHead plain;
};

class Kivi : public testing::TestWithParam<StoreSetup> {};
INSTANTIATE_TEST_SUITE_P(Setups, Kivi,
                         testing::Values(StoreSetup{64, 64, 2, 32, 32}, StoreSetup{64, 64, 4, 32, 128},
                                         StoreSetup{80, 96, 2, 64, 64}, StoreSetup{128, 80, 4, 16, 48},
                                         StoreSetup{20, 16, 2, 32, 32}));

TEST_P(Kivi, EqualsThePlainSpecification) {
  for (int seed = 0; seed < 8; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    Pair pair(GetParam());
    for (int tile : {static_cast<int>(random() % 300), static_cast<int>(random() % 100)}) pair.Append(tile, random);
    pair.ExpectSame(random);
    pair.head->Settle();
    pair.plain.AfterPrompt();
    ASSERT_NO_FATAL_FAILURE(pair.ExpectSame(random)) << "after the prompt";
    for (int step = 0; step < 150; ++step) {
      pair.Append(1, random);
      ASSERT_NO_FATAL_FAILURE(pair.ExpectSame(random)) << "the step itself reads its entries in fp16";
      pair.head->Settle();
      pair.plain.AfterStep();
      ASSERT_NO_FATAL_FAILURE(pair.ExpectSame(random)) << "after step " << step;
      ASSERT_EQ(pair.head->bytes(),
                pair.store->LoadedBytes(pair.plain.num_entries(), GetParam().dim_k, GetParam().dim_v));
    }
  }
}

TEST_P(Kivi, ChunksSettleAsTokensDo) {
  std::mt19937 random(1);
  Pair pair(GetParam());
  for (int chunk : {40, 1, 100, 3, 128, 31, 64}) {
    const int before = pair.plain.num_entries();
    pair.Append(chunk, random);
    pair.head->Settle();
    // Entry by entry: packing reads what was appended, so the later entries do not matter.
    PlainHead one_by_one = pair.plain;
    one_by_one.k.resize(before), one_by_one.v.resize(before);
    for (int i = before; i < pair.plain.num_entries(); ++i) {
      one_by_one.Append(pair.plain.k[i], pair.plain.v[i]);
      one_by_one.AfterStep();
    }
    pair.plain = one_by_one;
    ASSERT_NO_FATAL_FAILURE(pair.ExpectSame(random)) << "after a chunk of " << chunk;
  }
}

TEST_P(Kivi, AfterThePromptTheResidualsAreThoseOfTheCatalogue) {
  const StoreSetup& setup = GetParam();
  for (int entries :
       {1, setup.residual - 1, setup.residual, setup.residual + 1, 3 * setup.residual, 3 * setup.residual + 5}) {
    std::mt19937 random(entries);
    Pair pair(setup);
    pair.Append(entries, random);
    const std::vector<Floats> k = pair.plain.k, v = pair.plain.v;
    pair.head->Settle();
    int exact_keys = 0, exact_values = 0;
    Floats key(setup.dim_k), value(setup.dim_v);
    for (int row = 0; row < entries; ++row) {
      pair.head->ReadKeys(row, 1, key.data());
      pair.head->ReadValues(row, 1, value.data());
      exact_keys += key == k[row], exact_values += value == v[row];
    }
    EXPECT_EQ(exact_keys, entries % setup.residual) << entries;
    EXPECT_EQ(exact_values, std::min(entries, setup.residual)) << entries;
    EXPECT_EQ(pair.head->bytes(), pair.store->LoadedBytes(entries, setup.dim_k, setup.dim_v));
  }
}

// A window of 70 entries slides over them: those in it read as if nothing had left, those that left go by the group.
TEST_P(Kivi, DropsTheOldestGroupByGroup) {
  constexpr int kWindow = 70;
  std::mt19937 random(3);
  Pair pair(GetParam());
  const StoreSetup& setup = GetParam();
  pair.Append(100, random);
  pair.head->Settle();
  pair.plain.AfterPrompt();
  for (int step = 0; step < 200; ++step) {
    const int dropped = pair.head->num_slots() - (kWindow - 1);
    std::vector<int> slots(kWindow - 1);
    std::iota(slots.begin(), slots.end(), dropped);
    pair.head->Keep(slots, {});
    pair.Append(1, random);
    ASSERT_EQ(pair.head->num_slots(), kWindow);
    const int first = pair.plain.num_entries() - kWindow;
    Floats key(setup.dim_k), value(setup.dim_v);
    for (int slot = 0; slot < kWindow; ++slot) {
      pair.head->ReadKeys(slot, 1, key.data());
      pair.head->ReadValues(slot, 1, value.data());
      ASSERT_TRUE(SameBits(key, pair.plain.k[first + slot])) << "step " << step << ", slot " << slot;
      ASSERT_TRUE(SameBits(value, pair.plain.v[first + slot])) << "step " << step << ", slot " << slot;
    }
    DType dtype;
    for (int slot = 0; slot < kWindow; ++slot)
      ASSERT_EQ(pair.head->RawKeys(slot, dtype) != nullptr, first + slot >= pair.plain.packed_k);
    pair.head->Settle();
    pair.plain.AfterStep();
    // Never more than a window, what is not packed yet, and a group that has not left wholly.
    const double most = pair.store->LoadedBytes(kWindow + setup.group + setup.residual, setup.dim_k, setup.dim_v) +
                        setup.residual * 2 * (setup.dim_k + setup.dim_v);
    ASSERT_LE(pair.head->bytes(), most) << "step " << step;
  }
}

TEST_P(Kivi, CloneSharesNothing) {
  std::mt19937 random(2);
  Pair pair(GetParam());
  pair.Append(200, random);
  pair.head->Settle();
  pair.plain.AfterPrompt();
  const std::unique_ptr<StoredHead> clone = pair.head->Clone();
  clone->Append(Floats(100 * GetParam().dim_k, 1.0f), Floats(100 * GetParam().dim_v, 1.0f), 100);
  clone->Settle();
  pair.ExpectSame(random);
}

TEST(Kivi, BillsWhatTheCatalogueSays) {
  const std::unique_ptr<Store> two = MakeStore({64, 64, 2, 32, 32}), four = MakeStore({64, 64, 4, 32, 32});
  EXPECT_EQ(two->BytesPerEntry(64, 64), 128 * 3.0 / 8) << "3 bits a channel";
  EXPECT_EQ(four->BytesPerEntry(64, 64), 128 * 5.0 / 8);
  EXPECT_EQ(two->bits(), 2);
  EXPECT_TRUE(two->groups_tokens());
  // 70 entries: 64 keys packed and 6 not, 38 values packed and 32 not.
  EXPECT_EQ(two->LoadedBytes(70, 64, 64), 64 * 24 + 6 * 128 + 38 * 24 + 32 * 128);
  EXPECT_EQ(two->LoadedBytes(31, 64, 64), 31 * 256);
  EXPECT_EQ(two->LoadedBytes(32, 64, 64), 32 * (24 + 128)) << "less than for 31: the keys are packed";
}

TEST(Kivi, KeepsAllOrHasNothingPacked) {
  std::mt19937 random(4);
  Pair pair({64, 64, 2, 32, 32});
  pair.Append(40, random);
  std::vector<int> odd;
  for (int slot = 1; slot < 40; slot += 2) odd.push_back(slot);
  pair.head->Keep(odd, {});
  PlainHead& plain = pair.plain;
  for (size_t i = 0; i < odd.size(); ++i) plain.k[i] = plain.k[odd[i]], plain.v[i] = plain.v[odd[i]];
  plain.k.resize(odd.size()), plain.v.resize(odd.size());
  pair.ExpectSame(random);
  pair.Append(50, random);
  pair.head->Settle();
  plain.AfterPrompt();
  std::vector<int> all(plain.num_entries());
  std::iota(all.begin(), all.end(), 0);
  pair.head->Keep(all, {});
  pair.ExpectSame(random);
  all.pop_back();
  EXPECT_DEATH(pair.head->Keep(all, {}), "check failed") << "that would tear a group";
}

TEST(Kivi, WantsAResidualOfWholeGroups) {
  try {
    MakeStore({64, 64, 2, 64, 32});
    FAIL() << "expected an Error";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "policy 'test': residual: expected a multiple of group=64, found 32");
  }
}

}  // namespace
}  // namespace kvscope
