// SPDX-License-Identifier: Apache-2.0
#include "capture/chat_template.h"

#include <algorithm>

#include "capture/gguf.h"
#include "core/error.h"

namespace kvscope {
namespace {

// What stands around a turn's text; %role% is replaced.
struct Markers {
  std::string_view open;
  std::string_view close;
};

// A family is recognised by a text in the template that no other family uses. Without markers it is only known by name.
struct Family {
  const char* name;
  std::string_view sign;
  Markers markers;
};
constexpr Family kFamilies[] = {
    {"ChatML", "<|im_start|>", {"<|im_start|>%role%\n", "<|im_end|>\n"}},
    {"Llama 3", "<|start_header_id|>", {}},
    {"Llama 4", "<|header_start|>", {}},
    {"Llama 2 or Mistral", "[INST]", {}},
    {"Gemma", "<start_of_turn>", {}},
    {"Phi 3", "<|assistant|>", {}},
    {"DeepSeek", "<｜Assistant｜>", {}},
    {"gpt-oss", "<|channel|>", {}},
};

const Family& RecogniseFamily(const Tokenizer& tokenizer) {
  const std::string& text = tokenizer.chat_template();
  const std::string place = tokenizer.path() + ":tokenizer.chat_template";
  if (text.empty()) {
    throw Error(
        StrCat(place, ": expected a chat template, found none; use an instruction-tuned model or a plain prompt"));
  }
  const auto* family = std::find_if(std::begin(kFamilies), std::end(kFamilies),
                                    [&](const Family& f) { return text.find(f.sign) != std::string::npos; });
  if (family == std::end(kFamilies) || family->markers.open.empty()) {
    const std::string found = family == std::end(kFamilies)
                                  ? "an unknown one that begins with '" + Printable(text) + "'"
                                  : StrCat("one of the ", family->name, " family");
    throw Error(StrCat(place, ": expected a ChatML template, found ", found, "; use a plain prompt"));
  }
  for (const std::string_view marker : {"<|im_start|>", "<|im_end|>"}) {
    if (!tokenizer.FindSpecial(marker)) {
      throw Error(StrCat(place, ": expected a special token '", marker,
                         "' as the template uses it, found none; convert the model again"));
    }
  }
  return *family;
}

std::string Replaced(std::string_view text, std::string_view from, std::string_view to) {
  std::string result;
  for (size_t at; (at = text.find(from)) != std::string_view::npos; text.remove_prefix(at + from.size())) {
    result += text.substr(0, at);
    result += to;
  }
  return result.append(text);
}

std::string OpeningOf(const Family& family, std::string_view role) {
  return Replaced(family.markers.open, "%role%", role);
}

// The literal system text that the template itself writes, if any. A system turn put together from an expression has a
// quote between its markers and is passed over.
std::string DefaultSystemText(const Family& family, const std::string& chat_template) {
  const std::string text = Replaced(chat_template, "\\n", "\n");  // some files escape line breaks in the strings
  const std::string open = OpeningOf(family, "system");
  const std::string_view close = family.markers.close.substr(0, family.markers.close.find('\n'));
  for (size_t at = 0; (at = text.find(open, at)) != std::string::npos;) {
    at += open.size();
    const size_t end = text.find(close, at);
    if (end == std::string::npos) break;
    const std::string literal = text.substr(at, end - at);
    if (!literal.empty() && literal.find_first_of("'\"{}") == std::string::npos) return literal;
  }
  return "";
}

}  // namespace

ChatTokens BuildChat(const Tokenizer& tokenizer, std::span<const ChatTurn> turns, bool open_assistant) {
  const Family& family = RecogniseFamily(tokenizer);
  struct TurnBytes {
    int64_t begin, text_begin, text_end, end;
  };
  ChatTokens chat;
  std::vector<TurnBytes> places;
  const auto size = [&] { return static_cast<int64_t>(chat.text.size()); };
  const auto add = [&](const ChatTurn& turn, bool is_added, bool is_closed) {
    TurnBytes place{};
    place.begin = size();
    chat.text += OpeningOf(family, turn.role);
    place.text_begin = size();
    chat.text += turn.text;
    place.text_end = size();
    if (is_closed) chat.text += family.markers.close;
    place.end = size();
    places.push_back(place);
    chat.spans.push_back({turn.role, {}, {}, place.text_begin, place.text_end, is_added});
  };

  const std::string system_text = DefaultSystemText(family, tokenizer.chat_template());
  if (!system_text.empty() && (turns.empty() || turns[0].role != "system")) add({"system", system_text}, true, true);
  for (const ChatTurn& turn : turns) {
    if (turn.role != "system" && turn.role != "user" && turn.role != "assistant") {
      throw Error(
          StrCat("chat: expected the role system, user or assistant, found '", Printable(turn.role), "'; correct it"));
    }
    ValidateUtf8(turn.text, StrCat("chat, ", turn.role, " turn"));
    add(turn, false, true);
  }
  if (open_assistant) add({"assistant", ""}, true, false);

  chat.ids = tokenizer.Encode(chat.text, true);
  chat.byte_offsets = ByteOffsets(tokenizer, chat.ids);
  for (size_t i = 0; i < places.size(); ++i) {
    const TurnBytes& place = places[i];
    ChatSpan& span = chat.spans[i];
    span.turn = TokensCovering(chat.byte_offsets, place.begin, place.end);
    span.text = TokensCovering(chat.byte_offsets, place.text_begin, place.text_end);
  }
  return chat;
}

}  // namespace kvscope
