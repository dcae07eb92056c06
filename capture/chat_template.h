// SPDX-License-Identifier: Apache-2.0
// Turns of a conversation as the tokens the model was trained on. A model file carries its template as a program;
// kvscope does not run it but recognises the family and writes that family's turns, so that it knows which token
// belongs to what. What a template decides at run time is decided so:
//   The begin-of-text token stands first, once, where the vocabulary adds it or the template writes it.
//   A default system text that the template holds literally is written (Qwen's, SmolLM2's); one with today's date is
//   not (Mistral Small 3). Llama 3.1's dates are always written, with the template's own date, 26 Jul 2024.
//   A family without a system role gets the system text in a user turn, where its template puts it (Gemma, Llama 2,
//   Mistral up to NeMo).
//   A model that may think (Qwen3) answers at once: the opened answer holds the empty block of thoughts.
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

// Where a turn lies. The whole turn with its markers (the first also has the begin-of-text token), and its text alone:
// tokens that hold any byte of the text (the first may also hold a space or line break before it, where the vocabulary
// joins them, or be the dummy space), and the text's bytes.
struct ChatSpan {
  std::string role;
  TokenRange turn;
  TokenRange text;
  int64_t text_byte_begin = 0;
  int64_t text_byte_end = 0;
  bool is_added = false;  // by the template (the default system turn, the opened answer), not by the caller
};

struct ChatTokens {
  std::string text;  // everything, as it was tokenised, with the text of the begin-of-text token where there is one
  std::vector<int> ids;
  std::vector<int64_t> byte_offsets;  // of each token in text, and the end: for TokensCovering
  std::vector<ChatSpan> spans;        // in order; with open_assistant the last is the empty answer that begins
  std::string answer_begins;          // white space with which the model's answer begins, "" or " "
};

// Writes the turns in the model's own format (template_name "auto"), in the one of that name, or as text without any
// turns ("none", for models that were not trained on turns); with open_assistant also the words after which the model
// answers. The ids are those of Encode(text, true): a turn whose text spells a special token gets that token, as in
// llama.cpp. A system turn stands first. Error: no template or one that is not known (named), a vocabulary without its
// tokens, an unknown role, a system turn elsewhere or without a user turn to hold its text.
ChatTokens BuildChat(const Tokenizer& tokenizer, std::span<const ChatTurn> turns, bool open_assistant,
                     std::string_view template_name = "auto");

// What template_name may be.
std::vector<std::string> ChatTemplateNames();

}  // namespace kvscope
