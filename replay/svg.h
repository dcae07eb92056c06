// SPDX-License-Identifier: Apache-2.0
// A small writer of SVG pictures: lines, rectangles, markers, text, images; no more than charts need. Coordinates are
// pixels from the top left. The box of every text is remembered, so that a test can see whether labels collide.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace kvscope {

inline constexpr std::string_view kInk = "#222222", kSoftInk = "#6b6b6b", kHairline = "#d0cec8", kPaper = "#ffffff";

struct Point {
  double x = 0, y = 0;
};

struct Box {
  double left = 0, top = 0, right = 0, bottom = 0;
  bool Overlaps(const Box& other) const {
    return left < other.right && other.left < right && top < other.bottom && other.top < bottom;
  }
};

struct Stroke {
  std::string color = std::string(kInk);
  double width = 1;
  std::string dash = {};  // SVG's stroke-dasharray; empty: solid
  double opacity = 1;
};

enum class Anchor { kStart, kMiddle, kEnd };
struct TextStyle {
  double size = 11;
  Anchor anchor = Anchor::kStart;
  std::string color = std::string(kInk);
  bool bold = false;
  bool halo = false;  // a rim of paper around the letters, for text over lines
};

enum class Marker { kCircle, kSquare, kTriangle, kDiamond, kTriangleDown, kBowtie, kPlus, kCross, kStar };

// Width in pixels of a text of a sans-serif face (metrics of DejaVu Sans, one of the wider ones).
double TextWidth(std::string_view text, double size, bool bold = false);
// For element content and attribute values; control characters and bytes that are not UTF-8 become U+FFFD.
std::string EscapeXml(std::string_view text);

class Svg {
 public:
  // alt: what a reader who cannot see the picture is told.
  Svg(double width, double height, std::string alt);

  void Line(double x1, double y1, double x2, double y2, const Stroke& stroke);
  void Polyline(std::span<const Point> points, const Stroke& stroke);
  void Polygon(std::span<const Point> points, std::string_view fill, double opacity, const Stroke& stroke);
  void Rect(double x, double y, double width, double height, std::string_view fill, std::string_view tooltip = {});
  void Frame(double x, double y, double width, double height, const Stroke& stroke);
  void DrawMarker(Marker marker, double x, double y, double radius, std::string_view color, bool filled,
                  std::string_view tooltip = {});
  void Text(double x, double y, std::string_view text, const TextStyle& style = {});
  // png: the bytes of a PNG file; drawn with hard pixel edges.
  void Image(double x, double y, double width, double height, std::string_view png);

  double width() const { return width_; }
  double height() const { return height_; }
  const std::vector<Box>& text_boxes() const { return text_boxes_; }
  const std::vector<std::string>& texts() const { return texts_; }
  std::string Inline() const;    // for HTML: scales with the page
  std::string Document() const;  // a file of its own, on white paper

 private:
  void Close(std::string_view tooltip);
  std::string Header(bool inside_html) const;

  double width_, height_;
  std::string alt_, body_;
  std::vector<Box> text_boxes_;
  std::vector<std::string> texts_;
};

}  // namespace kvscope
