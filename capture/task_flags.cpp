// SPDX-License-Identifier: Apache-2.0
#include "capture/task_flags.h"

#include <CLI/CLI.hpp>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "capture/chat_template.h"
#include "core/error.h"

namespace kvscope {
namespace {

namespace fs = std::filesystem;

constexpr const char* kDefaultHaystack = "traces/cache/kjv.txt";  // as the demo and the tests make it

std::string ReadTextFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file || fs::is_directory(path)) throw Error(StrCat(path, ": cannot be read; expected a text file"));
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace

void AddTaskOptions(CLI::App& app, TaskFlags& flags) {
  app.add_option("--task", flags.task, "niah (needle in a haystack), text (perplexity) or prompt")
      ->check(CLI::IsMember({"niah", "text", "prompt"}))
      ->capture_default_str();
  app.add_option("--context", flags.contexts, "prompt tokens, everything counted; a list makes a grid")
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("--depth", flags.depths, "niah: share of the haystack before the needle; a list makes a grid")
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("--repeats", flags.repeats, "niah: needles per cell of the grid")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str();
  app.add_option("--wording", flags.wording,
                 "niah: needle wording 0, 1 or 2; -1 rotates with the repeats (0 with several doors)")
      ->check(CLI::Range(-1, 2))
      ->capture_default_str();
  app.add_option("--doors", flags.doors,
                 "niah: sentences hidden, each with a colour and number of its own; one is asked for (not wording 1)")
      ->check(CLI::Range(1, kMaxNiahDoors))
      ->capture_default_str();
  app.add_option("--haystack", flags.haystack, "niah: text file around the needle; default traces/cache/kjv.txt");
  app.add_option("--file", flags.file, "text: the text file");
  app.add_option("--windows", flags.windows, "text: consecutive windows of --context tokens")
      ->check(CLI::Range(1, 100000))
      ->capture_default_str();
  app.add_option("--prompt", flags.prompt, "a prompt of your own")->each([&flags](const std::string&) {
    flags.task = "prompt";  // said even when it is empty
  });
  app.add_flag("--chat", flags.chat, "prompt: as a user turn of the model's chat template");
  app.add_option("--template", flags.chat_template,
                 "niah, --chat: how turns are written; auto: as the model's own template, none: text without turns")
      ->check(CLI::IsMember(ChatTemplateNames()))
      ->capture_default_str();
  app.add_option("--max-new", flags.max_new, "tokens to generate at most")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  app.add_option("--seed", flags.seed, "of needles and haystack offsets")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 53))
      ->capture_default_str();
}

std::vector<Prompt> MakePrompts(const TaskFlags& flags, const Tokenizer& tokenizer, int context_limit) {
  if (!flags.prompt.empty() || flags.task == "prompt") {
    return {PlainPrompt(tokenizer, {.text = flags.prompt,
                                    .chat = flags.chat,
                                    .max_new = flags.max_new,
                                    .context_limit = context_limit,
                                    .chat_template = flags.chat_template})};
  }
  if (flags.task == "text") {
    if (flags.file.empty()) throw Error("--task text: expected --file TEXT; found none");
    if (flags.contexts.size() != 1) throw Error("--task text: expected one --context");
    TextOptions options;
    options.context = flags.contexts[0];
    options.windows = flags.windows;
    options.text = ReadTextFile(flags.file);
    options.text_name = fs::path(flags.file).filename();
    options.context_limit = context_limit;
    return TextPrompts(tokenizer, options);
  }
  const std::string haystack = flags.haystack.empty() ? kDefaultHaystack : flags.haystack;
  if (!fs::exists(haystack)) {
    throw Error(StrCat(haystack, ": no such text; run traces/make_texts traces/cache, or pass --haystack TEXT"));
  }
  NiahOptions options;
  options.contexts = flags.contexts;
  options.depths = flags.depths;
  options.repeats = flags.repeats;
  options.max_new = flags.max_new;
  options.seed = flags.seed;
  options.haystack_text = ReadTextFile(haystack);
  options.haystack_name = fs::path(haystack).filename();
  options.wording = flags.wording;
  options.doors = flags.doors;
  options.context_limit = context_limit;
  options.chat_template = flags.chat_template;
  return NiahPrompts(tokenizer, options);
}

}  // namespace kvscope
