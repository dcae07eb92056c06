// SPDX-License-Identifier: Apache-2.0
#include "viewer/text_layout.h"

#include <algorithm>
#include <utility>

#include "core/units.h"

namespace kvscope {
namespace {

constexpr float kLeastWidth = 0.25f;  // of a token, in font sizes: an empty one has its colour too

// Bytes that a character with this first byte takes, if it is one.
size_t CharacterBytes(char first) {
  const auto byte = static_cast<unsigned char>(first);
  return byte < 0xc0 ? 1 : byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : 4;
}

}  // namespace

std::vector<std::string> TokenTexts(std::span<const std::string> pieces) {
  std::vector<std::string> texts(pieces.size());
  size_t skipped = 0;  // bytes of the present token that a character before took
  for (size_t token = 0; token < pieces.size(); ++token) {
    const std::string& piece = pieces[token];
    size_t at = std::min(skipped, piece.size());
    skipped -= at;
    while (at < piece.size()) {
      const char byte = piece[at];
      if (byte >= ' ' && byte < 0x7f) {
        texts[token] += byte;
        ++at;
        continue;
      }
      if (byte == '\n') {
        ++at;
        continue;
      }
      std::string character = piece.substr(at, CharacterBytes(byte));
      const size_t own = character.size();
      for (size_t next = token + 1; character.size() < CharacterBytes(byte) && next < pieces.size(); ++next)
        character += pieces[next].substr(0, CharacterBytes(byte) - character.size());
      const bool is_character = Escape(character) == character;
      texts[token] += is_character ? character : Escape(piece.substr(at, 1));
      at += is_character ? own : 1;
      if (is_character) skipped = character.size() - own;
    }
  }
  return texts;
}

void TextLayout::Update(const void* key, std::span<const std::string> pieces, std::span<const Segment> segments,
                        float width, float font_size, const WidthOf& width_of) {
  const bool is_same_text = key == key_ && pieces.size() == texts_.size() && font_size == font_size_;
  if (is_same_text && width == line_width_) return;
  line_width_ = width;
  if (!is_same_text) {
    font_size_ = font_size;
    const int tokens = static_cast<int>(pieces.size());
    texts_ = TokenTexts(pieces);
    widths_.clear(), ends_line_.clear();
    for (int token = 0; token < tokens; ++token) {
      widths_.push_back(std::max(width_of(texts_[token]), font_size * kLeastWidth));
      ends_line_.push_back(pieces[token].find('\n') != std::string::npos);
    }
    std::vector<Foldable> before = std::exchange(segments_, {});
    std::vector<Segment> sorted(segments.begin(), segments.end());
    std::ranges::stable_sort(sorted, {}, &Segment::token_begin);
    int end = 0;
    for (Segment& segment : sorted) {
      segment.token_begin = std::clamp(segment.token_begin, end, tokens);
      segment.token_end = std::clamp(segment.token_end, segment.token_begin, tokens);
      end = segment.token_end;
      if (segment.token_begin == segment.token_end) continue;  // announced, or within others
      const size_t place = segments_.size();
      segments_.push_back({segment, key == key_ && place < before.size() && before[place].is_folded});
    }
    key_ = key;
  }
  BreakLines();
}

void TextLayout::Fold(int header, bool is_folded) {
  segments_[header].is_folded = is_folded;
  BreakLines();
}

int TextLayout::LineOf(int token) {
  for (size_t i = 0; i < segments_.size(); ++i) {
    const Foldable& part = segments_[i];
    if (part.is_folded && token >= part.segment.token_begin && token < part.segment.token_end)
      Fold(static_cast<int>(i), false);
  }
  const auto after = std::ranges::upper_bound(lines_, token, {}, &Line::token_begin);
  return std::max(0, static_cast<int>(after - lines_.begin()) - 1);
}

void TextLayout::BreakLines() {
  lines_.clear();
  x_.assign(texts_.size(), 0);
  int token = 0;
  for (size_t i = 0; i < segments_.size(); ++i) {
    const Segment& segment = segments_[i].segment;
    BreakTokens(token, segment.token_begin);  // those of no segment
    lines_.push_back({segment.token_begin, segment.token_begin, static_cast<int>(i)});
    if (!segments_[i].is_folded) BreakTokens(segment.token_begin, segment.token_end);
    token = segment.token_end;
  }
  BreakTokens(token, static_cast<int>(texts_.size()));
}

void TextLayout::BreakTokens(int begin, int end) {
  if (begin >= end) return;
  float x = 0;
  int first = begin;
  for (int token = begin; token < end; ++token) {
    if (x > 0 && x + widths_[token] > line_width_) {
      lines_.push_back({first, token});
      first = token, x = 0;
    }
    x_[token] = x;
    x += widths_[token];
    if (!ends_line_[token] || token + 1 == end) continue;
    lines_.push_back({first, token + 1});
    first = token + 1, x = 0;
  }
  lines_.push_back({first, end});
}

}  // namespace kvscope
