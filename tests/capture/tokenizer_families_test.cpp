// SPDX-License-Identifier: Apache-2.0
// Vocabularies of other families against llama.cpp's ids: tests/python/make_tokenizer_fixture.py says what is compared.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <fstream>
#include <sstream>

#include "capture/gguf.h"
#include "capture/tokenizer.h"
#include "capture/tokenizer_specials.h"
#include "core/error.h"
#include "tests/support/capture_prompts.h"
#include "tests/support/capture_vocabularies.h"

namespace kvscope {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

const std::string kFixtures = std::string(KVSCOPE_SOURCE_DIR) + "/tests/capture/fixtures/";

struct Text {
  bool parse_special;
  std::string text;
};

// Of both text fixtures, in order.
const std::vector<Text>& Texts() {
  static const std::vector<Text> texts = [] {
    std::vector<Text> read;
    for (const char* name : {"tokenizer.txt", "vocabulary_texts.txt"}) {
      std::ifstream fixture(kFixtures + name);
      for (std::string line; std::getline(fixture, line);) {
        if (line.empty() || line[0] == '#') continue;
        const size_t tab = line.find('\t');
        read.push_back(
            {line.substr(0, tab) == "special", Unescaped(line.substr(tab + 1, line.find('\t', tab + 1) - tab - 1))});
      }
    }
    return read;
  }();
  return texts;
}

std::vector<std::string> Words(const std::string& line, char separator) {
  std::vector<std::string> words;
  std::istringstream stream(line);
  for (std::string word; std::getline(stream, word, separator);) words.push_back(word);
  return words;
}

MetadataChanges ChangesFrom(std::vector<std::string>::const_iterator word,
                            std::vector<std::string>::const_iterator end) {
  MetadataChanges changes;
  for (; word != end; ++word) changes.emplace_back(word->substr(0, word->find('=')), word->substr(word->find('=') + 1));
  return changes;
}

// One section of vocabularies.txt.
struct Section {
  std::string name, file;
  std::vector<MetadataChanges> changes;  // all with the same ids
  std::string bos, kjv;
  std::vector<int> ends;
  std::vector<std::string> ids;  // of each text
};

std::vector<Section> Sections() {
  std::vector<Section> sections;
  std::ifstream fixture(kFixtures + "vocabularies.txt");
  for (std::string line; std::getline(fixture, line);) {
    const std::string rest = line.substr(line.find_first_of(" \t") + 1);
    if (line.starts_with("vocabulary\t")) {
      const std::vector<std::string> words = Words(rest, '\t');
      sections.push_back({words[0], words[1], {ChangesFrom(words.begin() + 2, words.end())}, "", "", {}, {}});
    } else if (line.starts_with("same ")) {
      const std::vector<std::string> words = Words(rest, ' ');
      sections.back().changes.push_back(ChangesFrom(words.begin() + 1, words.end()));
    } else if (line.starts_with("ids ")) {
      sections.back().ids = Words(rest, ' ');
    } else if (line.starts_with("ends ")) {
      for (const std::string& id : Words(rest, ' ')) sections.back().ends.push_back(std::stoi(id));
    } else if (line.starts_with("bos ")) {
      sections.back().bos = rest;
    } else if (line.starts_with("kjv ")) {
      sections.back().kjv = rest;
    }
  }
  return sections;
}

// What capture/tokenizer.h promises about the bytes of each token.
void ExpectExactOffsets(const Tokenizer& tokenizer, std::string_view text, const Encoding& encoding) {
  ASSERT_EQ(encoding.byte_offsets.size(), encoding.ids.size() + 1);
  ASSERT_EQ(encoding.byte_offsets.front(), 0);
  ASSERT_EQ(encoding.byte_offsets.back(), static_cast<int64_t>(text.size()));
  for (size_t i = 0; i < encoding.ids.size(); ++i) {
    const auto begin = static_cast<size_t>(encoding.byte_offsets[i]);
    const auto end = static_cast<size_t>(encoding.byte_offsets[i + 1]);
    ASSERT_LE(begin, end);
    const std::string range = SpacesFromSigns(text.substr(begin, end - begin));
    const std::string piece = SpacesFromSigns(tokenizer.Piece(encoding.ids[i]));
    const bool may_begin = i == 0 || tokenizer.IsSpecial(encoding.ids[i - 1]);
    if (range == piece || (may_begin && " " + range == piece)) continue;
    ASSERT_TRUE(tokenizer.IsSpecial(encoding.ids[i]) && range.starts_with(piece)) << i << " '" << piece << "'";
    ASSERT_EQ(range.find_first_not_of(" \t\n\v\f\r", piece.size()), std::string::npos);
  }
}

void ExpectIdsOfLlamaCpp(const Section& section, const std::string& file) {
  SCOPED_TRACE(section.name);
  const std::vector<Text>& texts = Texts();
  ASSERT_EQ(section.ids.size(), texts.size());
  for (const MetadataChanges& changes : section.changes) {
    SCOPED_TRACE(changes.empty() ? "" : changes[0].first + "=" + changes[0].second);
    const Tokenizer tokenizer = Tokenizer::FromGguf(GgufFile::FromBytes(section.name, ChangedMetadata(file, changes)));
    EXPECT_EQ(StrCat(tokenizer.AddsBos() ? 1 : 0, " ", tokenizer.AddsBos() ? tokenizer.bos_id() : -1), section.bos);
    std::vector<int> ends;
    for (int id = 0; id < tokenizer.VocabSize(); ++id) {
      if (tokenizer.IsEnd(id)) ends.push_back(id);
    }
    if (&changes == &section.changes[0]) {
      EXPECT_EQ(ends, section.ends);
    }
    for (size_t i = 0; i < texts.size(); ++i) {
      SCOPED_TRACE(StrCat("text ", i, ": ", texts[i].text.substr(0, 60)));
      if (section.ids[i] == "-") {
        EXPECT_THROW(tokenizer.Encode(texts[i].text, texts[i].parse_special), Error);
        continue;
      }
      const Encoding found = tokenizer.EncodeWithOffsets(texts[i].text, texts[i].parse_special);
      ASSERT_EQ(CountAndHash(found.ids), section.ids[i]) << testing::PrintToString(found.ids);
      ExpectExactOffsets(tokenizer, texts[i].text, found);
    }
    if (!KingJames().empty() && &changes == &section.changes[0]) {
      EXPECT_EQ(CountAndHash(tokenizer.Encode(KingJames().substr(0, 200000), false)), section.kjv);
    }
  }
}

TEST(TokenizerFamilies, GiveTheIdsOfLlamaCppForTheVocabularyMadeHere) {
  size_t compared = 0;
  for (const Section& section : Sections()) {
    if (section.file != "sentence_piece.gguf") continue;
    ExpectIdsOfLlamaCpp(section, ReadFileBytes(kFixtures + section.file));
    ++compared;
  }
  EXPECT_EQ(compared, 2u);
}

TEST(TokenizerFamilies, GiveTheIdsOfLlamaCppForVocabulariesThatShip) {
  const std::string folder = VocabularyFolder();
  if (folder.empty()) GTEST_SKIP() << "no vocabularies; run tests/fetch_vocabularies";
  size_t compared = 0;
  for (const Section& section : Sections()) {
    if (section.file == "sentence_piece.gguf") continue;
    ExpectIdsOfLlamaCpp(section, ReadFileBytes(folder + "/" + section.file));
    ++compared;
  }
  EXPECT_GE(compared, 16u);
}

Tokenizer Pieces(const PieceVocabularyOptions& options) {
  return Tokenizer::FromGguf(GgufFile::FromBytes("pieces.gguf", PieceVocabularyBytes(options)));
}

std::vector<std::string> PiecesOf(const Tokenizer& tokenizer, const std::vector<int>& ids) {
  std::vector<std::string> pieces;
  for (const int id : ids) pieces.emplace_back(tokenizer.Piece(id));
  return pieces;
}

TEST(SentencePiece, JoinsByScoreThenFromTheLeft) {
  const Tokenizer tokenizer =
      Pieces({.tokens = {{"▁", -9}, {"a", -9}, {"b", -9}, {"ab", -1}, {"ba", -1}, {"aba", -0.5f}, {"▁a", -2}},
              .adds_space = false});
  const auto pieces = [&](const char* text) { return PiecesOf(tokenizer, tokenizer.Encode(text, false)); };
  EXPECT_THAT(pieces("ab"), ElementsAre("ab"));
  EXPECT_THAT(pieces("aba"), ElementsAre("aba"));
  EXPECT_THAT(pieces("baba"), ElementsAre("ba", "ba"));  // the left of two equal ones
  EXPECT_THAT(pieces("ababa"), ElementsAre("aba", "ba"));
  EXPECT_THAT(pieces(" aa"), ElementsAre(" a", "a"));
  EXPECT_THAT(pieces("▁aa"), ElementsAre(" a", "a"));
  EXPECT_THAT(pieces("aéa"), ElementsAre("a", "\xC3", "\xA9", "a"));
  EXPECT_THAT(pieces(""), ElementsAre());
}

TEST(SentencePiece, PutsADummySpaceThatTakesNoBytes) {
  const Tokenizer tokenizer = Pieces({.tokens = SomePieces()});
  const auto check = [&](std::string_view text, const std::vector<std::string>& pieces,
                         const std::vector<int64_t>& offsets) {
    const Encoding found = tokenizer.EncodeWithOffsets(text, true);
    EXPECT_EQ(PiecesOf(tokenizer, found.ids), pieces);
    EXPECT_EQ(found.byte_offsets, offsets);
    ExpectExactOffsets(tokenizer, text, found);
  };
  check("the", {" the"}, {0, 3});
  check(" the", {" ", " the"}, {0, 0, 4});
  check("  !", {"  ", " ", "!"}, {0, 1, 2, 3});  // the dummy and the first space
  check("!the", {" ", "!", "t", "he"}, {0, 0, 1, 2, 4});
  check("the</s>the the", {" the", "</s>", " the", " the"}, {0, 3, 7, 10, 14});
  check("</s></s>", {"</s>", "</s>"}, {0, 4, 8});
  // The dummy space is no part of a range behind it.
  const Encoding mark = tokenizer.EncodeWithOffsets("!the", true);
  EXPECT_EQ(TokensCovering(mark.byte_offsets, 0, 1), (TokenRange{1, 2}));
  // A text that goes on has none.
  EXPECT_THAT(PiecesOf(tokenizer, tokenizer.EncodeAfter(mark.ids.back(), "the")), ElementsAre("t", "he"));
  EXPECT_THAT(PiecesOf(tokenizer, tokenizer.EncodeAfter(mark.ids.back(), " the")), ElementsAre(" the"));
  EXPECT_THAT(PiecesOf(tokenizer, tokenizer.EncodeAfter(2, "the")), ElementsAre(" the"));
  const Tokenizer without = Pieces({.tokens = SomePieces(), .adds_space = false});
  EXPECT_EQ(without.Decode(without.Encode("the</s>!the and", true)), "the</s>!the and");
}

TEST(SentencePiece, LetsPhi3TokensTakeTheWhiteSpaceBehindThem) {
  std::vector<PieceToken> tokens = SomePieces();
  tokens.push_back({"<|user|>", 0, 3});
  for (const bool is_phi : {false, true}) {
    const Tokenizer tokenizer = Pieces({.tokens = tokens, .name = is_phi ? "Phi-3 mini" : "other"});
    const std::string text = "<|user|>\n the<s> the<|user|> ";
    const Encoding found = tokenizer.EncodeWithOffsets(text, true);
    ExpectExactOffsets(tokenizer, text, found);
    if (is_phi) {
      EXPECT_THAT(PiecesOf(tokenizer, found.ids), ElementsAre("<|user|>", " the", "<s>", " ", " the", "<|user|>"));
      EXPECT_THAT(found.byte_offsets, ElementsAre(0, 10, 13, 16, 16, 20, 29));
    } else {
      EXPECT_EQ(tokenizer.Piece(found.ids[1]), " ");
    }
  }
}

TEST(SentencePiece, KnowsItsBeginAndEndTokens) {
  const Tokenizer tokenizer = Pieces({.tokens = {{"▁", -1}, {"<|eot_id|>", 0, 1}, {"<eos>", 0, 1}, {"</s", 0}}});
  EXPECT_TRUE(tokenizer.AddsBos());
  EXPECT_EQ(tokenizer.bos_id(), 1);
  EXPECT_EQ(tokenizer.eos_id(), 2);
  EXPECT_EQ(tokenizer.Piece(tokenizer.end_of_turn_id()), "<|eot_id|>");
  std::vector<std::string> ends;
  for (int id = 0; id < tokenizer.VocabSize(); ++id) {
    if (tokenizer.IsEnd(id)) ends.emplace_back(tokenizer.Piece(id));
  }
  EXPECT_THAT(ends, ElementsAre("</s>", "<|eot_id|>", "<eos>"));
  EXPECT_TRUE(tokenizer.IsSpecial(tokenizer.end_of_turn_id()));  // whatever type the file gives it
  EXPECT_FALSE(Pieces({.tokens = {{"▁", -1}}, .adds_bos = false}).AddsBos());
}

TEST(SentencePiece, TakesNearLinearTimeForOneLongText) {
  const Tokenizer tokenizer = Pieces({.tokens = SomePieces()});
  for (const char* unit : {"the and ", "l", " ", "<s", "漢"}) {
    std::string text;
    while (text.size() < 1000000) text += unit;
    const auto begin = std::chrono::steady_clock::now();
    const Encoding found = tokenizer.EncodeWithOffsets(text, true);
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - begin;
    EXPECT_EQ(tokenizer.Decode(found.ids), " " + text);
    EXPECT_LT(taken.count(), 20.0) << unit;  // about 0.3 s here; a quadratic algorithm takes minutes
  }
}

TEST(SentencePiece, RefusesVocabulariesItCannotRead) {
  const auto message = [](const PieceVocabularyOptions& options) { return MessageOf([&] { Pieces(options); }); };
  EXPECT_EQ(message({.tokens = {{"▁", 0}}}), "");
  EXPECT_THAT(message({.tokens = {{"a", 0}}}), HasSubstr("expected a token for a space (U+2581)"));
  EXPECT_THAT(message({.tokens = {{"▁", 0}, {"<0x0g>", 0, 6}}}), HasSubstr("tokens[260]: expected a byte as '<0x0A>'"));
  EXPECT_THAT(MessageOf([] {
                Pieces({.tokens = {{"▁", 0}, {"a", 0}}, .has_bytes = false}).Encode("aaé", false);
              }),
              AllOf(HasSubstr("pieces.gguf has tokens for"), HasSubstr("found \\xc3 at byte 2")));
  GgufBuilder file;
  file.AddString("tokenizer.ggml.model", "llama");
  file.AddStrings("tokenizer.ggml.tokens", {"▁"});
  EXPECT_THAT(MessageOf([&] { Tokenizer::FromGguf(GgufFile::FromBytes("m.gguf", file.Bytes())); }),
              HasSubstr("m.gguf:tokenizer.ggml.scores: expected one for each of 1 tokens, found 0"));
}

TEST(TokenizerFamilies, RefuseOtherKindsOfVocabulariesInOneLine) {
  if (VocabularyFolder().empty()) GTEST_SKIP() << "no vocabularies; run tests/fetch_vocabularies";
  const auto message = [](const char* file) {
    return MessageOf([&] { Tokenizer::FromGguf(GgufFile::Open(VocabularyFolder() + "/" + file)); });
  };
  EXPECT_THAT(message("bert-bge.gguf"), HasSubstr("found WordPiece, 'bert'; use a model with such a vocabulary"));
  EXPECT_THAT(message("nomic-bert-moe.gguf"), HasSubstr("found unigrams, 't5'"));
  EXPECT_THAT(message("gemma-4.gguf"), HasSubstr("found 'gemma4'"));
  EXPECT_THAT(message("deepseek-llm.gguf"), HasSubstr("found 'deepseek-llm'"));
  EXPECT_THAT(message("aquila.gguf"), HasSubstr("tokenizer.ggml.pre"));  // none
}

TEST(SpecialTokens, LetTheLongestWinWhereverItStands) {
  SpecialTokens specials;
  specials.Add("<|", {1, true, false});
  specials.Add("<|a|>", {2, false, false});
  specials.Add("aa", {3, true, true});
  const auto cut = [&](std::string_view text, bool parse_special) {
    std::string parts;
    for (const SpecialTokens::Part& part : specials.Cut(text, parse_special))
      parts += StrCat(part.id, ":", text.substr(part.begin, part.end - part.begin), ",");
    return parts;
  };
  EXPECT_EQ(cut("x<|a|>y", true), "-1:x,2:<|a|>,-1:y,");
  EXPECT_EQ(cut("x<|a|>y", false), "-1:x,1:<|,-1:a|>y,");
  EXPECT_EQ(cut("<|<|a|>", true), "1:<|,2:<|a|>,");
  EXPECT_EQ(cut("aaaaa aa \n", true), "3:aa,3:aa,-1:a ,3:aa \n,");
  EXPECT_EQ(cut("aa \t<|a|> b", true), "3:aa \t,2:<|a|>,-1: b,");
  EXPECT_EQ(cut("", true), "");
}

}  // namespace
}  // namespace kvscope
