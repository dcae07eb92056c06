// SPDX-License-Identifier: Apache-2.0
// The command-line options that say what to run: the same for capture and live.
#pragma once

#include <string>
#include <vector>

#include "capture/task.h"

namespace CLI {
class App;
}

namespace kvscope {

struct TaskFlags {
  std::string task = "niah", prompt, file, haystack, chat_template = "auto";
  std::vector<int> contexts{2048};
  std::vector<double> depths{0.5};
  int repeats = 1, max_new = 16, wording = -1, doors = 1, windows = 1;
  uint64_t seed = 0;
  bool chat = false;
};
void AddTaskOptions(CLI::App& app, TaskFlags& flags);

// Reads the text files. Throws Error.
std::vector<Prompt> MakePrompts(const TaskFlags& flags, const Tokenizer& tokenizer, int context_limit);

}  // namespace kvscope
