// SPDX-License-Identifier: Apache-2.0
#define PCRE2_CODE_UNIT_WIDTH 8
#include "capture/word_splitter.h"

#include <pcre2.h>

#include <algorithm>
#include <array>

#include "core/error.h"

namespace kvscope {
namespace {

// Unicode's White_Space. PCRE's own \s also holds U+180E, which is a letter-like format character to the tokenizers.
#define KVSCOPE_SPACE \
  "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"

// GPT-2's words: English contractions; letters, digits or signs with one space before them; and runs of white space,
// which leave their last character to the word that follows.
constexpr const char* kGpt2Words =
    "'s|'t|'re|'ve|'m|'ll|'d"
    "| ?\\p{L}+| ?\\p{N}+| ?[^" KVSCOPE_SPACE
    "\\p{L}\\p{N}]+"
    "|[" KVSCOPE_SPACE "]+(?![^" KVSCOPE_SPACE "])|[" KVSCOPE_SPACE "]+";

// The words of GPT-4 and after: contractions in either case, letters with any one sign before them, numbers cut into
// DIGITS, signs with the line breaks behind them, runs of white space up to a line break.
#define KVSCOPE_CONTRACTION "'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]"
#define KVSCOPE_SPACES "[" KVSCOPE_SPACE "]*[\\r\\n]+|[" KVSCOPE_SPACE "]+(?![^" KVSCOPE_SPACE "])|[" KVSCOPE_SPACE "]+"
#define KVSCOPE_MODERN_WORDS(DIGITS)                                                 \
  KVSCOPE_CONTRACTION "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" DIGITS "| ?[^" KVSCOPE_SPACE \
                      "\\p{L}\\p{N}]+[\\r\\n]*|" KVSCOPE_SPACES
constexpr const char* kLlama3Words = KVSCOPE_MODERN_WORDS("\\p{N}{1,3}");
constexpr const char* kQwen2Words = KVSCOPE_MODERN_WORDS("\\p{N}");
// Qwen 3.5: marks belong to the letters.
constexpr const char* kQwen35Words = KVSCOPE_CONTRACTION
    "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^" KVSCOPE_SPACE "\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|" KVSCOPE_SPACES;

// Words that begin anew at a capital behind a small letter. As in llama.cpp a letter beyond ASCII is both.
#define KVSCOPE_CAPITAL "[^\\P{L}a-z]"
#define KVSCOPE_SMALL "[^\\P{L}A-Z]"
#define KVSCOPE_CASED_WORDS(ENDING, DIGITS)                                                                       \
  "[^\\r\\n\\p{L}\\p{N}]?" KVSCOPE_CAPITAL "*" KVSCOPE_SMALL "+" ENDING "|[^\\r\\n\\p{L}\\p{N}]?" KVSCOPE_CAPITAL \
  "+" KVSCOPE_SMALL "*" ENDING "|" DIGITS "| ?[^" KVSCOPE_SPACE "\\p{L}\\p{N}]+[\\r\\n/]*|" KVSCOPE_SPACES
constexpr const char* kTekkenWords = KVSCOPE_CASED_WORDS("", "\\p{N}");
constexpr const char* kGpt4oWords = KVSCOPE_CASED_WORDS("(?:" KVSCOPE_CONTRACTION ")?", "\\p{N}{1,3}");

// One entry per pre-tokenizer; at most two expressions so far.
struct Entry {
  const char* name;
  std::array<const char*, 2> expressions;
  bool takes_whole_words = false;
  bool adds_bos = false;
};
constexpr const char* kDigit = "\\p{N}";  // one by one, without the space before them
constexpr Entry kEntries[] = {
    {"gpt-2", {kGpt2Words, nullptr}},
    {"mpt", {kGpt2Words, nullptr}},
    {"smollm", {kDigit, kGpt2Words}},
    {"starcoder", {kDigit, kGpt2Words}},
    {"refact", {kDigit, kGpt2Words}},
    {"command-r", {kDigit, kGpt2Words}},
    {"llama-bpe", {kLlama3Words, nullptr}, true, true},
    {"llama3", {kLlama3Words, nullptr}, true, true},
    {"llama-v3", {kLlama3Words, nullptr}, true, true},
    {"falcon3", {kLlama3Words, nullptr}, true, true},
    {"pixtral", {kLlama3Words, nullptr}, true, true},
    {"dbrx", {kLlama3Words, nullptr}},  // Phi-4
    {"smaug-bpe", {kLlama3Words, nullptr}},
    {"qwen2", {kQwen2Words, nullptr}},
    {"deepseek-r1-qwen", {kQwen2Words, nullptr}},
    {"megrez", {kQwen2Words, nullptr}},
    {"qwen35", {kQwen35Words, nullptr}},
    {"tekken", {kTekkenWords, nullptr}, true, true},
    {"gpt-4o", {kGpt4oWords, nullptr}},  // Phi-4-mini
};

const Entry* FindEntry(std::string_view name) {
  const auto* entry =
      std::find_if(std::begin(kEntries), std::end(kEntries), [&](const Entry& e) { return name == e.name; });
  return entry == std::end(kEntries) ? nullptr : entry;
}

}  // namespace

struct WordSplitter::Expression {
  explicit Expression(const char* pattern) {
    int code = 0;
    PCRE2_SIZE at = 0;
    compiled = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern), PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP, &code,
                             &at, nullptr);
    KVSCOPE_CHECK(compiled != nullptr);
    pcre2_jit_compile(compiled, PCRE2_JIT_COMPLETE);  // may fail where there is no JIT: slower, the same matches
  }
  ~Expression() { pcre2_code_free(compiled); }
  Expression(const Expression&) = delete;
  Expression& operator=(const Expression&) = delete;

  pcre2_code* compiled;
};

