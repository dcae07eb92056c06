// SPDX-License-Identifier: Apache-2.0
#include "capture/chat_template.h"

#include <algorithm>
#include <utility>

#include "capture/chat_template_family.h"
#include "capture/gguf.h"
#include "core/error.h"

namespace kvscope {
namespace {

std::string_view Trimmed(std::string_view text) {
  constexpr std::string_view kSpace = " \t\n\v\f\r";
  const size_t begin = text.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) return "";
  return text.substr(begin, text.find_last_not_of(kSpace) - begin + 1);
}

// Writes turns one after another and remembers where they lie in the text.
class ChatWriter {
 public:
  ChatWriter(const Tokenizer& tokenizer, ChatFormat format) : tokenizer_(tokenizer), format_(std::move(format)) {
    if (format_.begins_with_bos) chat_.text = TextOf(tokenizer.bos_id());
  }

  void Write(std::span<const ChatTurn> turns, bool open_assistant) {
    const ChatFamily& family = *format_.family;
    const bool has_system = !turns.empty() && turns[0].role == "system";
    if (has_system && family.system_place != SystemPlace::kOwnTurn && !family.is_plain) {
      system_ = turns[0].text;
      turns = turns.subspan(1);
      system_turn_ = UserTurnFor(turns);
    } else if (!has_system && (!format_.default_system.empty() || family.always_has_system)) {
      AddTurn("system", format_.default_system, family.system, /*is_added=*/true);
    }
    for (size_t i = 0; i < turns.size(); ++i) AddTurn(turns[i], i);
    if (!open_assistant) return;
    AddTurn("assistant", "", {format_.answer, ""}, /*is_added=*/true);
    chat_.answer_begins = family.is_plain ? " " : std::string(family.answer_begins);
  }

  ChatTokens Tokenise() && {
    Encoding encoding = tokenizer_.EncodeWithOffsets(chat_.text, true);
    chat_.ids = std::move(encoding.ids);
    chat_.byte_offsets = std::move(encoding.byte_offsets);
    if (format_.begins_with_bos && (chat_.ids.empty() || chat_.ids[0] != tokenizer_.bos_id())) {
      throw Error(StrCat(tokenizer_.path(), ":tokenizer.ggml.bos_token_id: expected a control token, found '",
                         Printable(TextOf(tokenizer_.bos_id())), "'; convert the model again"));
    }
    int64_t done = 0;  // turns follow each other; a dummy space, which has no bytes, belongs to the turn behind it
    for (size_t i = 0; i < turn_ends_.size(); ++i) {
      ChatSpan& span = chat_.spans[i];
      const int64_t begin = i == 0 ? 0 : turn_ends_[i - 1];
      const bool is_empty = begin == turn_ends_[i];
      span.turn = is_empty ? TokenRange{done, done} : TokensCovering(chat_.byte_offsets, begin, turn_ends_[i]);
      span.turn.token_begin = std::min(span.turn.token_begin, done);
      if (i + 1 == turn_ends_.size()) span.turn.token_end = static_cast<int64_t>(chat_.ids.size());
      done = span.turn.token_end;
      span.text = TextTokens(span, done);
    }
    return std::move(chat_);
  }

 private:
  TokenRange TextTokens(const ChatSpan& span, int64_t end_of_turn) const {
    if (span.text_byte_begin == span.text_byte_end) return {end_of_turn, end_of_turn};
    const std::vector<int64_t>& offsets = chat_.byte_offsets;
    TokenRange tokens = TokensCovering(offsets, span.text_byte_begin, span.text_byte_end);
    const auto begin_of = [&](int64_t token) { return offsets[static_cast<size_t>(token)]; };
    while (tokens.token_begin > 0 && begin_of(tokens.token_begin - 1) == begin_of(tokens.token_begin)) {
      --tokens.token_begin;
    }
    return tokens;
  }

  std::string TextOf(int id) const { return id < 0 ? "" : std::string(tokenizer_.Piece(id)); }

  std::string Filled(std::string_view marker) const {
    return Replaced(Replaced(marker, "%bos%", TextOf(tokenizer_.bos_id())), "%eos%", TextOf(tokenizer_.eos_id()));
  }

  // Which user turn holds the system text.
  size_t UserTurnFor(std::span<const ChatTurn> turns) const {
    size_t found = turns.size();
    for (size_t i = 0; i < turns.size(); ++i) {
      const bool counts = format_.family->system_place == SystemPlace::kLastUserTurn || found == turns.size();
      if (turns[i].role == "user" && counts) found = i;
    }
    if (found < turns.size()) return found;
    throw Error(StrCat("chat: expected a user turn, which holds the system text in the template ", format_.family->name,
                       ", found none; add one"));
  }

  void AddTurn(const ChatTurn& turn, size_t number) {
    const ChatFamily& family = *format_.family;
    if (turn.role == "user") {
      const bool holds_system = !system_.empty() && number == system_turn_;
      AddTurn(turn.role, turn.text, family.user, false, holds_system ? system_ : std::string_view());
    } else if (turn.role == "assistant") {
      AddTurn(turn.role, turn.text, family.assistant, false);
    } else if (turn.role == "system" && number == 0 && system_.empty()) {
      AddTurn(turn.role, turn.text, family.system, false);
    } else {
      throw Error(StrCat("chat: expected the role user or assistant, or system in the first turn, found '",
                         Printable(turn.role), "'; correct it"));
    }
  }

  void AddTurn(const std::string& role, std::string_view text, const Markers& markers, bool is_added,
               std::string_view system = "") {
    const ChatFamily& family = *format_.family;
    ValidateUtf8(text, StrCat("chat, ", role, " turn"));
    ValidateUtf8(system, "chat, system turn");
    const std::string open = Filled(markers.open);
    // A family that writes the begin-of-text token in every user turn has it here already.
    if (format_.begins_with_bos && chat_.spans.empty() && open.starts_with(chat_.text)) chat_.text.clear();
    chat_.text += open;
    if (!system.empty()) {
      chat_.text += StrCat(family.system.open, family.trims ? Trimmed(system) : system, family.system.close);
    }
    ChatSpan span;
    span.role = role;
    span.is_added = is_added;
    span.text_byte_begin = static_cast<int64_t>(chat_.text.size());
    chat_.text += family.trims ? Trimmed(text) : text;
    span.text_byte_end = static_cast<int64_t>(chat_.text.size());
    chat_.text += Filled(markers.close);
    turn_ends_.push_back(static_cast<int64_t>(chat_.text.size()));
    chat_.spans.push_back(std::move(span));
  }

  const Tokenizer& tokenizer_;
  ChatFormat format_;
  ChatTokens chat_;
  std::string system_;  // to be written into user turn system_turn_
  size_t system_turn_ = 0;
  std::vector<int64_t> turn_ends_;  // bytes
};

}  // namespace

ChatTokens BuildChat(const Tokenizer& tokenizer, std::span<const ChatTurn> turns, bool open_assistant,
                     std::string_view template_name) {
  ChatWriter writer(tokenizer, ChooseChatFormat(tokenizer, template_name));
  writer.Write(turns, open_assistant);
  return std::move(writer).Tokenise();
}

}  // namespace kvscope
