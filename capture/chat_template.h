// SPDX-License-Identifier: Apache-2.0
// Turns of a conversation as the tokens the model was trained on. A model file carries its template as a program;
// kvscope does not run it but recognises the family and writes that family's turns, so that it knows which token
// belongs to what.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "capture/tokenizer.h"

namespace kvscope {

struct ChatTurn {
  std::string role;  // system, user or assistant
  std::string text;
};

// Where a turn lies. The whole turn with its markers, and its text alone: tokens that hold any byte of the text (the
// first may also hold a line break before it, where the vocabulary joins them), and the text's bytes.
struct ChatSpan {
  std::string role;
  TokenRange turn;
  TokenRange text;
  int64_t text_byte_begin = 0;
  int64_t text_byte_end = 0;
  bool is_added = false;  // by the template (the default system turn, the opened answer), not by the caller
};

struct ChatTokens {
  std::string text;  // everything, as it was tokenised; Decode(ids) gives it back
  std::vector<int> ids;
  std::vector<int64_t> byte_offsets;  // of each token in text, and the end: for TokensCovering
  std::vector<ChatSpan> spans;        // in order; with open_assistant the last is the empty answer that begins
};

// Writes the turns in the model's own format, with the template's default system turn when the first is not a system
// turn, and with open_assistant the words after which the model answers. The ids are those of Encode(text, true): a
// turn whose text spells a special token gets that token, as in llama.cpp. Error: the model has no chat template or one
// of another family (named), or an unknown role.
ChatTokens BuildChat(const Tokenizer& tokenizer, std::span<const ChatTurn> turns, bool open_assistant);

}  // namespace kvscope