struct WordSplitter::Scratch::Match {
  explicit Match(pcre2_code* code) : data(pcre2_match_data_create_from_pattern(code, nullptr)) {
    KVSCOPE_CHECK(data != nullptr);
  }
  ~Match() { pcre2_match_data_free(data); }
  Match(const Match&) = delete;
  Match& operator=(const Match&) = delete;

  pcre2_match_data* data;
};

WordSplitter::Scratch::Scratch(const WordSplitter& splitter) {
  for (const auto& expression : splitter.expressions_)
    matches_.push_back(std::make_unique<Match>(expression->compiled));
}
WordSplitter::Scratch::~Scratch() = default;

WordSplitter::WordSplitter(std::string_view name, std::string_view place) {
  const Entry* entry = FindEntry(name);
  if (!entry) {
    std::string known;
    for (const std::string& each : Names()) known += (known.empty() ? "" : ", ") + each;
    throw Error(StrCat(place, ": expected one of the pre-tokenizers ", known, ", found '", name,
                       "'; use a model with one of those, or add an entry to capture/word_splitter.cpp"));
  }
  takes_whole_words_ = entry->takes_whole_words;
  for (const char* pattern : entry->expressions) {
    if (pattern) expressions_.push_back(std::make_unique<Expression>(pattern));
  }
}

WordSplitter::~WordSplitter() = default;

bool WordSplitter::AddsBos(std::string_view name) {
  const Entry* entry = FindEntry(name);
  return entry && entry->adds_bos;
}

std::vector<std::string> WordSplitter::Names() {
  std::vector<std::string> names;
  for (const Entry& entry : kEntries) names.push_back(entry.name);
  return names;
}

void WordSplitter::Cut(size_t stage, std::string_view text, Scratch* scratch,
                       const std::function<void(std::string_view)>& word) const {
  if (text.empty()) return;
  if (stage == expressions_.size()) return word(text);
  pcre2_match_data* match = scratch->matches_[stage]->data;
  size_t done = 0;
  while (done < text.size()) {
    const int found = pcre2_match(expressions_[stage]->compiled, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(),
                                  done, PCRE2_NO_UTF_CHECK, match, nullptr);
    if (found == PCRE2_ERROR_NOMATCH) break;
    KVSCOPE_CHECK_LT(0, found);
    const PCRE2_SIZE* range = pcre2_get_ovector_pointer(match);
    const size_t begin = range[0], end = range[1];
    KVSCOPE_CHECK_LT(begin, end);  // no expression of the table matches nothing
    Cut(stage + 1, text.substr(done, begin - done), scratch, word);
    Cut(stage + 1, text.substr(begin, end - begin), scratch, word);
    done = end;
  }
  Cut(stage + 1, text.substr(done), scratch, word);
}

void WordSplitter::ForEachWord(std::string_view text, Scratch* scratch,
                               const std::function<void(std::string_view)>& word) const {
  Cut(0, text, scratch, word);
}

}  // namespace kvscope
