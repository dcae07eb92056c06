// SPDX-License-Identifier: Apache-2.0
#include "replay/svg.h"

#include <array>
#include <charconv>
#include <cmath>
#include <cstdint>

#include "core/error.h"

namespace kvscope {
namespace {

// Advance widths of U+0020 .. U+007E in thousandths of the font size.
constexpr std::array<uint16_t, 95> kAdvance = {
    318, 401, 460, 838, 636, 950, 780, 275, 390, 390, 500, 838, 318, 361,  318, 337, 636, 636, 636,
    636, 636, 636, 636, 636, 636, 636, 337, 337, 838, 838, 838, 531, 1000, 684, 686, 698, 770, 632,
    575, 775, 752, 295, 295, 656, 557, 863, 748, 787, 603, 787, 695, 635,  611, 732, 684, 989, 685,
    611, 685, 390, 337, 390, 838, 500, 500, 613, 635, 550, 635, 615, 352,  635, 634, 278, 278, 579,
    278, 974, 634, 612, 635, 635, 411, 521, 392, 634, 592, 818, 592, 592,  525, 636, 337, 636, 838};
constexpr double kBoldFactor = 1.12, kOtherAdvance = 838;

// Two decimals at most, no trailing zeros.
std::string Coordinate(double value) {
  KVSCOPE_CHECK(std::isfinite(value) && std::fabs(value) < 1e7);
  char buffer[32];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, std::round(value * 100) / 100 + 0.0);
  return {buffer, end.ptr};
}

std::string Attribute(std::string_view name, std::string_view value) {
  return StrCat(" ", name, "=\"", EscapeXml(value), "\"");
}
std::string Attribute(std::string_view name, double value) {
  return StrCat(" ", name, "=\"", Coordinate(value), "\"");
}

std::string Attributes(const Stroke& stroke) {
  std::string text = Attribute("stroke", stroke.color);
  if (stroke.width != 1) text += Attribute("stroke-width", stroke.width);
  if (!stroke.dash.empty()) text += Attribute("stroke-dasharray", stroke.dash);
  if (stroke.opacity != 1) text += Attribute("stroke-opacity", stroke.opacity);
  return text;
}

std::string PointList(std::span<const Point> points) {
  std::string list;
  for (const Point& point : points) {
    if (!list.empty()) list += ' ';
    list += Coordinate(point.x) + "," + Coordinate(point.y);
  }
  return list;
}

// Length of the UTF-8 sequence at `at`, 0 when it is none.
size_t SequenceLength(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
  const unsigned lead = byte(at);
  const size_t length = lead < 0x80 ? 1 : lead >= 0xc2 && lead < 0xe0 ? 2 : lead >= 0xe0 && lead < 0xf0 ? 3 : 4;
  if (lead >= 0xf5 || (lead >= 0x80 && lead < 0xc2)) return 0;
  for (size_t i = 1; i < length; ++i) {
    if ((byte(at + i) & 0xc0) != 0x80) return 0;
  }
  const unsigned second = byte(at + 1);
  const bool overlong = (lead == 0xe0 && second < 0xa0) || (lead == 0xf0 && second < 0x90);
  const bool beyond = (lead == 0xed && second > 0x9f) || (lead == 0xf4 && second > 0x8f);
  return overlong || beyond ? 0 : length;
}

std::string Base64(std::string_view bytes) {
  constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t group = 0;
    for (size_t k = 0; k < 3; ++k) group = group << 8 | (i + k < bytes.size() ? static_cast<uint8_t>(bytes[i + k]) : 0);
    for (size_t k = 0; k < 4; ++k) text += i + k <= bytes.size() ? kDigits[group >> (18 - 6 * k) & 63] : '=';
  }
  return text;
}

}  // namespace

