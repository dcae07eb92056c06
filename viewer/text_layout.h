// SPDX-License-Identifier: Apache-2.0
// The run as lines of tokens under a header for each segment, which can be folded: where everything stands, without a
// window. Breaking 131,072 tokens takes some milliseconds and happens only when the width or a fold changed.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "core/trace.h"

namespace kvscope {

// What is drawn for each token: its piece without line breaks; bytes that are no text are written out. A character that
// several tokens share stands where it begins and leaves the others empty.
std::vector<std::string> TokenTexts(std::span<const std::string> pieces);

class TextLayout {
 public:
  using WidthOf = std::function<float(const std::string& text)>;
  // Lays out what changed. key: of the trace; another one opens all folds.
  void Update(const void* key, std::span<const std::string> pieces, std::span<const Segment> segments, float width,
              float font_size, const WidthOf& width_of);

  // A line of tokens, or the header above those of a segment, which then is empty.
  struct Line {
    int token_begin = 0, token_end = 0;
    int header = -1;  // of the segments, by their first token
  };
  const std::vector<Line>& lines() const { return lines_; }
  const std::string& text(int token) const { return texts_[token]; }
  float x(int token) const { return x_[token]; }
  float width(int token) const { return widths_[token]; }

  const Segment& segment(int header) const { return segments_[header].segment; }
  bool is_folded(int header) const { return segments_[header].is_folded; }
  void Fold(int header, bool is_folded);
  // The line of a token; its segment is unfolded for it.
  int LineOf(int token);

 private:
  struct Foldable {
    Segment segment;  // its tokens clipped to those that are there and belong to none before
    bool is_folded = false;
  };
  void BreakTokens(int begin, int end);
  void BreakLines();

  const void* key_ = nullptr;
  float line_width_ = 0, font_size_ = 0;
  std::vector<Foldable> segments_;
  std::vector<std::string> texts_;
  std::vector<bool> ends_line_;
  std::vector<float> x_, widths_;  // [token]
  std::vector<Line> lines_;
};

}  // namespace kvscope
