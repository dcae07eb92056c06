// SPDX-License-Identifier: Apache-2.0
// Vocabularies of other families for the tokenizer's tests: files that tests/fetch_vocabularies brings, changed in
// memory as tests/python/make_tokenizer_fixture.py changes them, and a small SentencePiece vocabulary.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tests/support/capture_tiny_gguf.h"

namespace kvscope {

// What tests/fetch_vocabularies brings; empty when it did not run.
std::string VocabularyFolder();

// The whole file, empty when there is none.
std::string ReadFileBytes(const std::string& path);

// A GGUF file without tensors in which tokenizer.ggml.KEY has another value, for every {KEY, value}: a text, "true" or
// "false" (also where the key is new), or "falling" for scores.
using MetadataChanges = std::vector<std::pair<std::string, std::string>>;
std::string ChangedMetadata(std::string file, const MetadataChanges& changes);

// "ids 3:0123abcd": count and FNV-1a of the ids as that script writes them.
std::string CountAndHash(const std::vector<int>& ids);

// The text with a space for each U+2581, the sign by which vocabularies write one.
std::string SpacesFromSigns(std::string_view text);

// Undoes the escapes of the text fixtures.
std::string Unescaped(const std::string& text);

// Tokens with scores, and a file that has them as a SentencePiece vocabulary: <unk>, <s>, </s>, then the 256 bytes,
// then these. The scores are the given ones.
struct PieceToken {
  std::string text;
  float score = 0;
  int type = 1;
};
struct PieceVocabularyOptions {
  std::vector<PieceToken> tokens = {};
  bool has_bytes = true;
  bool adds_space = true;
  bool adds_bos = true;
  std::string name = "pieces";
  std::string chat_template = "";
};
std::string PieceVocabularyBytes(const PieceVocabularyOptions& options);

// Letters, some words and marks; enough for short tests.
std::vector<PieceToken> SomePieces();

}  // namespace kvscope
