// SPDX-License-Identifier: Apache-2.0
#include "capture/niah_haystack.h"

#include <algorithm>
#include <array>
#include <span>
#include <utility>

#include "core/error.h"
#include "core/sha256.h"

namespace kvscope {
namespace {

bool IsSpace(char c) {
  return c == ' ' || (c >= '\t' && c <= '\r');
}

// ASCII letters and digits, and every byte of a character beyond ASCII.
bool IsWord(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
         static_cast<unsigned char>(c) >= 128;
}

bool IsInsideCharacter(char c) {
  return (static_cast<unsigned char>(c) & 0xC0) == 0x80;
}

// Bytes of the first of `candidates` that stands at `at`, 0 when none does.
template <size_t kCount>
size_t MatchAt(std::string_view text, size_t at, const std::array<std::string_view, kCount>& candidates) {
  for (const std::string_view candidate : candidates) {
    if (text.compare(at, candidate.size(), candidate) == 0) return candidate.size();
  }
  return 0;
}

constexpr std::array<std::string_view, 3> kFullWidthStops = {"。", "！", "？"};
constexpr std::array<std::string_view, 7> kClosers = {"'", "\"", ")", "]", "”", "’", "»"};
constexpr std::array<std::string_view, 8> kAbbreviations = {"Mr", "Mrs", "Ms", "Dr", "St", "Col", "Capt", "Esq"};

// Whether the full stop at `at` only shortens a word: a title, or an initial.
bool IsAbbreviation(std::string_view text, size_t at) {
  size_t begin = at;
  while (begin > 0 && IsWord(text[begin - 1])) --begin;
  const std::string_view word = text.substr(begin, at - begin);
  const bool is_initial = word.size() == 1 && word[0] >= 'A' && word[0] <= 'Z' && word[0] != 'I';
  return is_initial || std::find(kAbbreviations.begin(), kAbbreviations.end(), word) != kAbbreviations.end();
}

}  // namespace

Haystack::Haystack(const Tokenizer& tokenizer, std::string_view text, std::string name)
    : text_(text), name_(std::move(name)) {
  if (std::all_of(text.begin(), text.end(), IsSpace)) {
    throw Error(StrCat(name_, ": expected text to hide a needle in, found none; pass another haystack"));
  }
  ValidateUtf8(text, name_);
  sha256_ = HexSha256(std::as_bytes(std::span(text.data(), text.size())));
  while (IsSpace(text_.back())) text_.remove_suffix(1);
  FindSentences();
  if (sentence_ends_.empty()) {
    throw Error(StrCat(name_, ": expected sentences that end in '.', '!' or '?', found none; pass another haystack"));
  }
  byte_offsets_ = tokenizer.EncodeWithOffsets(text_, true).byte_offsets;
}

void Haystack::FindSentences() {
  const auto add_begin = [&](size_t at) {
    while (at < text_.size() && IsSpace(text_[at])) ++at;
    if (at < text_.size()) sentence_begins_.push_back(static_cast<int64_t>(at));
  };
  add_begin(0);
  for (size_t i = 0; i < text_.size();) {
    const size_t full_width = MatchAt(text_, i, kFullWidthStops);
    const bool is_stop = text_[i] == '.' || text_[i] == '!' || text_[i] == '?';
    if (full_width == 0 && (!is_stop || (text_[i] == '.' && IsAbbreviation(text_, i)))) {
      ++i;
      continue;
    }
    i += std::max<size_t>(full_width, 1);
    while (i < text_.size()) {
      const size_t closer = MatchAt(text_, i, kClosers);
      if (closer == 0) break;
      i += closer;
    }
    if (full_width == 0 && i < text_.size() && !IsSpace(text_[i])) continue;
    sentence_ends_.push_back(static_cast<int64_t>(i));
    add_begin(i);
  }
}

bool Haystack::IsSentenceEnd(int64_t byte) const {
  return std::binary_search(sentence_ends_.begin(), sentence_ends_.end(), byte);
}

int64_t Haystack::TokenFromByte(int64_t byte) const {
  return std::lower_bound(byte_offsets_.begin(), byte_offsets_.end() - 1, byte) - byte_offsets_.begin();
}

int64_t Haystack::PreviousCut(int64_t byte, bool any_character) const {
  for (int64_t at = byte - 1; at > 0; --at) {
    const char before = text_[static_cast<size_t>(at) - 1];
    const char behind = text_[static_cast<size_t>(at)];
    if (any_character ? !IsInsideCharacter(behind) && !IsSpace(before)
                      : (IsWord(before) && !IsWord(behind)) || IsSentenceEnd(at)) {
      return at;
    }
  }
  return 0;
}

}  // namespace kvscope
