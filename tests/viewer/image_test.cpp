// SPDX-License-Identifier: Apache-2.0
#include "viewer/image.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <functional>

#include "core/error.h"
#include "tests/support/core_files.h"
#include "tests/support/core_message.h"

namespace kvscope {
namespace {

using testing::HasSubstr;

// All channels differ from one another and from pixel to pixel.
Image Pattern(int width, int height, uint32_t alpha) {
  Image image{width, height, {}};
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      const uint32_t red = (x * 7u) & 255, green = (y * 11u) & 255, blue = (x + y * 3u + 90) & 255;
      image.rgba.push_back(alpha << 24 | blue << 16 | green << 8 | red);
    }
  }
  return image;
}

TEST(Image, OpaquePixelsSurviveARoundTrip) {
  for (const auto& [width, height] : {std::pair(1, 1), {61, 37}, {3, 200}}) {
    const Image image = Pattern(width, height, 255);
    WritePng(TempPath("image.png"), image);
    const Image read = ReadPng(TempPath("image.png"));
    EXPECT_EQ(read.width, width);
    EXPECT_EQ(read.height, height);
    EXPECT_EQ(read.rgba, image.rgba);
  }
}

// At alpha a, a channel is one of a + 1 values: half a step of 255 / a, and rounding.
TEST(Image, TranslucentPixelsSurviveToHalfAStep) {
  for (const uint32_t alpha : {254u, 128u, 17u}) {
    const Image image = Pattern(40, 30, alpha);
    WritePng(TempPath("image.png"), image);
    const Image read = ReadPng(TempPath("image.png"));
    ASSERT_EQ(read.rgba.size(), image.rgba.size());
    for (size_t i = 0; i < image.rgba.size(); ++i) {
      ASSERT_EQ(read.rgba[i] >> 24, alpha);
      for (const int shift : {0, 8, 16}) {
        const int expected = image.rgba[i] >> shift & 255, found = read.rgba[i] >> shift & 255;
        ASSERT_LE(std::abs(expected - found), static_cast<int>(128 / alpha) + 1);
      }
    }
  }
}

TEST(Image, ClearPixelsStayClear) {
  WritePng(TempPath("image.png"), {2, 1, {0x00ffffff, 0xff0000ff}});
  EXPECT_EQ(ReadPng(TempPath("image.png")).rgba, (std::vector<uint32_t>{0, 0xff0000ff}));
}

TEST(Image, SaysWhichFileIsWrong) {
  EXPECT_THAT(MessageOf([] { WritePng("/nowhere/a.png", Pattern(2, 2, 255)); }), HasSubstr("/nowhere/a.png: "));
  EXPECT_THAT(MessageOf([] { ReadPng(TempPath("missing.png")); }), HasSubstr("missing.png: expected a PNG"));
  WriteFile(TempPath("text.png"), "not a picture");
  EXPECT_THAT(MessageOf([] { ReadPng(TempPath("text.png")); }), HasSubstr("text.png: expected a PNG"));
}

}  // namespace
}  // namespace kvscope
