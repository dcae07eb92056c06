// SPDX-License-Identifier: Apache-2.0
// What every store promises: bytes as billed, entries that survive neighbours' eviction unchanged, errors within
// bounds.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "core/half.h"
#include "replay/registry.h"

namespace kvscope {
namespace {

std::vector<float> RandomRows(int count, int dim, int seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 2);
  std::vector<float> rows(count * dim);
  for (float& value : rows) value = FloatFromHalf(HalfFromFloat(normal(random)));
  return rows;
}

std::unique_ptr<Store> MakeStore(const std::string& name) {
  Params params;
  return Stores().at(name).make(params);
}

class EveryStore : public testing::TestWithParam<std::tuple<std::string, int, int>> {
 protected:
  std::string name() const { return std::get<0>(GetParam()); }
  int dim_k() const { return std::get<1>(GetParam()); }
  int dim_v() const { return std::get<2>(GetParam()); }

  std::unique_ptr<Store> store_ = MakeStore(name());
  std::unique_ptr<StoredHead> head_ = store_->Make(dim_k(), dim_v());
  std::vector<float> k_ = RandomRows(50, dim_k(), 1), v_ = RandomRows(50, dim_v(), 2);

  std::vector<float> Keys(int begin, int count) const {
    std::vector<float> rows(count * dim_k());
    head_->ReadKeys(begin, count, rows.data());
    return rows;
  }
  std::vector<float> Values(int begin, int count) const {
    std::vector<float> rows(count * dim_v());
    head_->ReadValues(begin, count, rows.data());
    return rows;
  }
};

std::vector<std::string> StoreNames() {
  std::vector<std::string> names;
  for (const auto& [name, info] : Stores()) names.push_back(name);
  return names;
}
INSTANTIATE_TEST_SUITE_P(Stores, EveryStore,
                         testing::Combine(testing::ValuesIn(StoreNames()), testing::Values(64, 80, 128),
                                          testing::Values(64, 96)));

TEST_P(EveryStore, HoldsTheBytesItBills) {
  if (store_->groups_tokens()) GTEST_SKIP() << "entries share scales and cannot go one by one";
  EXPECT_EQ(head_->bytes(), 0);
  head_->Append(k_, v_, 50);
  EXPECT_EQ(head_->num_slots(), 50);
  EXPECT_DOUBLE_EQ(head_->bytes(), 50 * store_->BytesPerEntry(dim_k(), dim_v()));
  head_->Keep(std::vector<int>{0, 7, 49}, {});
  EXPECT_DOUBLE_EQ(head_->bytes(), 3 * store_->BytesPerEntry(dim_k(), dim_v()));
  head_->Keep({}, {});
  EXPECT_EQ(head_->bytes(), 0);
}

TEST_P(EveryStore, HoldsTheBytesItBillsForALoad) {
  for (int entries : {1, 31, 32, 33, 50}) {
    head_ = store_->Make(dim_k(), dim_v());
    head_->Append(std::span(k_).first(entries * dim_k()), std::span(v_).first(entries * dim_v()), entries);
    head_->Settle();
    EXPECT_DOUBLE_EQ(head_->bytes(), store_->LoadedBytes(entries, dim_k(), dim_v())) << entries;
  }
}

// Once it is settled: a store that packs groups of tokens waits for them.
TEST_P(EveryStore, ReadsTheSameHoweverEntriesArrived) {
  head_->Append(k_, v_, 50);
  head_->Settle();
  const std::vector<float> at_once = Keys(0, 50), values_at_once = Values(0, 50);
  head_ = store_->Make(dim_k(), dim_v());
  for (int slot = 0; slot < 50; ++slot) {
    head_->Append(std::span(k_).subspan(slot * dim_k(), dim_k()), std::span(v_).subspan(slot * dim_v(), dim_v()), 1);
  }
  head_->Settle();
  EXPECT_EQ(Keys(0, 50), at_once);
  EXPECT_EQ(Values(0, 50), values_at_once);
  EXPECT_EQ(Keys(13, 1), std::vector<float>(at_once.begin() + 13 * dim_k(), at_once.begin() + 14 * dim_k()));
  EXPECT_EQ(Values(13, 1),
            std::vector<float>(values_at_once.begin() + 13 * dim_v(), values_at_once.begin() + 14 * dim_v()));
}

TEST_P(EveryStore, RawKeysAreThoseThatAreRead) {
  head_->Append(k_, v_, 50);
  head_->Settle();
  for (int begin = 0; begin < 50; ++begin) {
    DType dtype;
    const void* const rows = head_->RawKeys(begin, dtype);
    if (rows == nullptr) continue;
    std::vector<float> raw((50 - begin) * dim_k());
    if (dtype == DType::kF16) {
      FloatsFromHalves({static_cast<const Half*>(rows), raw.size()}, raw);
    } else {
      ASSERT_EQ(dtype, DType::kF32);
      std::copy_n(static_cast<const float*>(rows), raw.size(), raw.begin());
    }
    ASSERT_EQ(raw, Keys(begin, 50 - begin)) << begin;
  }
}

TEST_P(EveryStore, KeptEntriesDoNotChange) {
  if (store_->groups_tokens()) GTEST_SKIP() << "entries share scales and cannot go one by one";
  head_->Append(k_, v_, 50);
  const std::vector<float> keys = Keys(0, 50), values = Values(0, 50);
  const std::unique_ptr<StoredHead> clone = head_->Clone();
  const std::vector<int> slots{1, 2, 17, 30, 49};
  head_->Keep(slots, {});
  head_->Append(std::span(k_).first(dim_k()), std::span(v_).first(dim_v()), 1);
  for (size_t kept = 0; kept < slots.size(); ++kept) {
    const auto key = keys.begin() + slots[kept] * dim_k(), value = values.begin() + slots[kept] * dim_v();
    EXPECT_EQ(Keys(static_cast<int>(kept), 1), std::vector<float>(key, key + dim_k()));
    EXPECT_EQ(Values(static_cast<int>(kept), 1), std::vector<float>(value, value + dim_v()));
  }
  EXPECT_EQ(Keys(5, 1), std::vector<float>(keys.begin(), keys.begin() + dim_k()));
  std::vector<float> cloned(50 * dim_k());
  clone->ReadKeys(0, 50, cloned.data());
  EXPECT_EQ(cloned, keys) << "a clone shares nothing";
}

TEST_P(EveryStore, ErrorIsThatOfItsBits) {
  if (store_->groups_tokens()) GTEST_SKIP() << "groups are not those of a row: kivi_test compares every value";
  head_->Append(k_, v_, 50);
  const std::vector<float> keys = Keys(0, 50);
  for (int slot = 0; slot < 50; ++slot) {
    const std::span<const float> row = std::span(k_).subspan(slot * dim_k(), dim_k());
    const auto [low, high] = std::minmax_element(row.begin(), row.end());
    // Half a step of the coarsest group that the row can have; exact for the floats.
    float bound = 0;
    if (store_->bits() == 8) bound = 0.5f * std::max(-*low, *high) / 127;
    if (store_->bits() == 4) bound = 0.5f * (*high - *low) / 15;
    if (store_->bits() == 2) bound = 0.5f * (*high - *low) / 3;
    for (int dim = 0; dim < dim_k(); ++dim) {
      ASSERT_LE(std::fabs(keys[slot * dim_k() + dim] - row[dim]), bound * (1 + 0x1p-9f));
    }
  }
}

TEST(Stores, BytesPerEntryAreThoseOfTheCatalogue) {
  EXPECT_EQ(MakeStore("fp16")->BytesPerEntry(64, 64), 256);
  EXPECT_EQ(MakeStore("fp32")->BytesPerEntry(64, 64), 512);
  EXPECT_EQ(MakeStore("int8")->BytesPerEntry(64, 64), 132);
  EXPECT_EQ(MakeStore("int4")->BytesPerEntry(64, 64), 72);
  EXPECT_EQ(MakeStore("int4")->BytesPerEntry(128, 128), 144);
  EXPECT_EQ(MakeStore("int4")->BytesPerEntry(80, 64), 2 * 36 + 12);
  EXPECT_EQ(MakeStore("int2")->BytesPerEntry(64, 64), 40);
  EXPECT_EQ(MakeStore("mixed")->BytesPerEntry(64, 64), 256);
  EXPECT_EQ(MakeStore("kivi")->BytesPerEntry(64, 64), 48);
}

}  // namespace
}  // namespace kvscope
