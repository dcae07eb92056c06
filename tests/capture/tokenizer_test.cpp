// SPDX-License-Identifier: Apache-2.0
#include "capture/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <fstream>
#include <iterator>
#include <random>
#include <sstream>

#include "capture/gguf.h"
#include "core/error.h"
#include "tests/support/capture_tiny_gguf.h"
#include "tests/support/capture_vocabularies.h"
#include "tests/support/core_message.h"

namespace kvscope {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

Tokenizer TinyTokenizer(const TinyGgufOptions& options = {}) {
  return Tokenizer::FromGguf(GgufFile::FromBytes("tiny.gguf", TinyGgufBytes(options)));
}

const Tokenizer& RealTokenizer() {
  static const Tokenizer tokenizer = Tokenizer::FromGguf(GgufFile::Open(RealModelPath()));
  return tokenizer;
}

#define SKIP_WITHOUT_MODEL() \
  if (RealModelPath().empty()) GTEST_SKIP() << "no model; run traces/fetch_model or set KVSCOPE_MODEL"

std::string Utf8From(uint32_t code) {
  std::string text;
  if (code < 0x80) {
    text = {static_cast<char>(code)};
  } else if (code < 0x800) {
    text = {static_cast<char>(0xC0 | code >> 6), static_cast<char>(0x80 | (code & 63))};
  } else if (code < 0x10000) {
    text = {static_cast<char>(0xE0 | code >> 12), static_cast<char>(0x80 | (code >> 6 & 63)),
            static_cast<char>(0x80 | (code & 63))};
  } else {
    text = {static_cast<char>(0xF0 | code >> 18), static_cast<char>(0x80 | (code >> 12 & 63)),
            static_cast<char>(0x80 | (code >> 6 & 63)), static_cast<char>(0x80 | (code & 63))};
  }
  return text;
}

TEST(Tokenizer, GivesTheIdsOfLlamaCpp) {
  SKIP_WITHOUT_MODEL();
  std::ifstream fixture(std::string(KVSCOPE_SOURCE_DIR) + "/tests/capture/fixtures/tokenizer.txt");
  size_t cases = 0, tokens = 0;
  for (std::string line; std::getline(fixture, line);) {
    if (line.empty() || line[0] == '#') continue;
    const size_t first = line.find('\t'), second = line.find('\t', first + 1);
    ASSERT_NE(second, std::string::npos) << line;
    const std::string text = Unescaped(line.substr(first + 1, second - first - 1));
    std::istringstream numbers(line.substr(second + 1));
    const std::vector<int> expected{std::istream_iterator<int>(numbers), {}};
    const bool parse_special = line.substr(0, first) == "special";
    const std::vector<int> found = RealTokenizer().Encode(text, parse_special);
    ASSERT_EQ(found, expected) << line.substr(0, second);
    ASSERT_EQ(RealTokenizer().Decode(found), text);
    ++cases;
    tokens += found.size();
  }
  EXPECT_GT(cases, 600u);
  EXPECT_GT(tokens, 50000u);
}

TEST(Tokenizer, KnowsTheSpecialTokensOfTheRealModel) {
  SKIP_WITHOUT_MODEL();
  const Tokenizer& tokenizer = RealTokenizer();
  EXPECT_EQ(tokenizer.VocabSize(), 49152);
  EXPECT_EQ(tokenizer.end_of_turn_id(), 2);
  EXPECT_EQ(tokenizer.eos_id(), 2);
  EXPECT_TRUE(tokenizer.IsEnd(2) && tokenizer.IsEnd(0) && !tokenizer.IsEnd(1) && !tokenizer.IsEnd(17));
  EXPECT_EQ(tokenizer.Piece(1), "<|im_start|>");
  EXPECT_TRUE(tokenizer.IsSpecial(16) && !tokenizer.IsSpecial(17));
}

TEST(Tokenizer, GivesBackRandomTextOfEveryPlane) {
  SKIP_WITHOUT_MODEL();
  std::mt19937 random(11);
  size_t refused = 0;
  for (int round = 0; round < 2000; ++round) {
    std::string text;
    for (int i = static_cast<int>(random() % 40); i >= 0; --i) {
      const uint32_t limits[] = {0x80, 0x800, 0x3000, 0xD800, 0x20000, 0x110000};
      const uint32_t code = random() % limits[random() % 6];
      if (code < 0xD800 || code > 0xDFFF) text += Utf8From(code);
    }
    try {
      for (const bool parse_special : {false, true}) {
        ASSERT_EQ(RealTokenizer().Decode(RealTokenizer().Encode(text, parse_special)), text);
      }
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr("has tokens for"));
      ++refused;
    }
  }
  EXPECT_LT(refused, 1500u);  // planes 4 to 11 and six control characters have no tokens
}

