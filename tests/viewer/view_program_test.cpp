// SPDX-License-Identifier: Apache-2.0
// The program `kvscope view`: pictures, exit codes, one line per error.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <set>
#include <sstream>

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

constexpr const char* kTrace = KVSCOPE_SOURCE_DIR "/traces/needle_512.kvtrace.h5";

// How many pixels of a rectangle, in shares of the picture, are darker than half.
int DarkPixels(const Image& image, double left, double top, double right, double bottom) {
  int count = 0;
  for (int y = static_cast<int>(top * image.height); y < static_cast<int>(bottom * image.height); ++y) {
    for (int x = static_cast<int>(left * image.width); x < static_cast<int>(right * image.width); ++x)
      count += (image.rgba[size_t(y) * image.width + x] >> 8 & 255) < 128;
  }
  return count;
}

// Head 7 of layer 18 answers by copying: its answer rows look at the needle token by token, a dark diagonal.
TEST(ViewProgram, TheHeatmapShowsTheNeedleFound) {
  const std::string picture = TempPath("heatmap.png");
  const CommandResult result =
      View(std::string(kTrace) +
           " --panel heatmap --layer 18 --head 7 --mask-sinks --light --size 1500x950 --screenshot " + picture);
  ASSERT_EQ(result.exit_code, 0) << result.output;
  const Image image = ReadPng(picture);
  // Where answer rows 512 to 528 meet needle tokens 246 to 261, and as many tokens to the left of it.
  const double top = 0.05 + 0.885 * 513 / 528, bottom = 0.05 + 0.885;
  const double scale = 0.935, needle = 0.049 + scale * 247 / 528, width = scale * 14 / 528;
  EXPECT_GT(DarkPixels(image, needle, top, needle + width, bottom), 60);
  EXPECT_LT(DarkPixels(image, needle - 3 * width, top, needle - 2 * width, bottom), 30);
}

// By layer, the layers that read the needle stand out; in layer 3 no head finds it.
TEST(ViewProgram, TheLayersThatReadTheNeedleStandOut) {
  const std::string picture = TempPath("layers.png");
  const CommandResult result =
      View(std::string(kTrace) +
           " --panel heatmap --kind layer --linear --mask-sinks --light --size 1500x700 --screenshot " + picture);
  ASSERT_EQ(result.exit_code, 0) << result.output;
  const Image image = ReadPng(picture);
  // Plot from (66, 51) to (1477, 640); needle tokens 247 to 260 of 528, three layers, away from the labels.
  const auto x_of = [](int token) { return (66 + 1411.0 * token / 528) / 1500; };
  const auto y_of = [](double layer) { return (51 + 589 * layer / 3) / 700; };
  const auto dark = [&](int first, double layer) {
    return DarkPixels(image, x_of(first), y_of(layer + 0.3), x_of(first + 13), y_of(layer + 0.9));
  };
  EXPECT_GT(dark(247, 1), 500) << "layer 7";
  EXPECT_GT(dark(247, 2), 500) << "layer 18";
  EXPECT_LT(dark(247, 0), 200) << "layer 3: the band's own line";
  EXPECT_LT(dark(200, 2), 50) << "away from the needle";
}

TEST(ViewProgram, EveryPanelMakesAPictureOfItsOwn) {
  std::set<std::vector<uint32_t>> pictures;
  for (const char* panel :
       {"run", "overview", "text", "timeline --step 3", "timeline --step 9", "heatmap", "heatmap --kind layer",
        "heatmap --kind step", "heatmap --kind step --reduce none", "heatmap --kind step --reduce ema"}) {
    const std::string picture = TempPath("panel.png");
    const CommandResult result =
        View(std::string(kTrace) + " --layer 18 --head 7 --size 800x500 --screenshot " + picture + " --panel " + panel);
    ASSERT_EQ(result.exit_code, 0) << panel << ": " << result.output;
    const Image image = ReadPng(picture);
    EXPECT_GT(std::set(image.rgba.begin(), image.rgba.end()).size(), 40u) << panel;
    EXPECT_TRUE(pictures.insert(image.rgba).second) << panel << " looks like another";
  }
}

TEST(ViewProgram, EveryPanelWritesItsTable) {
  for (const auto& [panel, head] : {std::pair{"run", "heading,text\ntrace,"},
                                    {"overview", "layer,head,needle,sink,local,entropy\n3,0,"},
                                    {"text", "token,text,mean_weight,bits,kinds\n0,"},
                                    {"timeline --step 3", "step,query_token,token,text,weight\n3,515,0,"},
                                    {"heatmap", "query_begin,query_end,token_begin,token_end,weight\n0,"}}) {
    const CommandResult result = View(std::string(kTrace) + " --size 400x300 --csv - --panel " + panel);
    EXPECT_EQ(result.exit_code, 0) << panel;
    EXPECT_THAT(result.output, StartsWith(head));
  }
}

// A row of weights sums to one, so the table is the head's, not a picture's rounding.
TEST(ViewProgram, ATableHoldsTheExactWeights) {
  const std::string table = TempPath("timeline.csv"), picture = TempPath("timeline.png");
  const CommandResult result = View(std::string(kTrace) + " --size 400x300 --panel timeline --step 3 --csv " + table +
                                    " --screenshot " + picture);
  ASSERT_EQ(result.exit_code, 0) << result.output;
  EXPECT_EQ(result.output, picture + "\n" + table + "\n");
  EXPECT_EQ(ReadPng(picture).width, 400);
  std::istringstream lines(ReadFile(table));
  std::string line;
  std::getline(lines, line);
  double sum = 0;
  int rows = 0;
  for (; std::getline(lines, line); ++rows) sum += std::stod(line.substr(line.rfind(',') + 1));
  EXPECT_EQ(rows, 516);
  EXPECT_NEAR(sum, 1, 2e-3);  // the log-sum-exp is that of f16 q and k
}

TEST(ViewProgram, SaysWhatCannotBeShown) {
  const std::string out = " --screenshot " + TempPath("bad.png");
  for (const auto& [arguments, words] : {std::pair{std::string(kTrace) + " --layer 4", "expected one of 3, 7, 18"},
                                         {std::string(kTrace) + " --head 9", "expected one of 0, 1, 2"},
                                         {std::string(KVSCOPE_SOURCE_DIR) + "/README.md", "expected a trace"}}) {
    const CommandResult result = View(arguments + out);
    ExpectOneLine(result);
    EXPECT_THAT(result.output, HasSubstr(words));
    EXPECT_FALSE(std::filesystem::exists(TempPath("bad.png"))) << arguments;
  }
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
        "--unknown" + out, "--kind column" + out, "--reduce median" + out, "--reduce none" + out,
        "missing.kvtrace.h5" + out, std::string("--screenshot"), std::string("--csv - --panel run"),
        std::string(kTrace) + " --csv -", std::string(kTrace) + " --panel run --csv /nowhere/a.csv",
        "--light --dark" + out, std::string("--screenshot /nowhere/a.png")}) {
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
