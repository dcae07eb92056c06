// SPDX-License-Identifier: Apache-2.0
// The table of chat templates that kvscope writes itself, and which of them a model's template is. Internal to
// capture/chat_template.h.
#pragma once

#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "capture/tokenizer.h"

namespace kvscope {

// Where a family without system turns puts the system text.
enum class SystemPlace { kOwnTurn, kFirstUserTurn, kLastUserTurn };

// What stands around a turn's text; %bos% and %eos% are the texts of the model's tokens.
struct Markers {
  std::string_view open = "";
  std::string_view close = "";
};

struct ChatFamily {
  const char* name;  // as --template takes it
  std::array<std::string_view, 3> signs =
      {};             // texts that all stand in a template of this family; empty ones do not count
  Markers user = {};  // neither: the family is only known by name
  Markers assistant = {};
  std::string_view answer = "";         // after which the model answers
  std::string_view answer_begins = "";  // the model's answer begins with this
  Markers system = {};                  // around the system text, also inside a user turn
  SystemPlace system_place = SystemPlace::kOwnTurn;
  bool always_has_system = false;               // a system turn stands first, without text when there is none
  bool trims = false;                           // white space around a turn's text is taken away
  std::array<std::string_view, 3> tokens = {};  // special tokens that the vocabulary must have
  bool is_plain = false;                        // no turns at all

  bool IsWritten() const { return is_plain || !user.open.empty(); }
};

// A family and what the model's own template says about it.
struct ChatFormat {
  const ChatFamily* family = nullptr;
  std::string default_system;  // a system turn with this text where the caller has none; empty: no such turn
  std::string answer;          // the family's, and an empty block of thoughts where the template can write one
  bool begins_with_bos = false;
};

// `name` is one of ChatTemplateNames(). Error naming the model's template and what to do when "auto" does not recognise
// it, the family is only known by name, or the vocabulary lacks its tokens.
ChatFormat ChooseChatFormat(const Tokenizer& tokenizer, std::string_view name);

// "auto", "none" and the families that can be written.
std::vector<std::string> ChatTemplateNames();

// Each `from` in the text becomes `to`.
std::string Replaced(std::string_view text, std::string_view from, std::string_view to);

}  // namespace kvscope
