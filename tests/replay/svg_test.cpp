// SPDX-License-Identifier: Apache-2.0
#include "replay/svg.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "core/error.h"
#include "replay/png.h"

namespace kvscope {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

TEST(Svg, EscapesWhatTextMayHold) {
  EXPECT_EQ(EscapeXml("a<b> & \"c\" 'd'"), "a&lt;b&gt; &amp; &quot;c&quot; &#39;d&#39;");
  EXPECT_EQ(EscapeXml("\u03c1 \u2264 1"), "\u03c1 \u2264 1");
}

TEST(Svg, ReplacesBytesThatAreNotUtf8) {
  EXPECT_EQ(EscapeXml("a\xff\x62"), "a\ufffd\x62");
  EXPECT_EQ(EscapeXml("\xe2\x82"), "\ufffd\ufffd");            // cut short
  EXPECT_EQ(EscapeXml("\xc0\xaf"), "\ufffd\ufffd");            // overlong
  EXPECT_EQ(EscapeXml("\xed\xa0\x80"), "\ufffd\ufffd\ufffd");  // a surrogate
  EXPECT_EQ(EscapeXml(std::string_view("\0\x1b", 2)), "\ufffd\ufffd");
}

TEST(Svg, WritesShortCoordinates) {
  Svg svg(100, 50, "picture");
  svg.Line(1.0 / 3, 2, 10, 20.5, {});
  EXPECT_THAT(svg.Document(), HasSubstr("x1=\"0.33\" y1=\"2\" x2=\"10\" y2=\"20.5\""));
}

TEST(Svg, RemembersWhereTextsLie) {
  Svg svg(100, 50, "picture");
  svg.Text(50, 20, "iiii", {.size = 10, .anchor = Anchor::kMiddle});
  svg.Text(50, 40, "WWWW", {.size = 10, .anchor = Anchor::kEnd});
  ASSERT_EQ(svg.text_boxes().size(), 2u);
  EXPECT_NEAR(svg.text_boxes()[0].left + svg.text_boxes()[0].right, 100, 1e-9);
  EXPECT_NEAR(svg.text_boxes()[1].right, 50, 1e-9);
  EXPECT_LT(TextWidth("iiii", 10), TextWidth("WWWW", 10) / 2);
  EXPECT_FALSE(svg.text_boxes()[0].Overlaps(svg.text_boxes()[1]));
}

TEST(Svg, CarriesNothingFromElsewhere) {
  Svg svg(100, 50, "a \"quoted\" <picture>");
  svg.Image(0, 0, 10, 10, PngFromPixels(std::vector<uint32_t>{0xff0000, 0x00ff00}, 2, 1));
  EXPECT_THAT(svg.Document(), HasSubstr("href=\"data:image/png;base64,iVBORw0KGgo"));
  EXPECT_THAT(svg.Document(), HasSubstr("aria-label=\"a &quot;quoted&quot; &lt;picture&gt;\""));
}

std::string FileText(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

TEST(Png, HasTheSizeOfThePicture) {
  Svg svg(40, 30, "picture");
  svg.Rect(0, 0, 40, 30, "#ff0000");
  const std::string path = testing::TempDir() + "svg_test.png";
  WritePng(path, svg.Document(), 2);
  const std::string bytes = FileText(path);
  ASSERT_GT(bytes.size(), 24u);
  EXPECT_EQ(bytes.substr(1, 3), "PNG");
  EXPECT_EQ(static_cast<unsigned char>(bytes[19]), 80);
  EXPECT_EQ(static_cast<unsigned char>(bytes[23]), 60);
}

TEST(Png, SaysWhatItCannotDo) {
  EXPECT_THROW(WritePng(testing::TempDir() + "no_such_folder/x.png", Svg(10, 10, "").Document()), Error);
  EXPECT_THROW(WritePng(testing::TempDir() + "x.png", "this is no svg"), Error);
}

}  // namespace
}  // namespace kvscope
