// SPDX-License-Identifier: Apache-2.0
// What to run: a task turns options into prompts whose every token is accounted for. Exact spans and segments are made
// here, by construction, never found again by searching the text. Every prompt begins with the begin-of-text token
// where the vocabulary adds one (Tokenizer::AddsBos) or the model's chat template writes it, and has it once; it
// counts, and belongs to the first segment.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "capture/tokenizer.h"
#include "core/trace.h"

namespace kvscope {

// One run.
struct Prompt {
  std::string file_stem;          // niah_c2048_d050_r03, niah_c2048_d050_k3_r03 (doors): the trace's name in a grid
  std::vector<int> ids;           // the prompt, or for `text` the context
  std::vector<int> forced_ids;    // `text`: the continuation, teacher-forced one token at a time; else empty: generate
  int max_new = 16;               // tokens to generate at most
  std::vector<Segment> segments;  // over ids (and forced_ids); the answer is added when it is known
  std::vector<Span> spans;
  TaskInfo task;
};

// Needle in a haystack. `context` counts every prompt token, template, needle and question included, exactly. Depth is
// the share of haystack tokens before the needle, moved back to a sentence end; the real one is stored.
// With more than one door the haystack hides as many sentences that differ in colour and number. The question asks for
// one of them, the needle; the others are spans of kind `distractor`, spread evenly over the haystack.
constexpr int kMaxNiahDoors = 8;
struct NiahOptions {
  std::vector<int> contexts{2048};
  std::vector<double> depths{0.5};
  int repeats = 1;
  int max_new = 16;
  uint64_t seed = 0;
  std::string haystack_text;
  std::string haystack_name;  // stored with the text's sha256
  int wording = -1;           // 0, 1, 2; -1: they rotate with the repeats, or 0 with more than one door
  int doors = 1;              // with more than 1 the colour asked for rotates, and wording 1 (no colour) is an Error
  int context_limit = 0;      // of the model; more is an Error
  std::string chat_template = "auto";  // as BuildChat; "none": text alone, closed with "Answer:"
};
std::vector<Prompt> NiahPrompts(const Tokenizer& tokenizer, const NiahOptions& options);

// Perplexity: the first context / 2 tokens are segment `context` (decide_at its end), the rest `continuation`. Where
// the vocabulary adds a begin-of-text token every window begins with it and has context - 1 tokens of the text: the
// windows still follow each other (llama.cpp's perplexity puts it over the window's first token, which is lost).
struct TextOptions {
  int context = 2048;
  int windows = 1;  // consecutive, not overlapping
  std::string text, text_name;
  int context_limit = 0;
};
std::vector<Prompt> TextPrompts(const Tokenizer& tokenizer, const TextOptions& options);

struct PromptOptions {
  std::string text;
  bool chat = false;  // as a user turn of the model's chat template
  int max_new = 64;
  int context_limit = 0;
  std::string chat_template = "auto";  // as BuildChat, with `chat`
};
Prompt PlainPrompt(const Tokenizer& tokenizer, const PromptOptions& options);

// 1 when any expected answer occurs in `answer`, else 0; NaN for a task without answers.
double ScoreAnswer(const TaskInfo& task, std::string_view answer);
// The number of right leading digits (characters) of the expected answer in `answer`, where the answer starts best.
int AnswerPrefix(const TaskInfo& task, std::string_view answer);

}  // namespace kvscope
