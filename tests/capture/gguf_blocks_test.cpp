// SPDX-License-Identifier: Apache-2.0
#include "capture/gguf_blocks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "core/error.h"
#include "core/half.h"
#include "core/sha256.h"
#include "tests/support/capture_tiny_gguf.h"

namespace kvscope {
namespace {

// What the gguf package made of random blocks: tests/python/make_blocks_fixture.py.
class Fixture {
 public:
  Fixture() {
    const std::string path = KVSCOPE_SOURCE_DIR "/tests/capture/fixtures/blocks";
    std::ifstream(path + ".json") >> header_;
    std::ostringstream bytes;
    bytes << std::ifstream(path + ".bin", std::ios::binary).rdbuf();
    bytes_ = std::move(bytes).str();
  }

  const nlohmann::json& types() const { return header_.at("types"); }
  const nlohmann::json& Type(GgufType type) const {
    for (const nlohmann::json& entry : types())
      if (entry.at("number") == static_cast<uint32_t>(type)) return entry;
    throw std::out_of_range(GgufTypeName(type));
  }
  // Of a readable type, any number of whole blocks.
  std::span<const std::byte> Blocks(const nlohmann::json& entry) const {
    const nlohmann::json& array = header_.at("arrays").at(entry.at("blocks").get<std::string>());
    return std::as_bytes(std::span(bytes_)).subspan(array.at("offset"), array.at("bytes"));
  }

 private:
  nlohmann::json header_;
  std::string bytes_;
};

class GgufBlocks : public testing::TestWithParam<GgufType> {
 protected:
  std::vector<float> Dequantized(std::span<const std::byte> blocks) const {
    const int64_t elements = GgufBlockElements(GetParam());
    std::vector<float> weights(blocks.size() / GgufRowBytes(GetParam(), elements) * elements);
    DequantizeRow(GetParam(), blocks.data(), weights);
    return weights;
  }

  const Fixture fixture_;
};

TEST_P(GgufBlocks, DequantiseToTheBitAsTheGgufPackageDoes) {
  const nlohmann::json& expected = fixture_.Type(GetParam());
  EXPECT_EQ(GgufTypeName(GetParam()), expected.at("name"));
  const std::vector<float> weights = Dequantized(fixture_.Blocks(expected));
  const size_t third = 2 * GgufBlockElements(GetParam());
  for (size_t i = 0; i < 32; ++i) {
    const float wanted = expected.at("first").at(i);
    ASSERT_EQ(std::bit_cast<uint32_t>(weights[third + i]), std::bit_cast<uint32_t>(wanted))
        << weights[third + i] << " for " << wanted << " at weight " << i << " of the third block";
  }
  EXPECT_EQ(HexSha256(std::as_bytes(std::span(weights))), expected.at("sha256"));
}

std::vector<GgufType> QuantisedTypes() {
  std::vector<GgufType> types;
  for (const GgufType type : ReadableGgufTypes())
    if (FormatOf(type)) types.push_back(type);
  return types;
}

class QuantisedBlocks : public GgufBlocks {};

struct Unpacked {
  std::vector<uint8_t> codes;
  std::vector<float> scales, minimums;

