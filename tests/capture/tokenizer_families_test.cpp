// SPDX-License-Identifier: Apache-2.0
// Vocabularies of other families against llama.cpp's ids: tests/python/make_tokenizer_fixture.py says what is compared.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <sstream>

#include "capture/gguf.h"
#include "capture/tokenizer.h"
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

// The piece with the spaces that a vocabulary writes as U+2581.
std::string WithSpaces(std::string_view text) {
  std::string plain;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool is_sign = text.compare(i, 3, "\xE2\x96\x81") == 0;
    plain += is_sign ? ' ' : text[i];
    if (is_sign) i += 2;
  }
  return plain;
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
    const std::string range = WithSpaces(text.substr(begin, end - begin));
    const std::string piece = WithSpaces(tokenizer.Piece(encoding.ids[i]));
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

}  // namespace
}  // namespace kvscope
