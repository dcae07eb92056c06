// SPDX-License-Identifier: Apache-2.0
// The only place that prints a number with a unit, for people; machines get plain numbers.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace kvscope {

std::string FormatBytes(int64_t bytes);       // "512 B", "1.50 kB", "141.8 MB": decimal, as file managers do
std::string FormatCount(int64_t count);       // "2,064"
std::string FormatSecs(double secs);          // "350 us", "12.5 ms", "3.20 s", "4 min 05 s"
std::string FormatFraction(double fraction);  // "12.5 %"
std::string FormatScientific(double value);   // "2.4e-04"
// Printable UTF-8 stays; everything that could confuse a terminal or a line becomes \n, \t, \xNN.
std::string Escape(std::string_view text);
std::string Shorten(std::string_view text, size_t most_characters);  // "…" in the middle of what is too long

}  // namespace kvscope
