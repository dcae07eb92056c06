// SPDX-License-Identifier: Apache-2.0
#include "viewer/text_layout.h"

#include <gtest/gtest.h>

namespace kvscope {
namespace {

using Texts = std::vector<std::string>;

TEST(TokenTexts, LeaveACharacterWhereItBegins) {
  const Texts pieces = {"\xd0\x9f\xd1",                      // П and half of р
                        "\x80\xd0\xb8", " ",                 // the other half, и
                        "\xe4",         "\xbd",     "\xa0",  // 你 in three tokens
                        "a\xf0\x9f",    "\x98\x80z"};
  EXPECT_EQ(TokenTexts(pieces), (Texts{"Пр", "и", " ", "你", "", "", "a😀", "z"}));
}

TEST(TokenTexts, WriteOutWhatIsNoText) {
  const Texts pieces = {"\xc3", "(", "\x80\x80", "x\x01\n", std::string("\0", 1), "\xff", "\t", "\xe4\xbd"};
  EXPECT_EQ(TokenTexts(pieces), (Texts{"\\xc3", "(", "\\x80\\x80", "x\\x01", "\\x00", "\\xff", "\\t", "\\xe4\\xbd"}));
  EXPECT_TRUE(TokenTexts({}).empty());
}

float TenEach(const std::string& text) {
  return static_cast<float>(text.size()) * 10;
}

// [token_begin, token_end) of lines, headers as {segment, -1}.
std::vector<std::pair<int, int>> Lines(const TextLayout& layout) {
  std::vector<std::pair<int, int>> lines;
  for (const TextLayout::Line& line : layout.lines())
    lines.push_back(line.header >= 0 ? std::pair{line.header, -1} : std::pair{line.token_begin, line.token_end});
  return lines;
}

TEST(TextLayout, BreaksLinesAndFoldsSegments) {
  const Texts pieces = {"<s>", "aaa", "bbb", "ccc\n", "ddd", "q", "q", "rest"};
  // The question overlaps the context and reaches beyond the end; the answer is only announced.
  const std::vector<Segment> segments = {
      {"context", 0, 1, 5, true}, {"question", 0, 4, 7, false}, {"answer", 0, 8, 40, false}};
  TextLayout layout;
  layout.Update("key", pieces, segments, 65, 8, TenEach);
  using Expected = std::vector<std::pair<int, int>>;
  EXPECT_EQ(Lines(layout), (Expected{{0, 1}, {0, -1}, {1, 3}, {3, 4}, {4, 5}, {1, -1}, {5, 7}, {7, 8}}));
  EXPECT_EQ(layout.x(2), 30);
  EXPECT_EQ(layout.LineOf(3), 3);
  layout.Fold(0, true);
  EXPECT_EQ(Lines(layout), (Expected{{0, 1}, {0, -1}, {1, -1}, {5, 7}, {7, 8}}));
  layout.Update("key", pieces, segments, 30, 8, TenEach);
  EXPECT_TRUE(layout.is_folded(0)) << "another width";
  Texts more = pieces;
  more.push_back("new");
  layout.Update("key", more, segments, 30, 8, TenEach);
  EXPECT_TRUE(layout.is_folded(0)) << "the trace has grown";
  EXPECT_EQ(layout.segment(2).role, "answer");
  EXPECT_EQ(layout.LineOf(0), 0);
  EXPECT_TRUE(layout.is_folded(0));
  EXPECT_EQ(layout.lines()[layout.LineOf(2)].token_begin, 2);
  EXPECT_FALSE(layout.is_folded(0)) << "to show the token";
  layout.Fold(0, true);
  layout.Update("another", pieces, segments, 30, 8, TenEach);
  EXPECT_FALSE(layout.is_folded(0));
}

TEST(TextLayout, GivesEmptyTokensARoom) {
  TextLayout layout;
  const Texts pieces = {"\xd1", "\x80", "\n"};
  layout.Update("key", pieces, {}, 100, 8, TenEach);
  EXPECT_EQ(layout.x(1), 20);
  EXPECT_EQ(layout.width(1), 2);
  EXPECT_EQ(layout.lines().size(), 1u);
  layout.Update("key", {}, {}, 100, 8, TenEach);
  EXPECT_TRUE(layout.lines().empty());
}

}  // namespace
}  // namespace kvscope
