// SPDX-License-Identifier: Apache-2.0
#include "capture/chat_template_family.h"

#include <algorithm>

#include "capture/gguf.h"
#include "core/error.h"

namespace kvscope {
namespace {

constexpr std::string_view kLlama3System = "<|start_header_id|>system<|end_header_id|>\n\n";
// Llama 3.1 to 3.3 put dates before every system text. Today's would make every day another prompt: the templates' own
// date for programs that have none keeps prompts the same.
constexpr std::string_view kLlama31System =
    "<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n";

// The first family whose signs all stand in a template is the template's: the special ones first.
constexpr ChatFamily kFamilies[] = {
    {.name = "smollm3", .signs = {"<|im_start|>", "Knowledge Cutoff Date"}},
    {.name = "smolvlm", .signs = {"<|im_start|>", "<end_of_utterance>"}},
    {.name = "phi-4",
     .signs = {"<|im_start|>", "<|im_sep|>"},
     .user = {"<|im_start|>user<|im_sep|>", "<|im_end|>"},
     .assistant = {"<|im_start|>assistant<|im_sep|>", "<|im_end|>"},
     .answer = "<|im_start|>assistant<|im_sep|>",
     .system = {"<|im_start|>system<|im_sep|>", "<|im_end|>"},
     .tokens = {"<|im_start|>", "<|im_sep|>", "<|im_end|>"}},
    {.name = "chatml",
     .signs = {"<|im_start|>"},
     .user = {"<|im_start|>user\n", "<|im_end|>\n"},
     .assistant = {"<|im_start|>assistant\n", "<|im_end|>\n"},
     .answer = "<|im_start|>assistant\n",
     .system = {"<|im_start|>system\n", "<|im_end|>\n"},
     .tokens = {"<|im_start|>", "<|im_end|>"}},
    {.name = "llama-3.1",
     .signs = {"<|start_header_id|>", "Cutting Knowledge Date: December 2023", "<|eot_id|>"},
     .user = {"<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>"},
     .assistant = {"<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"},
     .answer = "<|start_header_id|>assistant<|end_header_id|>\n\n",
     .system = {kLlama31System, "<|eot_id|>"},
     .always_has_system = true,
     .trims = true,
     .tokens = {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"}},
    {.name = "llama-3",
     .signs = {"<|start_header_id|>", "<|eot_id|>"},
     .user = {"<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>"},
     .assistant = {"<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"},
     .answer = "<|start_header_id|>assistant<|end_header_id|>\n\n",
     .system = {kLlama3System, "<|eot_id|>"},
     .trims = true,
     .tokens = {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"}},
    {.name = "llama-2",
     .signs = {"[INST]", "<<SYS>>"},
     .user = {"%bos%[INST] ", " [/INST]"},
     .assistant = {" ", " %eos%"},
     .answer = "",
     .answer_begins = " ",
     .system = {"<<SYS>>\n", "\n<</SYS>>\n\n"},
     .system_place = SystemPlace::kFirstUserTurn,
     .trims = true},
    {.name = "mistral-v7",  // Large 2411
     .signs = {"[SYSTEM_PROMPT] ", "[INST] "},
     .user = {"[INST] ", "[/INST]"},
     .assistant = {" ", "%eos%"},
     .answer = "",
     .answer_begins = " ",
     .system = {"[SYSTEM_PROMPT] ", "[/SYSTEM_PROMPT]"},
     .tokens = {"[INST]", "[/INST]", "[SYSTEM_PROMPT]"}},
    {.name = "mistral-v7-tekken",  // Small 3
     .signs = {"[SYSTEM_PROMPT]", "[INST]"},
     .user = {"[INST]", "[/INST]"},
     .assistant = {"", "%eos%"},
     .answer = "",
     .system = {"[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"},
     .tokens = {"[INST]", "[/INST]", "[SYSTEM_PROMPT]"}},
    {.name = "mistral-v1",  // 7B v0.1 and v0.2, Mixtral 8x7B
     .signs = {" [INST] ", " [/INST]", "system_message"},
     .user = {" [INST] ", " [/INST]"},
     .assistant = {" ", "%eos%"},
     .answer = "",
     .answer_begins = " ",
     .system = {"", "\n\n"},
     .system_place = SystemPlace::kFirstUserTurn},
    {.name = "mistral-v3",  // 7B v0.3, Mixtral 8x22B
     .signs = {"[INST] ", "[AVAILABLE_TOOLS]"},
     .user = {"[INST] ", "[/INST]"},
     .assistant = {" ", "%eos%"},
     .answer = "",
     .answer_begins = " ",
     .system = {"", "\n\n"},
     .system_place = SystemPlace::kLastUserTurn,
     .tokens = {"[INST]", "[/INST]"}},
    {.name = "mistral-tekken",  // NeMo
     .signs = {"[INST]", "[AVAILABLE_TOOLS]"},
     .user = {"[INST]", "[/INST]"},
     .assistant = {"", "%eos%"},
     .answer = "",
     .system = {"", "\n\n"},
     .system_place = SystemPlace::kLastUserTurn,
     .tokens = {"[INST]", "[/INST]"}},
    {.name = "mistral",  // the first templates of 7B v0.1 and v0.2, without a system text
     .signs = {"'[INST] ' + message['content'] + ' [/INST]'"},
     .user = {"[INST] ", " [/INST]"},
     .assistant = {"", "%eos%"},
     .answer = "",
     .system = {"", "\n\n"},
     .system_place = SystemPlace::kFirstUserTurn},
    {.name = "gemma",  // 1 to 3
     .signs = {"<start_of_turn>"},
     .user = {"<start_of_turn>user\n", "<end_of_turn>\n"},
     .assistant = {"<start_of_turn>model\n", "<end_of_turn>\n"},
     .answer = "<start_of_turn>model\n",
     .system = {"", "\n\n"},
     .system_place = SystemPlace::kFirstUserTurn,
     .trims = true,
     .tokens = {"<start_of_turn>", "<end_of_turn>"}},
    {.name = "phi-4-mini",
     .signs = {"'|>' + message['content'] + '<|end|>'", "<|assistant|>"},
     .user = {"<|user|>", "<|end|>"},
     .assistant = {"<|assistant|>", "<|end|>"},
     .answer = "<|assistant|>",
     .system = {"<|system|>", "<|end|>"},
     .tokens = {"<|user|>", "<|assistant|>", "<|end|>"}},
    {.name = "phi-3",  // and 3.5
     .signs = {"<|end|>\n", "<|assistant|>"},
     .user = {"<|user|>\n", "<|end|>\n"},
     .assistant = {"<|assistant|>\n", "<|end|>\n"},
     .answer = "<|assistant|>\n",
     .system = {"<|system|>\n", "<|end|>\n"},
     .tokens = {"<|user|>", "<|assistant|>", "<|end|>"}},
    {.name = "phi-3",
     .signs = {"<|end|>' + '\n'", "<|assistant|>"},
     .user = {"<|user|>\n", "<|end|>\n"},
     .assistant = {"<|assistant|>\n", "<|end|>\n"},
     .answer = "<|assistant|>\n",
     .system = {"<|system|>\n", "<|end|>\n"},
     .tokens = {"<|user|>", "<|assistant|>", "<|end|>"}},
    {.name = "zephyr",  // and TinyLlama
     .signs = {"<|user|>\n' + message['content'] + eos_token", "<|assistant|>"},
     .user = {"<|user|>\n", "%eos%\n"},
     .assistant = {"<|assistant|>\n", "%eos%\n"},
     .answer = "<|assistant|>\n",
     .system = {"<|system|>\n", "%eos%\n"}},
    {.name = "llama-4", .signs = {"<|header_start|>"}},
    {.name = "deepseek", .signs = {"<｜Assistant｜>"}},
    {.name = "gpt-oss", .signs = {"<|start|>", "<|channel|>"}},
    {.name = "none", .is_plain = true},
};

// The strings of some files have their line breaks escaped.
std::string TemplateText(const Tokenizer& tokenizer) {
  return Replaced(tokenizer.chat_template(), "\\n", "\n");
}

const ChatFamily* RecogniseFamily(std::string_view text) {
  const auto* family = std::find_if(std::begin(kFamilies), std::end(kFamilies), [&](const ChatFamily& f) {
    return !f.is_plain && std::all_of(f.signs.begin(), f.signs.end(),
                                      [&](std::string_view sign) { return text.find(sign) != std::string_view::npos; });
  });
  return family == std::end(kFamilies) ? nullptr : family;
}

std::string KnownNames() {
  std::string known;
  for (const std::string& name : ChatTemplateNames()) {
    if (name != "auto" && name != "none") known += (known.empty() ? "" : ", ") + name;
  }
  return known;
}

const ChatFamily* ChooseFamily(const Tokenizer& tokenizer, std::string_view name, const ChatFamily* recognised) {
  const std::string place = tokenizer.path() + ":tokenizer.chat_template";
  const std::string remedy = "; pass --template none for text without turns, or --template NAME to choose one";
  if (name == "auto") {
    if (recognised && recognised->IsWritten()) return recognised;
    const std::string found =
        tokenizer.chat_template().empty() ? "none"
        : recognised                      ? StrCat("one of the family ", recognised->name)
                     : StrCat("an unknown one that begins with '", Printable(tokenizer.chat_template()), "'");
    throw Error(StrCat(place, ": expected a chat template of ", KnownNames(), ", found ", found, remedy));
  }
  const auto* family = std::find_if(std::begin(kFamilies), std::end(kFamilies),
                                    [&](const ChatFamily& f) { return f.IsWritten() && name == f.name; });
  if (family == std::end(kFamilies)) {
    throw Error(StrCat("--template: expected auto, none or one of ", KnownNames(), ", found '", Printable(name), "'"));
  }
  return family;
}

void CheckTokens(const Tokenizer& tokenizer, const ChatFamily& family) {
  for (const std::string_view token : family.tokens) {
    if (token.empty() || tokenizer.FindSpecial(token)) continue;
    throw Error(StrCat(tokenizer.path(), ":tokenizer.ggml.tokens: expected a special token '", token,
                       "' as the chat template ", family.name,
                       " uses it, found none; pass --template none or another name, or convert the model again"));
  }
}

// The literal system text that the template itself writes, if any. A system turn put together from an expression has a
// quote between its markers and is passed over.
std::string DefaultSystemText(const Markers& markers, const std::string& text) {
  const std::string_view close = markers.close.substr(0, markers.close.find('\n'));
  if (markers.open.empty() || close.empty()) return "";
  for (size_t at = 0; (at = text.find(markers.open, at)) != std::string::npos;) {
    at += markers.open.size();
    const size_t end = text.find(close, at);
    if (end == std::string::npos) break;
    const std::string literal = text.substr(at, end - at);
    if (!literal.empty() && literal.find_first_of("'\"{}") == std::string::npos) return literal;
  }
  return "";
}

// A model that may think before it answers is asked not to, by the empty block of thoughts that its own template writes
// for that: a needle's answer has a few tokens. A model that always thinks (its template opens the block) does.
std::string AnswerOf(const ChatFamily& family, const std::string& text) {
  const std::string answer(family.answer);
  constexpr std::string_view kNoThoughts = "<think>\n\n</think>\n\n";
  if (text.find("enable_thinking") != std::string::npos && text.find(kNoThoughts) != std::string::npos) {
    return answer + std::string(kNoThoughts);
  }
  const std::string thinking = answer + "<think>\n";
  return !answer.empty() && text.find(thinking) != std::string::npos ? thinking : answer;
}

}  // namespace

std::string Replaced(std::string_view text, std::string_view from, std::string_view to) {
  std::string result;
  for (size_t at; (at = text.find(from)) != std::string_view::npos; text.remove_prefix(at + from.size())) {
    result += text.substr(0, at);
    result += to;
  }
  return result.append(text);
}

std::vector<std::string> ChatTemplateNames() {
  std::vector<std::string> names = {"auto", "none"};
  for (const ChatFamily& family : kFamilies) {
    if (family.IsWritten() && std::find(names.begin(), names.end(), family.name) == names.end()) {
      names.emplace_back(family.name);
    }
  }
  return names;
}

ChatFormat ChooseChatFormat(const Tokenizer& tokenizer, std::string_view name) {
  const std::string text = TemplateText(tokenizer);
  const ChatFamily* recognised = text.empty() ? nullptr : RecogniseFamily(text);
  ChatFormat format;
  format.family = ChooseFamily(tokenizer, name, recognised);
  CheckTokens(tokenizer, *format.family);
  format.begins_with_bos = tokenizer.AddsBos();
  format.answer = format.family->answer;
  if (format.family != recognised) return format;
  format.default_system = DefaultSystemText(format.family->system, text);
  format.answer = AnswerOf(*format.family, text);
  // Templates that write the token themselves name it so; one is enough.
  format.begins_with_bos |= tokenizer.bos_id() >= 0 && text.find("bos_token") != std::string::npos;
  return format;
}

}  // namespace kvscope