TEST(Tokenizer, NamesTheByteTheVocabularyLacks) {
  SKIP_WITHOUT_MODEL();
  EXPECT_THAT(MessageOf([] { RealTokenizer().Encode("12345\x04", false); }), HasSubstr("found \\x04 at byte 5"));
}

TEST(Tokenizer, JoinsByRankThenFromTheLeft) {
  // Ids in a tiny vocabulary follow the merges of the builder: 259 " t", 260 "he", 261 "in", 262 " the", ...
  const Tokenizer tokenizer = TinyTokenizer();
  EXPECT_THAT(tokenizer.Encode(" the", false), ElementsAre(262));
  EXPECT_THAT(tokenizer.Encode("the", false), ElementsAre(kTinyFirstByte + 't', 260));
  EXPECT_THAT(tokenizer.Encode("lll", false), ElementsAre(271, kTinyFirstByte + 'l'));
  EXPECT_THAT(tokenizer.Encode("inging", false), ElementsAre(267, 267));
  EXPECT_EQ(tokenizer.Piece(262), " the");
  EXPECT_THAT(tokenizer.Encode("", true), ElementsAre());
}

TEST(Tokenizer, ParsesControlTokensOnlyWhenAsked) {
  const Tokenizer tokenizer = TinyTokenizer();
  EXPECT_THAT(tokenizer.Encode("<|im_start|><|im_end|>", true), ElementsAre(kTinyImStart, kTinyImEnd));
  EXPECT_EQ(tokenizer.Encode("<|im_start|>", false).size(), 12u);
  EXPECT_EQ(tokenizer.Decode(tokenizer.Encode("<|im_start|>", false)), "<|im_start|>");
}

TEST(Tokenizer, RefusesInvalidUtf8WithTheOffset) {
  const Tokenizer tokenizer = TinyTokenizer();
  for (const std::string bad : {"\x80", "\xC0\x80", "\xC1\xBF", "\xE0\x80\x80", "\xED\xA0\x80", "\xF0\x80\x80\x80",
                                "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xFF", "\xE2\x82", "\xC3", "\xE2\x28\xA1"}) {
    EXPECT_THAT(MessageOf([&] { tokenizer.Encode("é12" + bad, false); }),
                AllOf(HasSubstr("UTF-8"), HasSubstr("at byte 4")));
    EXPECT_THAT(MessageOf([&] { ValidateUtf8(bad + "x", "book.txt"); }), HasSubstr("book.txt: expected UTF-8"));
  }
  EXPECT_NO_THROW(ValidateUtf8("a\xC2\x80\xE0\xA0\x80\xED\x9F\xBF\xEE\x80\x80\xF0\x90\x80\x80\xF4\x8F\xBF\xBF", "ok"));
}

TEST(Tokenizer, TakesNearLinearTimeForOneLongWord) {
  const Tokenizer tokenizer = TinyTokenizer();
  for (const char* unit : {"l", "he", "in g", " ", "\n", "!", "5"}) {
    std::string text;
    while (text.size() < 1000000) text += unit;
    const auto begin = std::chrono::steady_clock::now();
    const std::vector<int> ids = tokenizer.Encode(text, true);
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - begin;
    EXPECT_EQ(tokenizer.Decode(ids), text);
    // About 0.1 s here; a quadratic algorithm takes minutes. Sanitizers and busy machines get the rest.
    EXPECT_LT(taken.count(), 20.0) << unit;
  }
}

