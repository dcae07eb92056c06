// SPDX-License-Identifier: Apache-2.0
// Needle in a haystack (Kamradt 2023, github.com/gkamradt/LLMTest_NeedleInAHaystack): one sentence with a random number
// stands in a long text of sentences without one, and the model is asked for it. The prompt is
//   <template's opening> instruction, blank line, haystack with the needle, blank line, question <template's end>
// (without a template: <begin of text, if any> the same, blank line, "Answer:")
// and has exactly `context` tokens. For that the haystack is cut behind a word and closed with a full stop or, where a
// word of several tokens does not fit, with ". . ."; every candidate is tokenised whole, because merges across the cut
// make counts of parts unreliable. The haystack begins at a sentence chosen by seed and repeat, the same for every
// depth; the number depends on seed, context, depth and repeat, so a prompt does not depend on the rest of its grid.
// With several doors the haystack hides as many sentences, and the question asks for one of them: capture/niah_cell.h.
#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <span>

#include "capture/chat_template.h"
#include "capture/niah_cell.h"
#include "capture/niah_haystack.h"
#include "capture/task.h"
#include "core/error.h"

namespace kvscope {
namespace {

constexpr std::string_view kInstruction = "Read the text and answer the question at the end.";
constexpr std::string_view kBreak = "\n\n";
constexpr std::string_view kPlainAnswer = "Answer:";  // what a model without turns goes on from
constexpr size_t kMinHaystackTokens = 16;             // for each hidden sentence
constexpr int kCutsTried = 64;                        // each is shorter than the one before
constexpr int kShortCuts = 8;  // of those, whose prompt is too short even with the longest closing
constexpr size_t kPlacesTried = 8;
constexpr int64_t kAtEnd = -1;  // a sentence stands behind the haystack's last one

// What closes a haystack that is cut inside a sentence, shortest first.
constexpr std::array<std::string_view, 6> kClosings = {".", " . .", " . . .", " . . . .", " . . . . .", " . . . . . ."};

struct ByteRange {
  int64_t begin = 0, end = 0;
};

// The user turn's text and where its parts lie in it.
struct UserText {
  std::string text;
  ByteRange haystack;                // with the hidden sentences
  std::vector<ByteRange> sentences;  // as in the cell
  ByteRange question;
};

struct Fitted {
  UserText user;
  ChatTokens chat;
  int64_t haystack_begin = 0, haystack_end = 0;  // in the haystack's own bytes
  TokenRange needle;
  double depth = 0;
};

std::string Place(const NiahCell& cell) {
  return StrCat("niah, context ", cell.context, ", depth ", cell.depth);
}

bool IsBlank(char c) {
  return c == ' ' || c == '\n' || c == '\r';
}

// places[i] bytes of the body stand before sentence i: ascending, at most body.size().
UserText ComposeUserText(const NiahCell& cell, std::string_view body, std::span<const size_t> places) {
  UserText user;
  const auto append = [&user](std::string_view part) {
    const auto begin = static_cast<int64_t>(user.text.size());
    user.text.append(part);
    return ByteRange{begin, static_cast<int64_t>(user.text.size())};
  };
  append(kInstruction);
  user.haystack.begin = append(kBreak).end;
  const auto append_apart = [&](std::string_view part) {
    const bool is_first = static_cast<int64_t>(user.text.size()) == user.haystack.begin;
    if (!is_first && !part.empty() && !IsBlank(user.text.back()) && !IsBlank(part.front())) append(" ");
    return append(part);
  };
  size_t body_at = 0;
  for (size_t i = 0; i < places.size(); ++i) {
    append_apart(body.substr(body_at, places[i] - body_at));
    user.sentences.push_back(append_apart(cell.sentences[i].text));
    body_at = places[i];
  }
  user.haystack.end = append_apart(body.substr(body_at)).end;
  append(kBreak);
  user.question = append(cell.question);
  if (cell.chat_template == "none") append(StrCat(kBreak, kPlainAnswer));
  return user;
}

ChatTokens Chat(const Tokenizer& tokenizer, const NiahCell& cell, const UserText& user) {
  const std::array<ChatTurn, 1> turns = {{{"user", user.text}}};
  return BuildChat(tokenizer, turns, true, cell.chat_template);
}

const ChatSpan& UserSpan(const ChatTokens& chat) {
  return *std::find_if(chat.spans.begin(), chat.spans.end(), [](const ChatSpan& span) { return span.role == "user"; });
}

TokenRange TokensOf(const ChatTokens& chat, ByteRange bytes) {
  const int64_t shift = UserSpan(chat).text_byte_begin;
  return TokensCovering(chat.byte_offsets, shift + bytes.begin, shift + bytes.end);
}

// Searches the cut, from long to short, that makes the prompt exactly cell.context tokens. `places` are where the
// sentences stand, in the haystack's bytes or kAtEnd.
std::optional<Fitted> FitTo(const Tokenizer& tokenizer, const Haystack& haystack, const NiahCell& cell, int64_t begin,
                            std::span<const int64_t> places, int64_t haystack_tokens) {
  const int64_t last_place = *std::max_element(places.begin(), places.end());
  const auto length = static_cast<int64_t>(haystack.text().size());
  const int64_t first_token = haystack.TokenFromByte(begin) + haystack_tokens + 8;
  const int64_t longest = first_token < haystack.num_tokens() ? haystack.ByteFromToken(first_token) + 1 : length + 1;
  for (const bool any_character : {false, true}) {
    int64_t cut = longest > length ? length : haystack.PreviousCut(longest, any_character);
    int short_cuts = 0;
    for (int tried = 0; tried < kCutsTried; ++tried, cut = haystack.PreviousCut(cut, any_character)) {
      if (cut <= begin || cut < last_place || short_cuts == kShortCuts) break;
      const bool is_closed = haystack.IsSentenceEnd(cut);
      ++short_cuts;
      for (const std::string_view closing : kClosings) {
        std::string body(haystack.text().substr(static_cast<size_t>(begin), static_cast<size_t>(cut - begin)));
        if (!is_closed) body += closing;
        std::vector<size_t> body_places;
        for (const int64_t place : places) {
          body_places.push_back(place == kAtEnd ? body.size() : static_cast<size_t>(place - begin));
        }
        Fitted fitted;
        fitted.user = ComposeUserText(cell, body, body_places);
        fitted.chat = Chat(tokenizer, cell, fitted.user);
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

void MeasureDepth(const NiahCell& cell, Fitted* fitted) {
  const TokenRange all = TokensOf(fitted->chat, fitted->user.haystack);
  fitted->needle = TokensOf(fitted->chat, fitted->user.sentences[cell.asked]);
  const auto before = static_cast<double>(fitted->needle.token_begin - all.token_begin);
  const auto after = static_cast<double>(all.token_end - fitted->needle.token_end);
  fitted->depth = before / std::max(before + after, 1.0);
}

// The sentence where this repeat's haystack begins: repeats are spread over all that have enough text behind them.
int64_t ChooseBegin(const Haystack& haystack, const NiahCell& cell, uint64_t seed, int64_t haystack_tokens) {
  const std::vector<int64_t>& begins = haystack.sentence_begins();
  const int64_t last_token = haystack.num_tokens() - haystack_tokens - 16;
  const auto end = std::partition_point(begins.begin(), begins.end(),
                                        [&](int64_t byte) { return haystack.TokenFromByte(byte) <= last_token; });
  const auto count = static_cast<uint64_t>(end - begins.begin());
  if (count == 0) return begins[0];
  const uint64_t spread = MixSeed(seed, 1) + static_cast<uint64_t>(cell.repeat) * 0x9E3779B97F4A7C15u;
  return begins[static_cast<size_t>((spread >> 32) * count >> 32)];
}

// Tokens left for the haystack. Error when they are too few, or more than the haystack has.
int64_t HaystackTokens(const Tokenizer& tokenizer, const Haystack& haystack, const NiahCell& cell) {
  const std::vector<size_t> places(cell.sentences.size(), 0);
  const auto overhead = static_cast<int64_t>(Chat(tokenizer, cell, ComposeUserText(cell, "", places)).ids.size());
  const int64_t tokens = cell.context - overhead;
  const int64_t fewest = static_cast<int64_t>(kMinHaystackTokens * cell.sentences.size());
  if (tokens < fewest) {
    throw Error(StrCat(Place(cell), ": expected a context of at least ", overhead + fewest,
                       " tokens (template, hidden sentences and question take ", overhead, "), found ", cell.context,
                       "; ask for a longer context", cell.sentences.size() > 1 ? " or fewer doors" : ""));
  }
  const int64_t found = haystack.num_tokens() - haystack.TokenFromByte(haystack.sentence_begins()[0]);
  if (found < tokens) {
    throw Error(StrCat(Place(cell), ": expected a haystack of at least ", tokens, " tokens, found ", found, " in ",
                       haystack.name(), "; pass a longer text or ask for a shorter context"));
  }
  return tokens;
}

// Where a sentence may stand, ascending: the haystack's beginning and the last sentence ends up to the depth.
std::vector<int64_t> PlacesUpTo(const Haystack& haystack, double depth, int64_t begin, int64_t haystack_tokens) {
  std::vector<int64_t> places = {begin};
  const int64_t begin_token = haystack.TokenFromByte(begin);
  for (auto end = std::upper_bound(haystack.sentence_ends().begin(), haystack.sentence_ends().end(), begin);
       end != haystack.sentence_ends().end(); ++end) {
    const auto before = static_cast<double>(haystack.TokenFromByte(*end) - begin_token);
    if (before > depth * static_cast<double>(haystack_tokens) + 2) break;  // counts of parts may be off by a token or 2
    places.push_back(*end);
  }
  if (depth == 1.0) places.push_back(kAtEnd);
  if (places.size() > kPlacesTried) places.erase(places.begin() + 1, places.end() - kPlacesTried);
  return places;
}

Fitted FitCell(const Tokenizer& tokenizer, const Haystack& haystack, const NiahCell& cell, uint64_t seed) {
  const int64_t tokens = HaystackTokens(tokenizer, haystack, cell);
  const int64_t begin = ChooseBegin(haystack, cell, seed, tokens);
  std::vector<std::vector<int64_t>> candidates;
  size_t num_tries = 0;
  for (const HiddenSentence& sentence : cell.sentences) {
    candidates.push_back(PlacesUpTo(haystack, sentence.depth, begin, tokens));
    num_tries = std::max(num_tries, candidates.back().size());
  }
  // All sentences move back together, each as far as the haystack's beginning, until the prompt fits.
  for (size_t moves = 0; moves < num_tries; ++moves) {
    std::vector<int64_t> places;
    for (const std::vector<int64_t>& ends : candidates) {
      places.push_back(ends[ends.size() - 1 - std::min(moves, ends.size() - 1)]);
    }
    std::optional<Fitted> fitted = FitTo(tokenizer, haystack, cell, begin, places, tokens);
    if (!fitted) continue;
    MeasureDepth(cell, &*fitted);
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

TaskInfo MakeTask(const Haystack& haystack, const NiahCell& cell, const Fitted& fitted, uint64_t seed) {
  nlohmann::ordered_json parameters = {
      {"context", cell.context},
      {"depth_asked", cell.depth},
      {"depth", fitted.depth},
      {"repeat", cell.repeat},
      {"wording", cell.wording},
      {"needle", cell.needle().text},
      {"needle_value", cell.needle().value},
      {"question", cell.question},
      {"haystack", haystack.name()},
      {"haystack_sha256", haystack.sha256()},
      {"haystack_byte_begin", fitted.haystack_begin},
      {"haystack_byte_end", fitted.haystack_end},
  };
  if (cell.chat_template != "auto") parameters["template"] = cell.chat_template;
  if (cell.sentences.size() > 1) {
    parameters["doors"] = cell.sentences.size();
    for (size_t i = 0; i < cell.sentences.size(); ++i) {
      if (i != cell.asked) parameters["distractor_values"].push_back(cell.sentences[i].value);
    }
  }
  TaskInfo task;
  task.name = "niah";
  task.parameters_json = parameters.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  task.seed = seed;
  task.expected_answers = {cell.needle().value};
  task.scorer = "contains";
  task.priming_text = fitted.chat.answer_begins + cell.needle().priming;
  task.scored_text = " " + cell.needle().value;
  return task;
}

Prompt MakePrompt(const Tokenizer& tokenizer, const Haystack& haystack, const NiahCell& cell,
                  const NiahOptions& options) {
  const Fitted fitted = FitCell(tokenizer, haystack, cell, options.seed);
  CheckPlain(tokenizer, haystack, fitted);
  const ChatTokens& chat = fitted.chat;
  const TokenRange question = TokensOf(chat, fitted.user.question);
  const int64_t context_begin = UserSpan(chat).text.token_begin;
  Prompt prompt;
  prompt.file_stem = FileStem(cell);
  prompt.ids = chat.ids;
  prompt.max_new = options.max_new;
  // Plain text for a vocabulary without a begin-of-text token has nothing before the context.
  if (context_begin > 0) prompt.segments.push_back(MakeSegment("system", 0, context_begin));
  prompt.segments.push_back(MakeSegment("context", context_begin, question.token_begin));
  prompt.segments.back().decide_at = true;
  prompt.segments.push_back(MakeSegment("question", question.token_begin, static_cast<int64_t>(chat.ids.size())));
  const std::vector<ByteRange>& sentences = fitted.user.sentences;
  const std::string& answer = cell.needle().value;
  const int64_t value_end = sentences[cell.asked].end - 1;  // before the full stop
  const TokenRange value = TokensOf(chat, {value_end - static_cast<int64_t>(answer.size()), value_end});
  prompt.spans = {MakeSpan("needle", fitted.needle, cell.needle().text), MakeSpan("needle_value", value, answer),
                  MakeSpan("question", question, cell.question)};
  for (size_t i = 0; i < sentences.size(); ++i) {
    if (i == cell.asked) continue;
    prompt.spans.push_back(MakeSpan("distractor", TokensOf(chat, sentences[i]), cell.sentences[i].text));
  }
  prompt.task = MakeTask(haystack, cell, fitted, options.seed);
  return prompt;
}

}  // namespace

std::vector<Prompt> NiahPrompts(const Tokenizer& tokenizer, const NiahOptions& options) {
  CheckNiahOptions(options);
  const Haystack haystack(tokenizer, options.haystack_text,
                          options.haystack_name.empty() ? "haystack" : options.haystack_name);
  std::vector<Prompt> prompts;
  std::set<std::string> stems;
  for (const int context : options.contexts) {
    for (const double depth : options.depths) {
      for (int repeat = 0; repeat < options.repeats; ++repeat) {
        const NiahCell cell = MakeNiahCell(haystack, options, context, depth, repeat);
        if (!stems.insert(FileStem(cell)).second) {
          throw Error(StrCat("niah: expected contexts and depths that differ (depths by 0.01), found two cells named ",
                             FileStem(cell), "; leave one out"));
        }
        prompts.push_back(MakePrompt(tokenizer, haystack, cell, options));
      }
    }
  }
  return prompts;
}

}  // namespace kvscope
