// SPDX-License-Identifier: Apache-2.0
// Prompts that are plain text: windows of a book for perplexity, and whatever somebody types.
#include <array>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "capture/chat_template.h"
#include "capture/task.h"
#include "core/error.h"
#include "core/sha256.h"

namespace kvscope {
namespace {

// Text written by the user may hold anything; names of files are not always UTF-8.
std::string Dump(const nlohmann::ordered_json& json) {
  return json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

std::string HexSha256OfText(const std::string& text) {
  return HexSha256(std::as_bytes(std::span(text.data(), text.size())));
}

void CheckTextOptions(const TextOptions& options, const std::string& name) {
  if (options.context < 2 || options.windows < 1) {
    throw Error(StrCat("text: expected a context of at least 2 tokens and at least one window, found ", options.context,
                       " and ", options.windows, "; ask for more"));
  }
  if (options.context_limit > 0 && options.context > options.context_limit) {
    throw Error(StrCat("text: expected a context of at most ", options.context_limit, " tokens, which the model was ",
                       "made for, found ", options.context, "; ask for a shorter one"));
  }
  if (options.text.empty()) throw Error(StrCat(name, ": expected text, found none; pass another file"));
  ValidateUtf8(options.text, name);
}

}  // namespace

std::vector<Prompt> TextPrompts(const Tokenizer& tokenizer, const TextOptions& options) {
  const std::string name = options.text_name.empty() ? "text" : options.text_name;
  CheckTextOptions(options, name);
  const std::vector<int> ids = tokenizer.Encode(options.text, false);
  const std::vector<int> opening = tokenizer.AddsBos() ? std::vector<int>{tokenizer.bos_id()} : std::vector<int>{};
  const int64_t window_tokens = options.context - static_cast<int64_t>(opening.size());  // of the text
  const int64_t needed = window_tokens * options.windows;
  if (static_cast<int64_t>(ids.size()) < needed) {
    throw Error(StrCat(name, ": expected a text of at least ", needed, " tokens, found ", ids.size(),
                       "; pass a longer text, or ask for a shorter context or fewer windows"));
  }
  const std::string sha256 = HexSha256OfText(options.text);
  const int half = options.context / 2;
  std::vector<Prompt> prompts;
  for (int window = 0; window < options.windows; ++window) {
    const auto begin = ids.begin() + window * window_tokens;
    const auto middle = begin + half - static_cast<int64_t>(opening.size());
    std::array<char, 64> stem{};
    std::snprintf(stem.data(), stem.size(), "text_c%d_w%02d", options.context, window);
    Prompt prompt;
    prompt.file_stem = stem.data();
    prompt.ids = opening;
    prompt.ids.insert(prompt.ids.end(), begin, middle);
    prompt.forced_ids.assign(middle, begin + window_tokens);
    prompt.max_new = 0;
    prompt.segments = {{"context", 0, 0, half, true}, {"continuation", 0, half, options.context, false}};
    prompt.task.name = "text";
    prompt.task.scorer = "none";
    prompt.task.parameters_json = Dump({{"context", options.context},
                                        {"window", window},
                                        {"text_token_begin", window * window_tokens},
                                        {"text", name},
                                        {"text_sha256", sha256}});
    prompts.push_back(std::move(prompt));
  }
  return prompts;
}

Prompt PlainPrompt(const Tokenizer& tokenizer, const PromptOptions& options) {
  if (options.text.empty()) throw Error("prompt: expected text, found none; pass --prompt \"...\"");
  if (options.max_new < 0) {
    throw Error(StrCat("prompt: expected 0 or more new tokens, found ", options.max_new, "; correct --max-new"));
  }
  ValidateUtf8(options.text, "prompt");
  Prompt prompt;
  prompt.file_stem = "prompt";
  prompt.max_new = options.max_new;
  if (options.chat) {
    const std::array<ChatTurn, 1> turns = {{{"user", options.text}}};
    prompt.ids = BuildChat(tokenizer, turns, true, options.chat_template).ids;
  } else {
    prompt.ids = tokenizer.Encode(options.text, true);
    const bool has_bos = !prompt.ids.empty() && prompt.ids[0] == tokenizer.bos_id();
    if (tokenizer.AddsBos() && !has_bos) prompt.ids.insert(prompt.ids.begin(), tokenizer.bos_id());
  }
  const int num_tokens = static_cast<int>(prompt.ids.size());
  if (options.context_limit > 0 && num_tokens + int64_t{options.max_new} > options.context_limit) {
    throw Error(StrCat("prompt: expected at most ", options.context_limit, " tokens, which the model was made for, ",
                       "found ", num_tokens, " and ", options.max_new, " new ones; shorten it or lower --max-new"));
  }
  prompt.segments = {{"context", 0, 0, num_tokens, true}};
  prompt.task.name = "prompt";
  prompt.task.scorer = "none";
  prompt.task.parameters_json = Dump({{"context", num_tokens}, {"chat", options.chat}, {"text", options.text}});
  return prompt;
}

}  // namespace kvscope
