// SPDX-License-Identifier: Apache-2.0
#include "core/units.h"

#include <gtest/gtest.h>

#include <cmath>

namespace kvscope {
namespace {

TEST(Units, BytesKeepThreeDigits) {
  EXPECT_EQ(FormatBytes(0), "0 B");
  EXPECT_EQ(FormatBytes(999), "999 B");
  EXPECT_EQ(FormatBytes(1500), "1.50 kB");
  EXPECT_EQ(FormatBytes(141846542), "141.8 MB");
  EXPECT_EQ(FormatBytes(999999999), "1.00 GB");
}

TEST(Units, CountsAreGrouped) {
  EXPECT_EQ(FormatCount(0), "0");
  EXPECT_EQ(FormatCount(999), "999");
  EXPECT_EQ(FormatCount(2064), "2,064");
  EXPECT_EQ(FormatCount(-1234567), "-1,234,567");
}

TEST(Units, SecondsChooseTheirUnit) {
  EXPECT_EQ(FormatSecs(0.00035), "350.0 us");
  EXPECT_EQ(FormatSecs(0.0125), "12.5 ms");
  EXPECT_EQ(FormatSecs(3.2), "3.20 s");
  EXPECT_EQ(FormatSecs(245), "4 min 05 s");
  EXPECT_EQ(FormatSecs(NAN), "?");
}

TEST(Units, EscapedTextCannotSteerATerminal) {
  EXPECT_EQ(Escape("a\nb\t\x1b[31m"), "a\\nb\\t\\x1b[31m");
  EXPECT_EQ(Escape("caf\xc3\xa9 \xe2\x82\xac"), "caf\xc3\xa9 \xe2\x82\xac");
  EXPECT_EQ(Escape("\xc3"), "\\xc3");
  EXPECT_EQ(Escape("\xc2\x9b"), "\\xc2\\x9b");
}

TEST(Units, ShortenedTextKeepsBothEnds) {
  EXPECT_EQ(Shorten("short", 10), "short");
  EXPECT_EQ(Shorten("0123456789", 7), "0123…89");
}

}  // namespace
}  // namespace kvscope
