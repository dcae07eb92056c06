// SPDX-License-Identifier: Apache-2.0
// The program `kvscope view`: pictures, exit codes, one line per error.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "tests/support/core_files.h"
#include "viewer/image.h"

namespace kvscope {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

// Without a display, and with a state folder that must stay as it is.
CommandResult View(const std::string& arguments, const std::string& environment = "") {
  return RunCommand("env -u DISPLAY -u WAYLAND_DISPLAY XDG_STATE_HOME=" + TempPath("view_state") + " " + environment +
                    " " KVSCOPE_BINARY_DIR "/bin/kvscope view " + arguments);
}

void ExpectOneLine(const CommandResult& result) {
  EXPECT_EQ(result.exit_code, 2) << result.output;
  EXPECT_THAT(result.output, StartsWith("kvscope view: "));
  EXPECT_EQ(std::count(result.output.begin(), result.output.end(), '\n'), 1) << result.output;
}

TEST(ViewProgram, MakesAPictureWithoutADisplay) {
  const std::string picture = TempPath("view.png");
  std::filesystem::remove(picture);
  const CommandResult result =
      View(KVSCOPE_SOURCE_DIR "/traces/needle_512.kvtrace.h5 --size 640x480 --scale 1.5 --screenshot " + picture);
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(result.output, picture + "\n");
  const Image image = ReadPng(picture);
  EXPECT_EQ(image.width, 960);
  EXPECT_EQ(image.height, 720);
  EXPECT_GT(std::set(image.rgba.begin(), image.rgba.end()).size(), 50u);  // something is drawn
  EXPECT_FALSE(std::filesystem::exists(TempPath("view_state")));
}

TEST(ViewProgram, LightIsLight) {
  const std::string picture = TempPath("view.png");
  ASSERT_EQ(View("--size 200x200 --screenshot " + picture).exit_code, 0);
  const Image dark = ReadPng(picture);
  ASSERT_EQ(View("--light --size 200x200 --screenshot " + picture).exit_code, 0);
  const Image light = ReadPng(picture);
  EXPECT_LT(dark.rgba[0] & 255, 64u);
  EXPECT_GT(light.rgba[0] & 255, 192u);
}

TEST(ViewProgram, AnswersBadOptionsWithOneLine) {
  const std::string out = " --screenshot " + TempPath("bad.png");
  for (const std::string& arguments :
       {"--size 12" + out, "--size 0x100" + out, "--size 100x100x3" + out, "--scale 9" + out, "--panel nothing" + out,
        "--unknown" + out, "missing.kvtrace.h5" + out, std::string("--screenshot"),
        std::string("--screenshot /nowhere/a.png")}) {
    ExpectOneLine(View(arguments));
    EXPECT_FALSE(std::filesystem::exists(TempPath("bad.png"))) << arguments;
  }
}

TEST(ViewProgram, SaysWhatToInstallWhereOpenGlIsMissing) {
  const std::string picture = " --screenshot " + TempPath("none.png");
  for (const char* environment : {"__EGL_VENDOR_LIBRARY_FILENAMES=/nowhere", "LIBGL_DRIVERS_PATH=/nowhere"}) {
    const CommandResult result = View(picture, environment);
    ExpectOneLine(result);
    EXPECT_THAT(result.output, HasSubstr("libegl-mesa0 libgl1-mesa-dri")) << environment;
    EXPECT_FALSE(std::filesystem::exists(TempPath("none.png")));
  }
}

}  // namespace
}  // namespace kvscope
