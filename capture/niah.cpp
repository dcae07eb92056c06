// SPDX-License-Identifier: Apache-2.0
// Needle in a haystack (Kamradt 2023, github.com/gkamradt/LLMTest_NeedleInAHaystack): one sentence with a random number
// stands in a long text of sentences without one, and the model is asked for it. The prompt is
//   <template's opening> instruction, blank line, haystack with the needle, blank line, question <template's end>
// and has exactly `context` tokens. For that the haystack is cut behind a word and closed with a full stop or, where a
// word of several tokens does not fit, with ". . ."; every candidate is tokenised whole, because merges across the cut
// make counts of parts unreliable. The haystack begins at a sentence chosen by seed and repeat, the same for every
// depth; the number depends on seed, context, depth and repeat, so a prompt does not depend on the rest of its grid.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <set>

#include "capture/chat_template.h"
#include "capture/niah_haystack.h"
#include "capture/task.h"
#include "core/error.h"

namespace kvscope {
namespace {

constexpr std::string_view kInstruction = "Read the text and answer the question at the end.";
constexpr std::string_view kBreak = "\n\n";
constexpr int kMinHaystackTokens = 16;
constexpr int kCutsTried = 64;  // each is shorter than the one before
constexpr int kShortCuts = 8;   // of those, whose prompt is too short even with the longest closing
constexpr size_t kPlacesTried = 8;
constexpr int64_t kAtEnd = -1;  // the needle stands behind the haystack's last sentence

// The needle is priming + " " + number + ".".
struct Wording {
  std::string_view priming;
  std::string_view question;
};
constexpr std::array<Wording, 3> kWordings = {{
    {"The secret number for the red door is", "What is the secret number for the red door?"},
    {"The secret number is", "What is the secret number?"},
    {"The secret number for the green gate is", "What is the secret number for the green gate?"},
}};

// What closes a haystack that is cut inside a sentence, shortest first.
constexpr std::array<std::string_view, 6> kClosings = {".", " . .", " . . .", " . . . .", " . . . . .", " . . . . . ."};

// One prompt of the grid.
struct Cell {
  int context = 0;
  double depth = 0;
  int repeat = 0;
  int wording = 0;
  std::string value;
  std::string needle;
};

struct ByteRange {
  int64_t begin = 0, end = 0;
};

// The user turn's text and where its parts lie in it.
struct UserText {
  std::string text;
  ByteRange haystack;  // with the needle
  ByteRange needle;
  ByteRange question;
};

struct Fitted {
  UserText user;
  ChatTokens chat;
  int64_t haystack_begin = 0, haystack_end = 0;  // in the haystack's own bytes
  TokenRange needle;
  double depth = 0;
};

std::string Place(const Cell& cell) {
  return StrCat("niah, context ", cell.context, ", depth ", cell.depth);
}

// `at` bytes of the haystack stand before the needle; at most body.size().
UserText ComposeUserText(const Cell& cell, std::string_view body, size_t at) {
  UserText user;
  const auto size = [&] { return static_cast<int64_t>(user.text.size()); };
  user.text.append(kInstruction).append(kBreak);
  user.haystack.begin = size();
  user.text.append(body.substr(0, at));
  if (at > 0) user.text += ' ';
  user.needle.begin = size();
  user.text += cell.needle;
  user.needle.end = size();
  if (at < body.size() && body[at] != ' ' && body[at] != '\n' && body[at] != '\r') user.text += ' ';
  user.text.append(body.substr(at));
  user.haystack.end = size();
  user.text.append(kBreak);
  user.question.begin = size();
  user.text.append(kWordings[static_cast<size_t>(cell.wording)].question);
  user.question.end = size();
  return user;
}

ChatTokens Chat(const Tokenizer& tokenizer, const UserText& user) {
  const std::array<ChatTurn, 1> turns = {{{"user", user.text}}};
  return BuildChat(tokenizer, turns, true);
}

const ChatSpan& UserSpan(const ChatTokens& chat) {
  return *std::find_if(chat.spans.begin(), chat.spans.end(), [](const ChatSpan& span) { return span.role == "user"; });
}

TokenRange TokensOf(const ChatTokens& chat, ByteRange bytes) {
  const int64_t shift = UserSpan(chat).text_byte_begin;
  return TokensCovering(chat.byte_offsets, shift + bytes.begin, shift + bytes.end);
}

// Searches the cut, from long to short, that makes the prompt exactly cell.context tokens.
std::optional<Fitted> FitTo(const Tokenizer& tokenizer, const Haystack& haystack, const Cell& cell, int64_t begin,
                            int64_t needle_at, int64_t haystack_tokens) {
  const auto length = static_cast<int64_t>(haystack.text().size());
  const int64_t first_token = haystack.TokenFromByte(begin) + haystack_tokens + 8;
  const int64_t longest = first_token < haystack.num_tokens() ? haystack.ByteFromToken(first_token) + 1 : length + 1;
  for (const bool any_character : {false, true}) {
    int64_t cut = longest > length ? length : haystack.PreviousCut(longest, any_character);
    int short_cuts = 0;
    for (int tried = 0; tried < kCutsTried; ++tried, cut = haystack.PreviousCut(cut, any_character)) {
      if (cut <= begin || (needle_at != kAtEnd && cut < needle_at) || short_cuts == kShortCuts) break;
      const bool is_closed = haystack.IsSentenceEnd(cut);
      ++short_cuts;
      for (const std::string_view closing : kClosings) {
        std::string body(haystack.text().substr(static_cast<size_t>(begin), static_cast<size_t>(cut - begin)));
        if (!is_closed) body += closing;
        const size_t at = needle_at == kAtEnd ? body.size() : static_cast<size_t>(needle_at - begin);
        Fitted fitted;
        fitted.user = ComposeUserText(cell, body, at);
        fitted.chat = Chat(tokenizer, fitted.user);
        const auto count = static_cast<int64_t>(fitted.chat.ids.size());
        if (count == cell.context) {
          fitted.haystack_begin = begin;
          fitted.haystack_end = cut;
          return fitted;
        }
        if (count > cell.context) --short_cuts;
        if (is_closed || count > cell.context) break;
      }
    }
  }
  return std::nullopt;
}

void MeasureDepth(Fitted* fitted) {
  const TokenRange all = TokensOf(fitted->chat, fitted->user.haystack);
  fitted->needle = TokensOf(fitted->chat, fitted->user.needle);
  const auto before = static_cast<double>(fitted->needle.token_begin - all.token_begin);
  const auto after = static_cast<double>(all.token_end - fitted->needle.token_end);
  fitted->depth = before / std::max(before + after, 1.0);
}

uint64_t Mixed(uint64_t a, uint64_t b) {
  std::mt19937_64 random(a * 0x9E3779B97F4A7C15u + b);
  random.discard(1);
  return random();
}

// A number that the haystack does not hold.
std::string DrawValue(const Haystack& haystack, const Cell& cell, uint64_t seed) {
  const auto depth_key = static_cast<uint64_t>(std::llround(cell.depth * 1e9));
  std::mt19937_64 random(
      Mixed(Mixed(Mixed(seed, static_cast<uint64_t>(cell.context)), depth_key), static_cast<uint64_t>(cell.repeat)));
  for (int tried = 0; tried < 1000; ++tried) {
    std::string value = std::to_string(10000 + random() % 90000);
    if (haystack.text().find(value) == std::string_view::npos) return value;
  }
  throw Error(StrCat(haystack.name(), ": expected a text without most numbers of five digits, found ",
                     "every one of 1000 drawn; pass prose"));
}

// The sentence where this repeat's haystack begins: repeats are spread over all that have enough text behind them.
int64_t ChooseBegin(const Haystack& haystack, const Cell& cell, uint64_t seed, int64_t haystack_tokens) {
  const std::vector<int64_t>& begins = haystack.sentence_begins();
  const int64_t last_token = haystack.num_tokens() - haystack_tokens - 16;
  const auto end = std::partition_point(begins.begin(), begins.end(),
                                        [&](int64_t byte) { return haystack.TokenFromByte(byte) <= last_token; });
  const auto count = static_cast<uint64_t>(end - begins.begin());
  if (count == 0) return begins[0];
  const uint64_t spread = Mixed(seed, 1) + static_cast<uint64_t>(cell.repeat) * 0x9E3779B97F4A7C15u;
  return begins[static_cast<size_t>((spread >> 32) * count >> 32)];
}

// Tokens left for the haystack. Error when they are too few, or more than the haystack has.
int64_t HaystackTokens(const Tokenizer& tokenizer, const Haystack& haystack, const Cell& cell) {
  const auto overhead = static_cast<int64_t>(Chat(tokenizer, ComposeUserText(cell, "", 0)).ids.size());
  const int64_t tokens = cell.context - overhead;
  if (tokens < kMinHaystackTokens) {
    throw Error(StrCat(Place(cell), ": expected a context of at least ", overhead + kMinHaystackTokens,
                       " tokens (template, needle and question take ", overhead, "), found ", cell.context,
                       "; ask for a longer context"));
  }
  const int64_t found = haystack.num_tokens() - haystack.TokenFromByte(haystack.sentence_begins()[0]);
  if (found < tokens) {
    throw Error(StrCat(Place(cell), ": expected a haystack of at least ", tokens, " tokens, found ", found, " in ",
                       haystack.name(), "; pass a longer text or ask for a shorter context"));
  }
  return tokens;
}

Fitted FitCell(const Tokenizer& tokenizer, const Haystack& haystack, const Cell& cell, uint64_t seed) {
  const int64_t tokens = HaystackTokens(tokenizer, haystack, cell);
  const int64_t begin = ChooseBegin(haystack, cell, seed, tokens);
  // From the sentence end at the depth asked for back to the haystack's beginning, until one fits.
  std::vector<int64_t> places = {begin};
  const int64_t begin_token = haystack.TokenFromByte(begin);
  for (auto end = std::upper_bound(haystack.sentence_ends().begin(), haystack.sentence_ends().end(), begin);
       end != haystack.sentence_ends().end(); ++end) {
    const auto before = static_cast<double>(haystack.TokenFromByte(*end) - begin_token);
    if (before > cell.depth * static_cast<double>(tokens) + 2) break;  // counts of parts may be off by a token or two
    places.push_back(*end);
  }
  if (cell.depth == 1.0) places.push_back(kAtEnd);
  if (places.size() > kPlacesTried) places.erase(places.begin() + 1, places.end() - kPlacesTried);
  for (; !places.empty(); places.pop_back()) {
    std::optional<Fitted> fitted = FitTo(tokenizer, haystack, cell, begin, places.back(), tokens);
    if (!fitted) continue;
    MeasureDepth(&*fitted);
    if (fitted->depth <= cell.depth) return std::move(*fitted);
  }
  throw Error(StrCat(Place(cell), ": expected a place to end the text so that the prompt has exactly ", cell.context,
                     " tokens, found none in ", haystack.name(), "; pass a longer text or ask for another context"));
}

void CheckPlain(const Tokenizer& tokenizer, const Haystack& haystack, const Fitted& fitted) {
  const TokenRange text = TokensOf(fitted.chat, fitted.user.haystack);
  for (int64_t token = text.token_begin; token < text.token_end; ++token) {
    const int id = fitted.chat.ids[static_cast<size_t>(token)];
    if (!tokenizer.IsSpecial(id)) continue;
    throw Error(StrCat(haystack.name(), ": expected plain text, found the special token '", tokenizer.Piece(id),
                       "'; remove it"));
  }
}

Segment MakeSegment(std::string role, int64_t token_begin, int64_t token_end) {
  return {std::move(role), 0, static_cast<int>(token_begin), static_cast<int>(token_end), false};
}

Span MakeSpan(std::string kind, TokenRange range, std::string_view label) {
  return {std::move(kind), static_cast<int>(range.token_begin), static_cast<int>(range.token_end), std::string(label)};
}

std::string FileStem(const Cell& cell) {
  std::array<char, 64> stem{};
  std::snprintf(stem.data(), stem.size(), "niah_c%d_d%03d_r%02d", cell.context,
                static_cast<int>(std::lround(cell.depth * 100)), cell.repeat);
  return stem.data();
}

TaskInfo MakeTask(const Haystack& haystack, const Cell& cell, const Fitted& fitted, uint64_t seed) {
  const Wording& wording = kWordings[static_cast<size_t>(cell.wording)];
  const nlohmann::ordered_json parameters = {
      {"context", cell.context},
      {"depth_asked", cell.depth},
      {"depth", fitted.depth},
      {"repeat", cell.repeat},
      {"wording", cell.wording},
      {"needle", cell.needle},
      {"needle_value", cell.value},
      {"question", wording.question},
      {"haystack", haystack.name()},
      {"haystack_sha256", haystack.sha256()},
      {"haystack_byte_begin", fitted.haystack_begin},
      {"haystack_byte_end", fitted.haystack_end},
  };
  TaskInfo task;
  task.name = "niah";
  task.parameters_json = parameters.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  task.seed = seed;
  task.expected_answers = {cell.value};
  task.scorer = "contains";
  task.priming_text = wording.priming;
  task.scored_text = " " + cell.value;
  return task;
}

Prompt MakePrompt(const Tokenizer& tokenizer, const Haystack& haystack, const Cell& cell, const NiahOptions& options) {
  const Fitted fitted = FitCell(tokenizer, haystack, cell, options.seed);
  CheckPlain(tokenizer, haystack, fitted);
  const ChatTokens& chat = fitted.chat;
  const TokenRange question = TokensOf(chat, fitted.user.question);
  const int64_t context_begin = UserSpan(chat).text.token_begin;
  Prompt prompt;
  prompt.file_stem = FileStem(cell);
  prompt.ids = chat.ids;
  prompt.max_new = options.max_new;
  prompt.segments = {MakeSegment("system", 0, context_begin),
                     MakeSegment("context", context_begin, question.token_begin),
                     MakeSegment("question", question.token_begin, static_cast<int64_t>(chat.ids.size()))};
  prompt.segments[1].decide_at = true;
  const int64_t value_end = fitted.user.needle.end - 1;  // before the full stop
  const TokenRange value = TokensOf(chat, {value_end - static_cast<int64_t>(cell.value.size()), value_end});
  prompt.spans = {MakeSpan("needle", fitted.needle, cell.needle), MakeSpan("needle_value", value, cell.value),
                  MakeSpan("question", question, kWordings[static_cast<size_t>(cell.wording)].question)};
  prompt.task = MakeTask(haystack, cell, fitted, options.seed);
  return prompt;
}

void CheckOptions(const NiahOptions& options) {
  if (options.contexts.empty() || options.depths.empty() || options.repeats < 1) {
    throw Error(StrCat("niah: expected at least one context, depth and repeat, found ", options.contexts.size(), ", ",
                       options.depths.size(), " and ", options.repeats, "; pass one of each"));
  }
  if (options.max_new < 0) {
    throw Error(StrCat("niah: expected 0 or more new tokens, found ", options.max_new, "; correct --max-new"));
  }
  if (options.wording < -1 || options.wording >= static_cast<int>(kWordings.size())) {
    throw Error(StrCat("niah: expected a wording from 0 to 2, or -1 for all in turn, found ", options.wording));
  }
  for (const int context : options.contexts) {
    if (options.context_limit > 0 && context > options.context_limit) {
      throw Error(StrCat("niah: expected a context of at most ", options.context_limit, " tokens, which the model was ",
                         "made for, found ", context, "; ask for a shorter one"));
    }
  }
  for (const double depth : options.depths) {
    if (!(depth >= 0 && depth <= 1)) {
      throw Error(StrCat("niah: expected a depth from 0 to 1, found ", depth, "; correct --depth"));
    }
  }
}

}  // namespace

std::vector<Prompt> NiahPrompts(const Tokenizer& tokenizer, const NiahOptions& options) {
  CheckOptions(options);
  const Haystack haystack(tokenizer, options.haystack_text,
                          options.haystack_name.empty() ? "haystack" : options.haystack_name);
  std::vector<Prompt> prompts;
  std::set<std::string> stems;
  for (const int context : options.contexts) {
    for (const double depth : options.depths) {
      for (int repeat = 0; repeat < options.repeats; ++repeat) {
        const int num_wordings = static_cast<int>(kWordings.size());
        Cell cell{context, depth, repeat, options.wording < 0 ? repeat % num_wordings : options.wording, "", ""};
        if (!stems.insert(FileStem(cell)).second) {
          throw Error(StrCat("niah: expected contexts and depths that differ (depths by 0.01), found two cells named ",
                             FileStem(cell), "; leave one out"));
        }
        cell.value = DrawValue(haystack, cell, options.seed);
        cell.needle = StrCat(kWordings[static_cast<size_t>(cell.wording)].priming, " ", cell.value, ".");
        prompts.push_back(MakePrompt(tokenizer, haystack, cell, options));
      }
    }
  }
  return prompts;
}

}  // namespace kvscope
