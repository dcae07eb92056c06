// SPDX-License-Identifier: Apache-2.0
// The tokens of a GGUF file, checked: what each stands for, which are special, which end an answer. Internal to the
// tokenizer; what the fields mean to a caller is said in capture/tokenizer.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "capture/tokenizer_specials.h"

namespace kvscope {

class GgufFile;

// GGUF's token types.
enum class TokenKind : uint8_t { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };

struct Vocabulary {
  std::string path;                // of the model, for messages
  bool is_sentence_piece = false;  // else byte-level BPE
  std::string pre_tokenizer;       // BPE
  std::string pieces;              // what the tokens stand for, one after another
  std::vector<size_t> begins;      // of each token's piece, and the end
  std::vector<TokenKind> kinds;
  std::vector<float> scores;  // SentencePiece: of each token
  std::vector<bool> is_special;
  std::vector<bool> is_end;
  SpecialTokens specials;
  int bos_id = -1;
  int eos_id = -1;
  int end_of_turn_id = -1;
  bool adds_bos = false;
  bool adds_space = false;  // SentencePiece: the dummy prefix

  int size() const { return static_cast<int>(kinds.size()); }
  std::string_view Piece(int id) const {
    const auto at = static_cast<size_t>(id);
    return std::string_view(pieces).substr(begins[at], begins[at + 1] - begins[at]);
  }
};

// Error when the file's vocabulary is of a kind that is not known, or inconsistent.
Vocabulary ReadVocabulary(const GgufFile& gguf);

// Look-up by text without a copy of the key.
struct TextHash {
  using is_transparent = void;
  size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
};
using IdFromText = std::unordered_map<std::string, int, TextHash, std::equal_to<>>;

// "text: expected bytes that the vocabulary of PATH has tokens for, found \x04 at byte 5; ..."
[[noreturn]] void FailWithoutByte(const Vocabulary& vocabulary, char byte, size_t offset);

// A byte-level vocabulary is stored as printable text: 188 bytes stand for themselves as Latin-1 characters, the other
// 68 for U+0100, U+0101, ... in order. The bytes that such a text stands for; characters outside the alphabet stay as
// they are, and then *is_alphabet (may be null) becomes false.
std::string BytesFromText(std::string_view text, bool* is_alphabet);

// SentencePiece writes a space as U+2581.
inline constexpr std::string_view kSpaceSign = "\xE2\x96\x81";
std::string WithSpaces(std::string_view text);  // each U+2581 as a space

}  // namespace kvscope
