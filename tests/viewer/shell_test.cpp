// SPDX-License-Identifier: Apache-2.0
// Both shells: pictures without a display, and windows on a virtual one.
#include "viewer/shell.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <imgui.h>

#include <algorithm>
#include <filesystem>

#include "core/error.h"
#include "tests/support/core_files.h"
#include "tests/support/viewer_display.h"
#include "viewer/theme.h"

namespace kvscope {
namespace {

using testing::HasSubstr;

constexpr uint32_t kFill = 0xff3c781e, kGround = 0xff0a0b0c;  // 0xAABBGGRR

// A rectangle from (20, 10) to (50, 40) on a plain ground.
struct RectangleFrame : Frame {
  void Draw() override {
    ++draws;
    ImDrawList& draw = *ImGui::GetBackgroundDrawList();
    draw.Flags = 0;  // hard edges
    draw.AddRectFilled({0, 0}, ImGui::GetIO().DisplaySize, kGround);
    draw.AddRectFilled({20, 10}, {50, 40}, kFill);
  }
  int draws = 0;
};

struct BusyFrame : RectangleFrame {
  bool IsBusy() const override { return draws < busy_draws; }
  int busy_draws = 0;
};

TEST(Offscreen, GivesThePixelsThatWereDrawn) {
  RectangleFrame frame;
  const Image image = RenderOffscreen(frame, {.width = 80, .height = 60}, 30);
  ASSERT_EQ(image.width, 80);
  ASSERT_EQ(image.height, 60);
  for (int y = 0; y < 60; ++y) {
    for (int x = 0; x < 80; ++x) {
      const bool is_inside = x >= 20 && x < 50 && y >= 10 && y < 40;
      ASSERT_EQ(image.rgba[static_cast<size_t>(y) * 80 + x], is_inside ? kFill : kGround) << x << " " << y;
    }
  }
}

TEST(Offscreen, ScaleMultipliesPixels) {
  RectangleFrame frame;
  const Image image = RenderOffscreen(frame, {.width = 80, .height = 60, .scale = 1.5f}, 30);
  EXPECT_EQ(image.width, 120);
  EXPECT_EQ(image.height, 90);
  EXPECT_EQ(image.rgba.size(), 120u * 90u);
}

TEST(Offscreen, DrawsUntilTheFrameIsNotBusy) {
  BusyFrame frame;
  frame.busy_draws = 20;
  RenderOffscreen(frame, {.width = 80, .height = 60}, 30);
  EXPECT_EQ(frame.draws, 21);  // not busy after the 20th and the 21st
}

TEST(Offscreen, GivesUpInTime) {
  BusyFrame frame;
  frame.busy_draws = 1 << 30;
  EXPECT_THROW(RenderOffscreen(frame, {.width = 80, .height = 60}, 0.1), Error);
}

TEST(Offscreen, TheSameFrameGivesTheSamePicture) {
  struct TextFrame : Frame {
    void Draw() override {
      ImGui::Begin("Text");
      for (int line = 0; line < 5; ++line) ImGui::Text("line %d \xc3\xa4 \xe2\x86\x92 \xce\xb1", line);
      ImGui::End();
    }
  } frame;
  const ShellOptions options{.width = 300, .height = 200};
  const Image first = RenderOffscreen(frame, options, 30), second = RenderOffscreen(frame, options, 30);
  EXPECT_EQ(first.rgba, second.rgba);
  ShellOptions light = options;
  light.is_dark = false;
  EXPECT_NE(RenderOffscreen(frame, light, 30).rgba, first.rgba);
}

TEST(Offscreen, TheThemesDifferInEveryColour) {
  RectangleFrame frame;
  RenderOffscreen(frame, {.width = 80, .height = 60, .is_dark = true}, 30);
  const Palette dark = CurrentTheme().palette;
  RenderOffscreen(frame, {.width = 80, .height = 60, .is_dark = false}, 30);
  const Palette light = CurrentTheme().palette;
  EXPECT_NE(dark.surface, light.surface);
  EXPECT_NE(dark.ink, light.ink);
  EXPECT_NE(dark.needle, light.needle);
}

// The rectangle and a little ground above it.
struct AskingFrame : RectangleFrame {
  std::optional<PictureRequest> TakePictureRequest() override {
    ++asked;
    return PictureRequest{20, 8, 50, 40, [this](const Image& image) { picture = image; }};
  }
  bool IsDone() const override { return draws >= 5; }
  bool IsBusy() const override { return draws < 5; }
  int asked = 0;
  Image picture;
};

void ExpectRectangle(const Image& picture) {
  ASSERT_EQ(picture.width, 30);
  ASSERT_EQ(picture.height, 32);
  EXPECT_EQ(picture.rgba.front(), kGround);
  EXPECT_EQ(picture.rgba.back(), kFill);
  EXPECT_EQ(std::ranges::count(picture.rgba, kFill), 30 * 30);
}

TEST(Offscreen, GivesAFrameAPictureOfItself) {
  AskingFrame frame;
  RenderOffscreen(frame, {.width = 80, .height = 60}, 30);
  EXPECT_EQ(frame.asked, 1);  // of the last frame
  ExpectRectangle(frame.picture);
}

// Whatever a frame had begun.
TEST(Offscreen, PassesOnWhatAFrameThrows) {
  struct ThrowingFrame : Frame {
    void Draw() override {
      ImGui::Begin("Open");
      throw Error("thrown");
    }
  } throwing;
  EXPECT_THROW(RenderOffscreen(throwing, {.width = 80, .height = 60}, 30), Error);
  RectangleFrame frame;
  EXPECT_EQ(RenderOffscreen(frame, {.width = 80, .height = 60}, 30).rgba[0], kGround);
}

TEST(Offscreen, SaysHowLargeAPictureMayBe) {
  RectangleFrame frame;
  EXPECT_THROW(RenderOffscreen(frame, {.width = 1 << 20, .height = 60}, 30), Error);
}

struct ShortFrame : RectangleFrame {
  void Draw() override {
    RectangleFrame::Draw();
    ImGui::Begin("A panel");
    ImGui::End();
  }
  bool IsBusy() const override { return true; }
  bool IsDone() const override { return draws >= 5; }
};

TEST(Window, DrawsUntilItIsDoneAndKeepsTheLayout) {
  const Display display;
  if (!display.is_there()) GTEST_SKIP() << "no Xvfb; install tests/packages.txt";
  const std::string layout = TempPath("view.ini");
  std::filesystem::remove(layout);
  ShortFrame frame;
  RunWindow(frame, {.width = 300, .height = 200, .ini_path = layout});
  EXPECT_EQ(frame.draws, 5);
  EXPECT_THAT(ReadFile(layout), HasSubstr("[Window][A panel]"));
}

TEST(Window, GivesAFrameAPictureOfItself) {
  const Display display;
  if (!display.is_there()) GTEST_SKIP() << "no Xvfb; install tests/packages.txt";
  AskingFrame frame;
  RunWindow(frame, {.width = 300, .height = 200});
  EXPECT_EQ(frame.asked, 5);
  ExpectRectangle(frame.picture);
}

TEST(Window, TakesTheThemeThatAFrameWants) {
  const Display display;
  if (!display.is_there()) GTEST_SKIP() << "no Xvfb; install tests/packages.txt";
  struct SwitchingFrame : ShortFrame {
    void Draw() override {
      ShortFrame::Draw();
      seen.push_back(CurrentTheme().is_dark);
    }
    std::optional<bool> WantsDark() const override { return draws < 2 ? std::nullopt : std::optional(draws > 3); }
    std::vector<bool> seen;
  } frame;
  RunWindow(frame, {.width = 300, .height = 200});
  EXPECT_EQ(frame.seen, (std::vector<bool>{true, true, false, false, true}));
}

// Processor time of an idle window, second by second: it is still once it has been drawn.
TEST(Window, CostsNothingWhileIdle) {
  const Display display;
  if (!display.is_there()) GTEST_SKIP() << "no Xvfb; install tests/packages.txt";
  const CommandResult result =
      RunCommand("export XDG_STATE_HOME=" + TempPath("state") + "; " KVSCOPE_BINARY_DIR R"(/bin/kvscope-view & p=$!
    ticks() { cut -d' ' -f14,15 /proc/$p/stat | { read user system; echo $((user + system)); }; }
    last=0
    for second in $(seq 20); do
      sleep 1; now=$(ticks)
      if [ $now -gt 0 ] && [ $((now - last)) -le 1 ]; then echo still; break; fi
      last=$now
    done
    kill $p)");
  EXPECT_EQ(result.output, "still\n");
}

TEST(Window, SaysThatThereIsNoDisplay) {
  const CommandResult result = RunCommand("env -u DISPLAY -u WAYLAND_DISPLAY XDG_STATE_HOME=" + TempPath("state") +
                                          " " KVSCOPE_BINARY_DIR "/bin/kvscope view");
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.output, HasSubstr("kvscope view: a window needs a display"));
  EXPECT_THAT(result.output, HasSubstr("--screenshot"));
  EXPECT_EQ(std::count(result.output.begin(), result.output.end(), '\n'), 1) << result.output;
}

}  // namespace
}  // namespace kvscope