double TextWidth(std::string_view text, double size, bool bold) {
  double thousandths = 0;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte < 0x7f)
      thousandths += kAdvance[byte - 0x20];
    else if (byte == 0xc2)
      thousandths += kAdvance[0];  // U+00A0 and its neighbours
    else if (byte >= 0xc0)
      thousandths += kOtherAdvance;  // one per sequence; continuation bytes count nothing
  }
  return thousandths * size / 1000 * (bold ? kBoldFactor : 1);
}

std::string EscapeXml(std::string_view text) {
  std::string escaped;
  for (size_t at = 0; at < text.size();) {
    const size_t length = SequenceLength(text, at);
    const char c = text[at];
    if (length == 0 || (length == 1 && static_cast<unsigned char>(c) < 0x20 && c != '\n' && c != '\t') || c == 0x7f) {
      escaped += "\xef\xbf\xbd";
    } else if (c == '&') {
      escaped += "&amp;";
    } else if (c == '<') {
      escaped += "&lt;";
    } else if (c == '>') {
      escaped += "&gt;";
    } else if (c == '"') {
      escaped += "&quot;";
    } else if (c == '\'') {
      escaped += "&#39;";
    } else {
      escaped += text.substr(at, length);
    }
    at += length == 0 ? 1 : length;
  }
  return escaped;
}

Svg::Svg(double width, double height, std::string alt)
    : width_(std::ceil(width)), height_(std::ceil(height)), alt_(std::move(alt)) {
  KVSCOPE_CHECK(width > 0 && height > 0);
}

void Svg::Close(std::string_view tooltip) {
  if (tooltip.empty()) {
    body_ += "/>\n";
  } else {
    body_ += StrCat("><title>", EscapeXml(tooltip), "</title>");
  }
}

void Svg::Line(double x1, double y1, double x2, double y2, const Stroke& stroke) {
  body_ += "<line" + Attribute("x1", x1) + Attribute("y1", y1) + Attribute("x2", x2) + Attribute("y2", y2) +
           Attributes(stroke) + "/>\n";
}

void Svg::Polyline(std::span<const Point> points, const Stroke& stroke) {
  body_ += "<polyline fill=\"none\" stroke-linejoin=\"round\" points=\"" + PointList(points) + "\"" +
           Attributes(stroke) + "/>\n";
}

void Svg::Polygon(std::span<const Point> points, std::string_view fill, double opacity, const Stroke& stroke) {
  body_ += "<polygon points=\"" + PointList(points) + "\"" + Attribute("fill", fill) +
           Attribute("fill-opacity", opacity) + (stroke.width > 0 ? Attributes(stroke) : "") + "/>\n";
}

void Svg::Rect(double x, double y, double width, double height, std::string_view fill, std::string_view tooltip) {
  body_ += "<rect" + Attribute("x", x) + Attribute("y", y) + Attribute("width", width) + Attribute("height", height) +
           Attribute("fill", fill);
  Close(tooltip);
  if (!tooltip.empty()) body_ += "</rect>\n";
}

void Svg::Frame(double x, double y, double width, double height, const Stroke& stroke) {
  body_ += "<rect" + Attribute("x", x) + Attribute("y", y) + Attribute("width", width) + Attribute("height", height) +
           Attribute("fill", "none") + Attributes(stroke) + "/>\n";
}

