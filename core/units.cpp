// SPDX-License-Identifier: Apache-2.0
#include "core/units.h"

#include <cmath>
#include <cstdio>

#include "core/error.h"

namespace kvscope {
namespace {

std::string Print(const char* format, double value) {
  char text[64];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

// Three significant digits or a little more, never an exponent.
std::string Significant(double value) {
  return Print(value < 9.995 ? "%.2f" : value < 999.95 ? "%.1f" : "%.0f", value);
}

// Length of the UTF-8 sequence at text[0], 0 when it is not one.
size_t SequenceLength(std::string_view text) {
  const auto at = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const size_t length = at(0) < 0x80 ? 1 : at(0) >> 5 == 6 ? 2 : at(0) >> 4 == 14 ? 3 : at(0) >> 3 == 30 ? 4 : 0;
  if (length == 0 || length > text.size()) return 0;
  for (size_t i = 1; i < length; ++i) {
    if (at(i) >> 6 != 2) return 0;
  }
  // C1 controls (U+0080 to U+009F) steer terminals too.
  if (length == 2 && at(0) == 0xc2 && at(1) < 0xa0) return 0;
  return length;
}

}  // namespace

std::string FormatBytes(int64_t bytes) {
  constexpr const char* kUnits[] = {"B", "kB", "MB", "GB", "TB", "PB", "EB"};
  if (bytes < 1000) return StrCat(bytes, " B");
  double value = static_cast<double>(bytes);
  int unit = 0;
  while (value >= 999.95) {
    value /= 1000;
    ++unit;
  }
  return StrCat(Significant(value), " ", kUnits[unit]);
}

std::string FormatCount(int64_t count) {
  std::string digits = std::to_string(count < 0 ? -count : count);
  for (int at = static_cast<int>(digits.size()) - 3; at > 0; at -= 3) digits.insert(static_cast<size_t>(at), 1, ',');
  return StrCat(count < 0 ? "-" : "", digits);
}

std::string FormatSecs(double secs) {
  if (!std::isfinite(secs) || secs < 0) return "?";
  if (secs < 0.9995e-3) return StrCat(Significant(secs * 1e6), " us");
  if (secs < 0.9995) return StrCat(Significant(secs * 1e3), " ms");
  if (secs < 59.95) return StrCat(Significant(secs), " s");
  const auto whole = static_cast<int64_t>(std::llround(secs));
  const std::string rest = std::to_string(100 + whole % 60).substr(1);
  return StrCat(whole / 60, " min ", rest, " s");
}

std::string FormatFraction(double fraction) {
  return std::isfinite(fraction) ? Print("%.1f %%", fraction * 100) : "?";
}

std::string FormatScientific(double value) {
  return Print("%.1e", value);
}

std::string Escape(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const size_t length = SequenceLength(text.substr(i));
    if (byte == '\n' || byte == '\t' || byte == '\r') {
      out += byte == '\n' ? "\\n" : byte == '\t' ? "\\t" : "\\r";
      ++i;
    } else if (length == 0 || byte < 0x20 || byte == 0x7f) {
      char escaped[8];
      std::snprintf(escaped, sizeof escaped, "\\x%02x", byte);
      out += escaped;
      ++i;
    } else {
      out += text.substr(i, length);
      i += length;
    }
  }
  return out;
}

std::string Shorten(std::string_view text, size_t most_characters) {
  size_t characters = 0;
  for (const char c : text) characters += (static_cast<unsigned char>(c) >> 6) != 2;
  if (characters <= most_characters || most_characters < 4) return std::string(text);
  const size_t head = most_characters * 2 / 3, tail = most_characters - head - 1;
  std::string out;
  size_t seen = 0;
  for (const char c : text) {
    seen += (static_cast<unsigned char>(c) >> 6) != 2;
    if (seen == head + 1 && (static_cast<unsigned char>(c) >> 6) != 2) out += "…";
    if (seen <= head || seen > characters - tail) out += c;
  }
  return out;
}

}  // namespace kvscope