  Unpacked(GgufType type, std::span<const std::byte> blocks) {
    const QuantFormat& format = *FormatOf(type);
    const int64_t elements = GgufBlockElements(type);
    codes.resize(blocks.size() / GgufRowBytes(type, elements) * elements);
    scales.resize(codes.size() / format.group);
    minimums.resize(format.has_minimum ? scales.size() : 0);
    UnpackRow(type, blocks.data(), static_cast<int64_t>(codes.size()), codes, scales, minimums);
  }
};

TEST_P(QuantisedBlocks, AreScaleTimesCodePlusMinimumInOneRounding) {
  const GgufType type = GetParam();
  const QuantFormat& format = *FormatOf(type);
  const std::span<const std::byte> blocks = fixture_.Blocks(fixture_.Type(type));
  const Unpacked found(type, blocks);
  const std::vector<float> weights = Dequantized(blocks);
  for (size_t i = 0; i < weights.size(); ++i) {
    const float scale = found.scales[i / format.group];
    const float minimum =
        format.has_minimum ? found.minimums[i / format.group] : -static_cast<float>(format.zero) * scale;
    ASSERT_EQ(weights[i], std::fma(scale, static_cast<float>(found.codes[i]), minimum)) << i;
  }
  const int largest = *std::max_element(found.codes.begin(), found.codes.end());
  EXPECT_EQ(format.code_bits == 4, largest < 16);
  const auto is_half = [](float value) { return FloatFromHalf(HalfFromFloat(value)) == value; };
  EXPECT_EQ(format.is_half, std::all_of(found.scales.begin(), found.scales.end(), is_half) &&
                                std::all_of(found.minimums.begin(), found.minimums.end(), is_half));
}

TEST_P(QuantisedBlocks, UnpackAPartOfARowAsTheWholeRow) {
  const GgufType type = GetParam();
  const std::span<const std::byte> blocks = fixture_.Blocks(fixture_.Type(type));
  const Unpacked whole(type, blocks);
  const int64_t begin = 5 * GgufRowBytes(type, GgufBlockElements(type));
  const Unpacked rest(type, blocks.subspan(begin));
  const auto ends_with = [](const auto& all, const auto& end) {
    return std::equal(end.rbegin(), end.rend(), all.rbegin());
  };
  EXPECT_TRUE(ends_with(whole.codes, rest.codes));
  EXPECT_TRUE(ends_with(whole.scales, rest.scales));
  EXPECT_TRUE(ends_with(whole.minimums, rest.minimums));
}

INSTANTIATE_TEST_SUITE_P(Types, GgufBlocks, testing::ValuesIn(ReadableGgufTypes()),
                         [](const auto& instance) { return GgufTypeName(instance.param); });

INSTANTIATE_TEST_SUITE_P(Types, QuantisedBlocks, testing::ValuesIn(QuantisedTypes()),
                         [](const auto& instance) { return GgufTypeName(instance.param); });

// One byte of a block that is zero but for its f16 numbers, which are 1, and the one thing that it changes.
struct ByteMeaning {
  GgufType type;
  int byte, value;
  enum { kCode, kScale, kMinimum } what;
  int index;
  float becomes;
};

TEST(GgufBlockLayout, GivesEveryFieldItsPlace) {
  using enum GgufType;
  constexpr auto kCode = ByteMeaning::kCode;
  constexpr auto kScale = ByteMeaning::kScale;
  constexpr auto kMinimum = ByteMeaning::kMinimum;
  const std::map<GgufType, std::vector<int>> halves = {
      {kQ4_0, {0}},   {kQ4_1, {0, 2}}, {kQ5_0, {0}},    {kQ5_1, {0, 2}}, {kQ8_0, {0}},  {kQ2_K, {80, 82}},
      {kQ3_K, {108}}, {kQ4_K, {0, 2}}, {kQ5_K, {0, 2}}, {kQ6_K, {208}},  {kIQ4_NL, {0}}};
  const ByteMeaning meanings[] = {
      {kQ4_0, 1, 0xbc, kScale, 0, -1},         {kQ4_0, 2, 0x0f, kCode, 0, 15},
      {kQ4_0, 2, 0xf0, kCode, 16, 15},         {kQ4_0, 17, 0x30, kCode, 31, 3},
      {kQ4_1, 3, 0xbc, kMinimum, 0, -1},       {kQ4_1, 4, 0x05, kCode, 0, 5},
      {kQ4_1, 19, 0x50, kCode, 31, 5},         {kQ5_0, 2, 0x01, kCode, 0, 16},
      {kQ5_0, 5, 0x80, kCode, 31, 16},         {kQ5_0, 6, 0x0a, kCode, 0, 10},
      {kQ5_0, 21, 0xa0, kCode, 31, 10},        {kQ5_1, 3, 0xbc, kMinimum, 0, -1},
      {kQ5_1, 4, 0x02, kCode, 1, 16},          {kQ5_1, 7, 0x01, kCode, 24, 16},
      {kQ5_1, 8, 0x07, kCode, 0, 7},           {kQ5_1, 23, 0x70, kCode, 31, 7},
      {kQ8_0, 2, 0x81, kCode, 0, 128 - 127},   {kQ8_0, 33, 0x7f, kCode, 31, 128 + 127},
      {kQ2_K, 0, 0x05, kScale, 0, 5},          {kQ2_K, 15, 0x90, kMinimum, 15, -9},
      {kQ2_K, 16, 0x03, kCode, 0, 3},          {kQ2_K, 16, 0x0c, kCode, 32, 3},
      {kQ2_K, 47, 0xc0, kCode, 127, 3},        {kQ2_K, 48, 0x01, kCode, 128, 1},
      {kQ2_K, 79, 0x80, kCode, 255, 2},        {kQ3_K, 0, 0x01, kCode, 0, 4},
      {kQ3_K, 5, 0x04, kCode, 69, 4},          {kQ3_K, 31, 0x80, kCode, 255, 4},
      {kQ3_K, 32, 0x03, kCode, 0, 3},          {kQ3_K, 95, 0xc0, kCode, 255, 3},
      {kQ3_K, 96, 0x0f, kScale, 0, 15 - 32},   {kQ3_K, 96, 0x70, kScale, 8, 7 - 32},
      {kQ3_K, 104, 0x03, kScale, 0, 48 - 32},  {kQ3_K, 104, 0x04, kScale, 4, 16 - 32},
      {kQ3_K, 107, 0xc0, kScale, 15, 48 - 32}, {kQ4_K, 4, 0x3f, kScale, 0, 63},
      {kQ4_K, 4, 0xc0, kScale, 4, 48},         {kQ4_K, 8, 0x3f, kMinimum, 0, -63},
      {kQ4_K, 11, 0xc0, kMinimum, 7, -48},     {kQ4_K, 15, 0x0f, kScale, 7, 15},
      {kQ4_K, 15, 0x30, kMinimum, 7, -3},      {kQ4_K, 16, 0x0f, kCode, 0, 15},
      {kQ4_K, 16, 0xf0, kCode, 32, 15},        {kQ4_K, 48, 0x01, kCode, 64, 1},
      {kQ4_K, 143, 0xf0, kCode, 255, 15},      {kQ5_K, 7, 0x80, kScale, 7, 32},
      {kQ5_K, 12, 0x20, kMinimum, 4, -2},      {kQ5_K, 16, 0x01, kCode, 0, 16},
      {kQ5_K, 16, 0x80, kCode, 224, 16},       {kQ5_K, 47, 0x02, kCode, 63, 16},
      {kQ5_K, 48, 0x0f, kCode, 0, 15},         {kQ5_K, 175, 0xf0, kCode, 255, 15},
      {kQ6_K, 0, 0x0f, kCode, 0, 15},          {kQ6_K, 0, 0xf0, kCode, 64, 15},
      {kQ6_K, 64, 0x0f, kCode, 128, 15},       {kQ6_K, 127, 0xf0, kCode, 255, 15},
      {kQ6_K, 128, 0x03, kCode, 0, 48},        {kQ6_K, 128, 0xc0, kCode, 96, 48},
      {kQ6_K, 160, 0x04, kCode, 160, 16},      {kQ6_K, 192, 0x7f, kScale, 0, 127},
      {kQ6_K, 207, 0x80, kScale, 15, -128},    {kIQ4_NL, 2, 0x0f, kCode, 0, 128 + 113},
      {kIQ4_NL, 17, 0x80, kCode, 31, 128 + 1},
  };
  std::set<GgufType> seen;
  for (const ByteMeaning& meaning : meanings) {
    seen.insert(meaning.type);
    std::vector<std::byte> block(GgufRowBytes(meaning.type, GgufBlockElements(meaning.type)));
    for (const int at : halves.at(meaning.type)) block[at + 1] = std::byte{0x3c};
    Unpacked expected(meaning.type, block);
    if (meaning.what == kCode) expected.codes[meaning.index] = static_cast<uint8_t>(meaning.becomes);
    if (meaning.what == kScale) expected.scales[meaning.index] = meaning.becomes;
    if (meaning.what == kMinimum) expected.minimums[meaning.index] = meaning.becomes;
    block[meaning.byte] = static_cast<std::byte>(meaning.value);
    const Unpacked found(meaning.type, block);
    const std::string where = StrCat(GgufTypeName(meaning.type), " byte ", meaning.byte);
    EXPECT_EQ(found.codes, expected.codes) << where;
    EXPECT_EQ(found.scales, expected.scales) << where;
    EXPECT_EQ(found.minimums, expected.minimums) << where;
  }
  EXPECT_THAT(QuantisedTypes(), testing::UnorderedElementsAreArray(seen));
}

TEST(GgufBlockLayout, NamesWhatItReadsAndWhatNot) {
  EXPECT_EQ(ReadableGgufTypeNames(),
            "F32, F16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL or BF16");
  const std::pair<uint32_t, const char*> others[] = {
      {4, "type 4"}, {9, "Q8_1"},   {15, "Q8_K"},  {16, "IQ2_XXS"}, {17, "IQ2_XS"}, {18, "IQ3_XXS"},
      {19, "IQ1_S"}, {21, "IQ3_S"}, {22, "IQ2_S"}, {23, "IQ4_XS"},  {26, "I32"},    {28, "F64"},
      {29, "IQ1_M"}, {34, "TQ1_0"}, {35, "TQ2_0"}, {39, "MXFP4"},   {42, "Q2_0"},   {77, "type 77"}};
  for (const auto& [number, name] : others) {
    const auto type = static_cast<GgufType>(number);
    EXPECT_EQ(GgufTypeName(type), name);
    EXPECT_FALSE(IsReadable(type)) << name;
    EXPECT_EQ(FormatOf(type), nullptr) << name;
  }
}

}  // namespace
}  // namespace kvscope