void Svg::DrawMarker(Marker marker, double x, double y, double radius, std::string_view color, bool filled,
                     std::string_view tooltip) {
  const auto path = [&](std::initializer_list<Point> points, bool closed) {
    std::string text;
    for (const Point& point : points) {
      text += (text.empty() ? "M" : "L") + Coordinate(x + point.x * radius) + "," + Coordinate(y + point.y * radius);
    }
    return text + (closed ? "Z" : "");
  };
  std::string shape;
  switch (marker) {
    case Marker::kCircle:
      body_ += "<circle" + Attribute("cx", x) + Attribute("cy", y) + Attribute("r", radius);
      break;
    case Marker::kSquare:
      shape = path({{-.9, -.9}, {.9, -.9}, {.9, .9}, {-.9, .9}}, true);
      break;
    case Marker::kTriangle:
      shape = path({{0, -1.15}, {1.1, .85}, {-1.1, .85}}, true);
      break;
    case Marker::kDiamond:
      shape = path({{0, -1.25}, {1.25, 0}, {0, 1.25}, {-1.25, 0}}, true);
      break;
    case Marker::kTriangleDown:
      shape = path({{0, 1.15}, {1.1, -.85}, {-1.1, -.85}}, true);
      break;
    case Marker::kBowtie:
      shape = path({{-1.2, -1}, {-1.2, 1}, {1.2, -1}, {1.2, 1}}, true);
      break;
    case Marker::kPlus:
      shape = path({{-1.1, 0}, {1.1, 0}}, false) + path({{0, -1.1}, {0, 1.1}}, false);
      break;
    case Marker::kCross:
      shape = path({{-.9, -.9}, {.9, .9}}, false) + path({{-.9, .9}, {.9, -.9}}, false);
      break;
    case Marker::kStar:
      shape = path({{-1.1, 0}, {1.1, 0}}, false) + path({{-.55, -.95}, {.55, .95}}, false) +
              path({{-.55, .95}, {.55, -.95}}, false);
      break;
  }
  if (!shape.empty()) body_ += "<path" + Attribute("d", shape);
  body_ += Attribute("fill", filled ? color : kPaper) + Attribute("stroke", color) + Attribute("stroke-width", 1.3);
  Close(tooltip);
  if (!tooltip.empty()) body_ += marker == Marker::kCircle ? "</circle>\n" : "</path>\n";
}

void Svg::Text(double x, double y, std::string_view text, const TextStyle& style) {
  if (text.empty()) return;
  const double width = TextWidth(text, style.size, style.bold);
  const double left = x - (style.anchor == Anchor::kStart ? 0 : style.anchor == Anchor::kMiddle ? width / 2 : width);
  text_boxes_.push_back({left, y - style.size * 0.76, left + width, y + style.size * 0.2});
  texts_.emplace_back(text);
  body_ += "<text" + Attribute("x", x) + Attribute("y", y) + Attribute("font-size", style.size) +
           Attribute("fill", style.color);
  if (style.anchor != Anchor::kStart)
    body_ += Attribute("text-anchor", style.anchor == Anchor::kEnd ? "end" : "middle");
  if (style.bold) body_ += Attribute("font-weight", "bold");
  if (style.halo) body_ += " stroke=\"#ffffff\" stroke-width=\"3\" stroke-linejoin=\"round\" paint-order=\"stroke\"";
  body_ += ">" + EscapeXml(text) + "</text>\n";
}

void Svg::Image(double x, double y, double width, double height, std::string_view png) {
  body_ += "<image" + Attribute("x", x) + Attribute("y", y) + Attribute("width", width) + Attribute("height", height) +
           " preserveAspectRatio=\"none\" image-rendering=\"pixelated\" href=\"data:image/png;base64," + Base64(png) +
           "\"/>\n";
}

std::string Svg::Header(bool inside_html) const {
  const std::string size = inside_html ? StrCat(" style=\"max-width:", Coordinate(width_), "px\"")
                                       : Attribute("width", width_) + Attribute("height", height_);
  return StrCat("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 ", Coordinate(width_), " ",
                Coordinate(height_), "\"", size, " role=\"img\"", Attribute("aria-label", alt_),
                " font-family=\"'DejaVu Sans', Verdana, sans-serif\">\n");
}

std::string Svg::Inline() const {
  return Header(true) + body_ + "</svg>\n";
}

std::string Svg::Document() const {
  return Header(false) + StrCat("<rect width=\"100%\" height=\"100%\" fill=\"", kPaper, "\"/>\n") + body_ + "</svg>\n";
}

}  // namespace kvscope
