// SPDX-License-Identifier: Apache-2.0
// Special tokens: cutting their texts out before anything else is tokenised, and knowing which of them end an answer.
#pragma once

#include <array>
#include <cstddef>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace kvscope {

struct SpecialToken {
  int id = -1;
  bool is_always_parsed = false;  // user-defined; control tokens only when asked
  bool strips_right = false;      // white space behind its text belongs to it
};

class SpecialTokens {
 public:
  void Add(std::string text, SpecialToken token);  // text is not empty; the first of two equal texts stays

  // The whole text in order: plain parts (id -1, never empty) and special tokens. A longer text wins over a shorter one
  // that overlaps it wherever it stands, among equals the leftmost. n bytes take O(n log n).
  struct Part {
    size_t begin;
    size_t end;
    int id;
  };
  std::vector<Part> Cut(std::string_view text, bool parse_special) const;

  std::optional<int> Find(std::string_view text) const;

 private:
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
  };
  std::unordered_map<std::string, SpecialToken, Hash, std::equal_to<>> token_from_text_;
  std::array<std::vector<size_t>, 256> lengths_;  // of the texts that begin with a byte, each once
};

// llama.cpp knows tokens by their text where a file does not name them. A role is a token of which a vocabulary has
// one; the file may name it with a key.
enum class SpecialRole {
  kEndOfTurn,
  kEndOfMessage,
  kFillPrefix,
  kFillSuffix,
  kFillMiddle,
  kFillPad,
  kFillRepo,
  kFillFile
};
struct RoleTexts {
  SpecialRole role;
  const char* key;  // "tokenizer.ggml.eot_token_id"
  bool is_end;      // generation stops at it
  std::vector<std::string_view> texts;
};
const std::vector<RoleTexts>& SpecialRoles();

// Tokens with these texts end an answer and are control tokens, whatever the file says.
const std::vector<std::string_view>& EndTexts();

}  // namespace kvscope
