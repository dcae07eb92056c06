// SPDX-License-Identifier: Apache-2.0
#include "capture/gguf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "core/error.h"
#include "core/half.h"
#include "tests/support/capture_tiny_gguf.h"

namespace kvscope {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

std::string MessageFrom(const std::string& bytes) {
  try {
    GgufFile::FromBytes("m.gguf", bytes);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

template <typename T>
std::string Raw(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof(T));
}

template <typename T>
std::string WithNumberAt(std::string bytes, size_t at, T value) {
  std::memcpy(bytes.data() + at, &value, sizeof(T));
  return bytes;
}

// A file with one key of one byte and one tensor of one number.
std::string SmallFile() {
  GgufBuilder file;
  file.AddBool("k", true);
  file.AddTensor("t", GgufType::kF32, {1}, Raw(1.0f));
  return file.Bytes();
}

TEST(Gguf, ReadsEveryMetadataType) {
  GgufBuilder file;
  file.AddRaw("u8", 0, Raw(uint8_t{200}));
  file.AddRaw("i8", 1, Raw(int8_t{-100}));
  file.AddRaw("u16", 2, Raw(uint16_t{60000}));
  file.AddRaw("i16", 3, Raw(int16_t{-30000}));
  file.AddInt("u32", 4000000000u);
  file.AddRaw("i32", 5, Raw(int32_t{-5}));
  file.AddFloat("f32", 0.5f);
  file.AddBool("yes", true);
  file.AddString("text", "hello");
  file.AddRaw("u64", 10, Raw(uint64_t{1} << 62));
  file.AddRaw("i64", 11, Raw(int64_t{-1}));
  file.AddRaw("f64", 12, Raw(0.1));
  file.AddStrings("texts", {"a", "", "ccc"});
  file.AddInts("ints", {-1, 7});
  file.AddBools("truths", {true, false, true});
  file.AddRaw("floats", 9, Raw(uint32_t{6}) + Raw(uint64_t{1}) + Raw(1.5f));
  file.AddRaw("nested", 9, Raw(uint32_t{9}) + Raw(uint64_t{1}) + Raw(uint32_t{0}) + Raw(uint64_t{2}) + "ab");
  file.AddString("last", "still in step");
  const GgufFile gguf = GgufFile::FromBytes("m.gguf", file.Bytes());
  EXPECT_EQ(gguf.Int("u8"), 200);
  EXPECT_EQ(gguf.Int("i8"), -100);
  EXPECT_EQ(gguf.Int("u16"), 60000);
  EXPECT_EQ(gguf.Int("i16"), -30000);
  EXPECT_EQ(gguf.Int("u32"), 4000000000);
  EXPECT_EQ(gguf.Int("i32"), -5);
  EXPECT_EQ(gguf.Int("u64"), int64_t{1} << 62);
  EXPECT_EQ(gguf.Int("i64"), -1);
  EXPECT_EQ(gguf.Float("f32"), 0.5);
  EXPECT_EQ(gguf.Float("f64"), 0.1);
  EXPECT_EQ(gguf.Float("u8"), 200.0);
  EXPECT_EQ(gguf.Bool("yes"), true);
  EXPECT_EQ(gguf.String("text"), "hello");
  EXPECT_THAT(*gguf.StringArray("texts"), ElementsAre("a", "", "ccc"));
  EXPECT_THAT(*gguf.IntArray("ints"), ElementsAre(-1, 7));
  EXPECT_THAT(*gguf.FloatArray("floats"), ElementsAre(1.5));
  EXPECT_THAT(*gguf.BoolArray("truths"), ElementsAre(true, false, true));
  EXPECT_TRUE(gguf.HasArray("ints"));
  EXPECT_FALSE(gguf.HasArray("text"));
  EXPECT_FALSE(gguf.HasArray("absent"));
  EXPECT_EQ(gguf.String("last"), "still in step");
  EXPECT_EQ(gguf.Int("absent"), std::nullopt);
  EXPECT_FALSE(gguf.StringArray("absent").has_value());
  EXPECT_EQ(gguf.Keys().size(), 18u);
}

TEST(Gguf, NamesFileAndKeyWhenAValueIsAbsentOrOfAnotherType) {
  GgufBuilder file;
  file.AddString("text", "hello");
  file.AddFloat("nan", std::numeric_limits<float>::quiet_NaN());
  file.AddRaw("huge", 10, Raw(~uint64_t{0}));
  file.AddInt("count", 7);
  file.AddInts("ints", {0, 1});
  const GgufFile gguf = GgufFile::FromBytes("m.gguf", file.Bytes());
  const auto message = [](auto&& call) -> std::string {
    try {
      call();
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_THAT(message([&] { gguf.RequireInt("a.b"); }), HasSubstr("m.gguf:a.b: expected this metadata key"));
  EXPECT_THAT(message([&] { gguf.Int("text"); }), HasSubstr("m.gguf:text: expected an integer, found a text"));
  EXPECT_THAT(message([&] { gguf.Float("nan"); }), HasSubstr("m.gguf:nan: expected a finite number"));
  EXPECT_THAT(message([&] { gguf.Int("huge"); }), HasSubstr("expected at most 2^63 - 1"));
  EXPECT_THAT(message([&] { gguf.IntArray("count"); }),
              HasSubstr("expected an array, found a 32-bit unsigned integer"));
  EXPECT_THAT(message([&] { gguf.BoolArray("ints"); }),
              HasSubstr("m.gguf:ints: expected an array of truth values, found an array of a 32-bit integer"));
  EXPECT_THAT(message([&] { gguf.RequireIntIn("count", 1, 6); }), HasSubstr("from 1 to 6, found 7"));
  EXPECT_EQ(gguf.RequireIntIn("count", 7, 7), 7);
}

TEST(Gguf, ReadsVersionTwoAndThreeAlike) {
  const std::string two = TinyGgufBytes({.version = 2});
  const std::string three = TinyGgufBytes({.version = 3});
  const GgufFile old_file = GgufFile::FromBytes("old", two);
  const GgufFile new_file = GgufFile::FromBytes("new", three);
  EXPECT_EQ(old_file.version(), 2);
  EXPECT_EQ(new_file.version(), 3);
  EXPECT_EQ(old_file.tensors().size(), new_file.tensors().size());
  EXPECT_EQ(old_file.tensors().size(), 2u + 2 * 9);
}

TEST(Gguf, OpensAFileOnDisk) {
  const std::string bytes = TinyGgufBytes();
  const GgufFile gguf = GgufFile::Open(WriteTempFile("open.gguf", bytes));
  EXPECT_EQ(gguf.file_bytes(), static_cast<int64_t>(bytes.size()));
  EXPECT_EQ(gguf.RequireString("general.architecture"), "llama");
  const GgufTensor* tensor = gguf.Find("blk.1.attn_k.weight");
  ASSERT_NE(tensor, nullptr);
  EXPECT_THAT(tensor->shape, ElementsAre(32, 16));
  EXPECT_EQ(tensor->data.size(), 4u * 32 * 16);
  EXPECT_EQ(gguf.Find("blk.2.attn_k.weight"), nullptr);
}

TEST(Gguf, DequantizesEveryTypeAsSpecified) {
  // One block of each 4-bit type with quants 0..15 in the low and 15..0 in the high halves.
  std::string nibbles;
  for (int i = 0; i < 16; ++i) nibbles += static_cast<char>(i | (15 - i) << 4);
  std::string bytes8;
  for (int i = 0; i < 32; ++i) bytes8 += static_cast<char>(i * 8 - 128);
  const Half d = HalfFromFloat(0.37f), m = HalfFromFloat(-1.9f);
  GgufBuilder file;
  file.AddTensor("q4_0", GgufType::kQ4_0, {32}, Raw(d.bits) + nibbles);
  file.AddTensor("q4_1", GgufType::kQ4_1, {32}, Raw(d.bits) + Raw(m.bits) + nibbles);
  file.AddTensor("q8_0", GgufType::kQ8_0, {32}, Raw(d.bits) + bytes8);
  file.AddTensor("f16", GgufType::kF16, {2}, Raw(d.bits) + Raw(m.bits));
  const GgufFile gguf = GgufFile::FromBytes("m.gguf", file.Bytes());
  std::vector<float> q4_0(32), q4_1(32), q8_0(32), f16(2);
  gguf.Dequantize(*gguf.Find("q4_0"), 0, q4_0);
  gguf.Dequantize(*gguf.Find("q4_1"), 0, q4_1);
  gguf.Dequantize(*gguf.Find("q8_0"), 0, q8_0);
  gguf.Dequantize(*gguf.Find("f16"), 0, f16);
  const float scale = FloatFromHalf(d), minimum = FloatFromHalf(m);
  for (int i = 0; i < 32; ++i) {
    const int quant = i < 16 ? i : 31 - i;
    EXPECT_EQ(q4_0[i], scale * static_cast<float>(quant - 8)) << i;
    EXPECT_EQ(q4_1[i], std::fma(scale, static_cast<float>(quant), minimum)) << i;
    EXPECT_EQ(q8_0[i], scale * static_cast<float>(i * 8 - 128)) << i;
  }
  EXPECT_THAT(f16, ElementsAre(scale, minimum));
}

class GgufEveryType : public testing::TestWithParam<GgufType> {};

TEST_P(GgufEveryType, ReadsARangeOfRowsAsTheWholeTensor) {
  const GgufFile gguf =
      GgufFile::FromBytes("m.gguf", TinyGgufBytes({.head_dim = 64, .ffn = 256, .matrix_type = GetParam()}));
  const GgufTensor& tensor = *gguf.Find("blk.0.ffn_down.weight");
  std::vector<float> whole(static_cast<size_t>(tensor.Cols() * tensor.Rows()));
  gguf.Dequantize(tensor, 0, whole);
  std::vector<float> part(static_cast<size_t>(tensor.Cols() * 3));
  gguf.Dequantize(tensor, 5, part);
  EXPECT_TRUE(std::equal(part.begin(), part.end(), whole.begin() + 5 * tensor.Cols()));
  double squares = 0;
  for (const float value : whole) squares += value * value;
  // The builder promises variance 1 / columns; quantisation with jittered steps moves it by less than half.
  EXPECT_NEAR(squares / static_cast<double>(tensor.Rows()), 1.0, 0.5);
}

INSTANTIATE_TEST_SUITE_P(Types, GgufEveryType, testing::ValuesIn(ReadableGgufTypes()),
                         [](const auto& instance) { return GgufTypeName(instance.param); });

TEST(Gguf, RefusesWeightsThatAreNotFinite) {
  for (const float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    GgufBuilder file;
    file.AddTensor("t", GgufType::kF32, {2, 2}, Raw(1.0f) + Raw(2.0f) + Raw(3.0f) + Raw(bad));
    const GgufFile gguf = GgufFile::FromBytes("m.gguf", file.Bytes());
    std::vector<float> row(2);
    gguf.Dequantize(*gguf.Find("t"), 0, row);
    try {
      gguf.Dequantize(*gguf.Find("t"), 1, row);
      ADD_FAILURE() << "accepted " << bad;
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), AllOf(HasSubstr("m.gguf:t"), HasSubstr("row 1, column 1")));
    }
  }
}

TEST(Gguf, OpensWithUnreadableTensorTypesAndNamesThemWhenAsked) {
  GgufBuilder file;
  file.AddTensor("t", static_cast<GgufType>(23), {256}, std::string(136, 'x'));
  const GgufFile gguf = GgufFile::FromBytes("m.gguf", file.Bytes());
  ASSERT_NE(gguf.Find("t"), nullptr);
  std::vector<float> row(256);
  try {
    gguf.Dequantize(*gguf.Find("t"), 0, row);
    ADD_FAILURE() << "accepted IQ4_XS";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(),
                 "m.gguf:t: expected F32, F16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL or "
                 "BF16, found IQ4_XS; use a file of the same model in one of those types");
  }
}

TEST(Gguf, RefusesAMissingTensorAndAnotherShape) {
  const GgufFile gguf = GgufFile::FromBytes("m.gguf", TinyGgufBytes());
  const std::vector<int64_t> right = {32, 16}, wrong = {16, 32};
  EXPECT_EQ(gguf.RequireTensor("blk.0.attn_k.weight", right).Rows(), 16);
  EXPECT_THROW(gguf.RequireTensor("blk.0.attn_k.weight", wrong), Error);
  EXPECT_THROW(gguf.RequireTensor("blk.9.attn_k.weight", right), Error);
}

TEST(Gguf, RefusesWhatIsNotAGgufFile) {
  EXPECT_THAT(MessageFrom("PK\x03\x04 a zip"),
              AllOf(HasSubstr("expected a GGUF model file"), HasSubstr("'PK\\x03\\x04")));
  EXPECT_THAT(MessageFrom(""), HasSubstr("found 0 bytes"));
  EXPECT_THAT(MessageFrom(WithNumberAt(SmallFile(), 4, uint32_t{1})), HasSubstr("version 2 or 3, found 1; convert"));
  EXPECT_THAT(MessageFrom(WithNumberAt(SmallFile(), 4, uint32_t{4})), HasSubstr("found 4; update kvscope"));
  EXPECT_THAT(MessageFrom(WithNumberAt(SmallFile(), 4, uint32_t{0x03000000})), HasSubstr("big endian"));
  EXPECT_THROW(GgufFile::Open("/nonexistent/m.gguf"), Error);
  EXPECT_THROW(GgufFile::Open(testing::TempDir()), Error);
  EXPECT_THROW(GgufFile::Open(WriteTempFile("empty.gguf", "")), Error);
}

TEST(Gguf, RefusesEveryTruncation) {
  GgufBuilder builder;
  builder.AddString("general.architecture", "llama");
  builder.AddStrings("texts", {"a", "bb"});
  builder.AddInts("ints", {1, 2, 3});
  builder.AddTensor("a", GgufType::kQ4_1, {32, 2}, std::string(40, '\0'));
  builder.AddTensor("b", GgufType::kF32, {8}, std::string(32, '\0'));
  const std::string bytes = builder.Bytes();
  ASSERT_EQ(MessageFrom(bytes), "");
  for (size_t length = 0; length < bytes.size(); ++length) {
    EXPECT_THAT(MessageFrom(bytes.substr(0, length)), AllOf(HasSubstr("m.gguf: expected"), HasSubstr("; "))) << length;
  }
}

TEST(Gguf, RefusesEveryTruncationOfAWholeModel) {
  const std::string bytes = TinyGgufBytes();
  for (size_t length = 0; length < bytes.size(); length += 97) {
    ASSERT_NE(MessageFrom(bytes.substr(0, length)), "") << length;
  }
}

TEST(Gguf, SurvivesEveryByteChanged) {
  const std::string bytes = SmallFile();
  for (size_t at = 0; at < bytes.size(); ++at) {
    for (const int change : {0x01, 0x80, 0xFF}) {
      std::string changed = bytes;
      changed[at] = static_cast<char>(changed[at] ^ change);
      try {
        const GgufFile gguf = GgufFile::FromBytes("m.gguf", changed);
        for (const GgufTensor& tensor : gguf.tensors()) {
          std::vector<float> row(static_cast<size_t>(IsReadable(tensor.type) ? tensor.Cols() : 0));
          if (!row.empty()) gguf.Dequantize(tensor, 0, row);
        }
      } catch (const Error& error) {
        EXPECT_THAT(error.what(), Not(HasSubstr("\n")));
      }
    }
  }
}

TEST(Gguf, RefusesWildCounts) {
  for (const uint64_t wild : {uint64_t{1000}, uint64_t{1} << 32, uint64_t{1} << 60, ~uint64_t{0}}) {
    EXPECT_THAT(MessageFrom(WithNumberAt(SmallFile(), 8, wild)), HasSubstr(StrCat("count of ", wild)));
    EXPECT_THAT(MessageFrom(WithNumberAt(SmallFile(), 16, wild)), HasSubstr(StrCat("count of ", wild)));
    GgufBuilder array;
    array.AddRaw("texts", 9, Raw(uint32_t{8}) + Raw(wild));
    EXPECT_THAT(MessageFrom(array.Bytes()), HasSubstr(StrCat("count of ", wild)));
    GgufBuilder text;
    text.AddRaw("text", 8, Raw(wild));
    EXPECT_THAT(MessageFrom(text.Bytes()), HasSubstr(StrCat("expected ", wild, " bytes")));
    GgufBuilder offset;
    offset.AddTensorAt("t", GgufType::kF32, {1}, wild & ~uint64_t{31});
    EXPECT_THAT(MessageFrom(offset.Bytes()), HasSubstr("tensor 't'"));
    GgufBuilder extents;
    extents.AddTensorAt("t", GgufType::kF32, {wild, wild, wild}, 0);
    EXPECT_THAT(MessageFrom(extents.Bytes()), HasSubstr("tensor 't'"));
  }
}

TEST(Gguf, RefusesInconsistentHeaders) {
  GgufBuilder twice;
  twice.AddBool("k", true);
  twice.AddBool("k", false);
  EXPECT_THAT(MessageFrom(twice.Bytes()), HasSubstr("'k' twice"));
  GgufBuilder same_tensor;
  same_tensor.AddTensor("t", GgufType::kF32, {1}, Raw(1.0f));
  same_tensor.AddTensor("t", GgufType::kF32, {1}, Raw(1.0f));
  EXPECT_THAT(MessageFrom(same_tensor.Bytes()), HasSubstr("'t' twice"));
  GgufBuilder extents;
  extents.AddTensorAt("t", GgufType::kF32, {1, 1, 1, 1, 1}, 0);
  EXPECT_THAT(MessageFrom(extents.Bytes()), HasSubstr("1 to 4 extents"));
  GgufBuilder zero;
  zero.AddTensorAt("t", GgufType::kF32, {4, 0}, 0);
  EXPECT_THAT(MessageFrom(zero.Bytes()), HasSubstr("extent of 0"));
  GgufBuilder block;
  block.AddTensor("t", GgufType::kQ4_1, {33}, std::string(40, 'x'));
  EXPECT_THAT(MessageFrom(block.Bytes()), HasSubstr("blocks of 32, found 33"));
  GgufBuilder unaligned;
  unaligned.AddTensor("s", GgufType::kF32, {16}, std::string(64, '\0'));
  unaligned.AddTensorAt("t", GgufType::kF32, {1}, 4);
  EXPECT_THAT(MessageFrom(unaligned.Bytes()), HasSubstr("multiple of 32, found 4"));
  GgufBuilder alignment;
  alignment.AddInt("general.alignment", 48);
  EXPECT_THAT(MessageFrom(alignment.Bytes()), HasSubstr("power of two"));
  GgufBuilder unknown;
  unknown.AddRaw("k", 13, "x");
  EXPECT_THAT(MessageFrom(unknown.Bytes()), HasSubstr("value type from 0 to 12"));
  std::string deep;
  for (int i = 0; i < 50; ++i) deep += Raw(uint32_t{9}) + Raw(uint64_t{1});
  GgufBuilder nested;
  nested.AddRaw("k", 9, deep);
  EXPECT_THAT(MessageFrom(nested.Bytes()), HasSubstr("arrays at most 4 deep"));
}

TEST(Gguf, HonoursAnotherAlignment) {
  GgufBuilder file(3, 256);
  file.AddInt("general.alignment", 256);
  file.AddTensor("a", GgufType::kF32, {1}, Raw(4.0f));
  file.AddTensor("b", GgufType::kF32, {1}, Raw(5.0f));
  const GgufFile gguf = GgufFile::FromBytes("m.gguf", file.Bytes());
  std::vector<float> value(1);
  gguf.Dequantize(*gguf.Find("b"), 0, value);
  EXPECT_EQ(value[0], 5.0f);
}

TEST(Gguf, KeepsNamesFromTheFilePrintable) {
  GgufBuilder file;
  const std::string evil = "\x1b[31m\nred" + std::string(5000, 'z');
  file.AddBool(evil, true);
  file.AddBool(evil, true);
  const std::string message = MessageFrom(file.Bytes());
  EXPECT_THAT(message, AllOf(HasSubstr("\\x1b[31m\\x0ared"), Not(HasSubstr("\n"))));
  EXPECT_LT(message.size(), 300u);
}

}  // namespace
}  // namespace kvscope
