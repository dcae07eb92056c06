// SPDX-License-Identifier: Apache-2.0
// SentencePiece's BPE (Kudo and Richardson 2018, arXiv:1808.06226): every character a symbol, then join the neighbours
// whose joined text is the token with the highest score, the leftmost among equals, until no neighbours are a token. A
// character that is no token becomes the tokens of its bytes. Internal to the tokenizer.
#pragma once

#include <array>
#include <cstddef>
#include <string_view>

#include "capture/gguf.h"
#include "capture/tokenizer.h"
#include "capture/tokenizer_vocabulary.h"

namespace kvscope {

class SentencePieceJoiner {
 public:
  // `vocabulary` must outlive this. Error when the vocabulary has no token for a space.
  SentencePieceJoiner(const GgufFile& gguf, const Vocabulary& vocabulary);

  // Appends the tokens of a text without special tokens that begins at byte `offset` of the whole. With a dummy space
  // they are those of the text with a space before it; that space takes no bytes.
  void Encode(std::string_view text, size_t offset, bool has_dummy_space, Encoding* encoding) const;

 private:
  // The id of the token with this text, in which spaces are spaces; -1 when there is none.
  int Find(std::string_view text) const;

  const Vocabulary& vocabulary_;
  IdFromText id_from_text_;
  size_t longest_ = 0;             // bytes of its longest text
  std::array<int, 256> byte_ids_;  // -1 where the vocabulary has no token for the byte
};

}  // namespace kvscope
