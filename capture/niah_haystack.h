// SPDX-License-Identifier: Apache-2.0
// The text a needle is hidden in, prepared once for all prompts of a grid: where its sentences begin and end, where it
// may be cut, and about how many tokens lie between two places. Bytes are offsets into the text.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "capture/tokenizer.h"

namespace kvscope {

class Haystack {
 public:
  // Keeps a view of `text`. Error when the text is empty, not UTF-8 or has no sentence end; `name` stands in messages.
  Haystack(const Tokenizer& tokenizer, std::string_view text, std::string name);

  std::string_view text() const { return text_; }  // without white space at its end
  const std::string& name() const { return name_; }
  const std::string& sha256() const { return sha256_; }  // of the text as given

  // A sentence ends behind . ! or ? (and closing quotes or brackets) before white space, or behind their full-width
  // forms; not behind "Mr." and its like. A sentence begins at the next character that is not white space.
  const std::vector<int64_t>& sentence_begins() const { return sentence_begins_; }  // ascending
  const std::vector<int64_t>& sentence_ends() const { return sentence_ends_; }      // ascending
  bool IsSentenceEnd(int64_t byte) const;

  // Of the whole text tokenised in one go; a part of it may differ by a token at each end.
  int64_t num_tokens() const { return static_cast<int64_t>(byte_offsets_.size()) - 1; }
  int64_t TokenFromByte(int64_t byte) const;  // tokens that begin before `byte`
  int64_t ByteFromToken(int64_t token) const { return byte_offsets_[static_cast<size_t>(token)]; }

  // The last place before `byte` where the text may be cut: a sentence end or the end of a word; with any_character
  // between any two characters. 0 when there is none.
  int64_t PreviousCut(int64_t byte, bool any_character) const;

 private:
  void FindSentences();

  std::string_view text_;
  std::string name_;
  std::string sha256_;
  std::vector<int64_t> byte_offsets_;
  std::vector<int64_t> sentence_begins_;
  std::vector<int64_t> sentence_ends_;
};

}  // namespace kvscope