TEST(Tokenizer, MapsBytesToTokens) {
  const Tokenizer tokenizer = TinyTokenizer();
  const std::vector<int64_t> offsets =
      tokenizer.EncodeWithOffsets("a the<|im_end|>x", true).byte_offsets;  // a| the|<|im_end|>|x
  EXPECT_THAT(offsets, ElementsAre(0, 1, 5, 15, 16));
  EXPECT_EQ(TokensCovering(offsets, 0, 16), (TokenRange{0, 4}));
  EXPECT_EQ(TokensCovering(offsets, 1, 5), (TokenRange{1, 2}));
  EXPECT_EQ(TokensCovering(offsets, 2, 6), (TokenRange{1, 3}));
  EXPECT_EQ(TokensCovering(offsets, 15, 16), (TokenRange{3, 4}));
  EXPECT_EQ(TokensCovering(offsets, 5, 5).token_begin, TokensCovering(offsets, 5, 5).token_end);
  EXPECT_EQ(TokensCovering(offsets, 16, 16).token_begin, TokensCovering(offsets, 16, 16).token_end);
}

TEST(Tokenizer, RefusesVocabulariesItCannotRead) {
  const auto message_for = [](auto&& change) {
    GgufBuilder file;
    change(file);
    return MessageOf([&] { Tokenizer::FromGguf(GgufFile::FromBytes("m.gguf", file.Bytes())); });
  };
  EXPECT_THAT(message_for([](GgufBuilder&) {}), HasSubstr("m.gguf:tokenizer.ggml.model"));
  EXPECT_THAT(message_for([](GgufBuilder& f) { f.AddString("tokenizer.ggml.model", "bert"); }),
              HasSubstr("found WordPiece, 'bert'"));
  EXPECT_THAT(message_for([](GgufBuilder& f) { f.AddString("tokenizer.ggml.model", "x\n"); }),
              HasSubstr("('llama'), found 'x\\x0a'"));
  EXPECT_THAT(MessageOf([] { TinyTokenizer({.pre_tokenizer = "qwen1"}); }),
              AllOf(HasSubstr("found 'qwen1'"), HasSubstr("smollm")));
  const auto with_tokens = [&](const std::vector<std::string>& tokens, const std::vector<std::string>& merges,
                               const std::vector<int32_t>& types, uint32_t eos) {
    return message_for([&](GgufBuilder& f) {
      f.AddString("tokenizer.ggml.model", "gpt2");
      f.AddString("tokenizer.ggml.pre", "smollm");
      f.AddStrings("tokenizer.ggml.tokens", tokens);
      f.AddInts("tokenizer.ggml.token_type", types);
      f.AddStrings("tokenizer.ggml.merges", merges);
      f.AddInt("tokenizer.ggml.eos_token_id", eos);
    });
  };
  EXPECT_EQ(with_tokens({"a", "b", "ab"}, {"a b"}, {1, 1, 1}, 2), "");
  EXPECT_THAT(with_tokens({"a", "b", "ab"}, {"a b"}, {1, 1, 1}, 3),
              HasSubstr("eos_token_id: expected a number from 0 to 2"));
  EXPECT_THAT(with_tokens({"a", "b", "ab"}, {"a b"}, {1, 1}, 2), HasSubstr("token_type"));
  EXPECT_THAT(with_tokens({"a", "b", "a"}, {}, {1, 1, 1}, 2), HasSubstr("every text once"));
  EXPECT_THAT(with_tokens({"a", "b", "c"}, {"a b"}, {1, 1, 1}, 2), HasSubstr("merges[0]"));
  EXPECT_THAT(with_tokens({"a", "b", "ab"}, {"ab"}, {1, 1, 1}, 2), HasSubstr("with a space between"));
  EXPECT_THAT(with_tokens({"\xC4\xA0", "a",
                           "\xC4\xA0"
                           "a"},
                          {"\xC4\xA0 a"}, {1, 1, 3}, 2),
              HasSubstr("to stand for the bytes"));
  EXPECT_THAT(with_tokens({}, {}, {}, 0), HasSubstr("1 to 2^28 tokens"));
}

}  // namespace
}  // namespace kvscope
