// SPDX-License-Identifier: Apache-2.0
// `kvscope view` on results and folders: pictures of the curves and the grid, and one line for what cannot be shown.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "core/h5.h"
#include "core/results.h"
#include "tests/support/core_files.h"
#include "viewer/image.h"

namespace kvscope {
namespace {

namespace fs = std::filesystem;

using testing::HasSubstr;
using testing::StartsWith;

constexpr const char* kTrace = KVSCOPE_SOURCE_DIR "/traces/needle_512.kvtrace.h5";

CommandResult View(const std::string& arguments) {
  return RunCommand("env -u DISPLAY -u WAYLAND_DISPLAY " KVSCOPE_BINARY_DIR "/bin/kvscope view " + arguments);
}

void ExpectOneLine(const CommandResult& result) {
  EXPECT_EQ(result.exit_code, 2) << result.output;
  EXPECT_THAT(result.output, StartsWith("kvscope view: "));
  EXPECT_EQ(std::count(result.output.begin(), result.output.end(), '\n'), 1) << result.output;
}

Image Picture(const std::string& arguments) {
  const std::string picture = TempPath("results.png");
  fs::remove(picture);
  const CommandResult result = View(arguments + " --size 900x600 --screenshot " + picture);
  EXPECT_EQ(result.exit_code, 0) << result.output;
  return result.exit_code == 0 ? ReadPng(picture) : Image{};
}

// Pixels about as red, green and blue as that; 0xRRGGBB.
int PixelsLike(const Image& image, uint32_t rgb) {
  int count = 0;
  for (const uint32_t pixel : image.rgba) {
    const auto near = [&](int shift, int rgb_shift) {
      return std::abs(static_cast<int>(pixel >> shift & 255) - static_cast<int>(rgb >> rgb_shift & 255)) < 12;
    };
    count += near(0, 16) && near(8, 8) && near(16, 0);
  }
  return count;
}

Results::Row Row(const std::string& policy, double fraction, double loss, double context, double depth) {
  Results::Row row;
  ResultRow& figures = row.figures;
  figures.Set("run_id", std::to_string(context) + " " + std::to_string(depth)), figures.Set("policy", policy);
  figures.Set("mode", "replay"), figures.Set("task", "niah"), figures.Set("protocol", "prompt");
  figures.Set("context", context), figures.Set("depth", depth), figures.Set("keep_fraction_asked", fraction);
  figures.Set("kept_bytes_prefill", 1e6 * fraction), figures.Set("attention_loss", loss);
  figures.Set("needle_retention", 1 - loss);
  return row;
}

std::string ResultsFile(const std::string& name) {
  Results results;
  for (const double context : {256.0, 512.0}) {
    for (const double depth : {0.0, 1.0}) {
      if (context == 512 && depth == 1) continue;  // a cell without a run
      for (const double fraction : {0.5, 0.25, 0.1}) {
        results.rows.push_back(Row("snapkv", fraction, depth, context, depth));
        results.rows.push_back(Row("random", fraction, 1 - fraction, context, depth));
      }
    }
  }
  const std::string path = TempPath(name);
  WriteResults(path, results);
  return path;
}

TEST(ResultsProgram, CurvesShowEachPolicy) {
  const std::string path = ResultsFile("results.h5");
  const Image image = Picture(path + " --panel curves --light");
  EXPECT_GT(PixelsLike(image, 0x0072b2), 300) << "snapkv's blue";
  const Image other = Picture(path + " --panel curves --light --figure needle_retention");
  EXPECT_NE(image.rgba, other.rgba);
}

TEST(ResultsProgram, TheGridAlarmsWhereTheNeedleIsLost) {
  const Image image = Picture(ResultsFile("grid.h5") + " --panel grid --figure needle_retention --light");
  EXPECT_GT(PixelsLike(image, 0xd55405), 5000) << "one cell, all lost";
  EXPECT_GT(PixelsLike(image, 0xcce6f7), 10000) << "two cells, all kept";
}

TEST(ResultsProgram, AFolderIsTracesAndResults) {
  const std::string folder = TempPath("runs");
  fs::remove_all(folder);
  fs::create_directories(folder);
  for (const char* name : {"b.kvtrace.h5", "a.kvtrace.h5"}) fs::copy_file(kTrace, fs::path(folder) / name);
  WriteFile(folder + "/notes.txt", "no trace");
  WriteFile(folder + "/other.h5", "no results");
  WriteFile(folder + "/c.kvtrace.h5", "a damaged trace is named in the grid");
  const Image grid = Picture(folder + " --panel grid"), curves = Picture(folder + " --panel curves");
  EXPECT_GT(std::set(grid.rgba.begin(), grid.rgba.end()).size(), 40u);
  EXPECT_NE(grid.rgba, curves.rgba);
  const Image heatmap = Picture(folder + " --panel heatmap");
  EXPECT_GT(std::set(heatmap.rgba.begin(), heatmap.rgba.end()).size(), 100u) << "the first trace is open";
}

TEST(ResultsProgram, SaysWhatCannotBeShown) {
  const std::string empty = TempPath("empty"), strange = TempPath("strange");
  fs::create_directories(empty), fs::create_directories(strange);
  WriteFile(strange + "/notes.txt", "no trace"), WriteFile(strange + "/other.h5", "no results");
  const std::string whole = ReadFile(ResultsFile("whole.h5"));
  const std::string cut = TempPath("cut.h5"), wrong = TempPath("wrong.h5");
  WriteFile(cut, whole.substr(0, whole.size() / 2));
  {
    h5::File file = h5::File::Create(wrong);
    file.WriteText("/", "format", "kvscope.results");
    file.WriteIntegers("/", "version", {1, 0});
    file.WriteInteger("/", "rows", 1);
    file.WriteInteger("/", "traces", 0);
    file.CreateGroup("/column");
    h5::DatasetShape shape;
    shape.type = h5::Type::kU8;
    shape.extents = {1};
    const uint8_t byte = 1;
    file.CreateDataset("/column/attention_loss", shape).Write({0}, {1}, &byte);
    file.Close();
  }
  const std::string picture = TempPath("bad_results.png");
  for (const auto& [arguments, words] :
       {std::pair{empty, "found neither"},
        {strange, "found neither"},
        {cut, "cut.h5"},
        {wrong, "expected elements of type"},
        {std::string(kTrace) + " " + wrong, "expected elements of type"},
        {ResultsFile("fine.h5") + " --figure ratio", "--figure 'ratio': expected one of metric_value"}}) {
    for (const char* panel : {"curves", "grid"}) {
      const CommandResult result = View(arguments + " --panel " + panel + " --screenshot " + picture);
      ExpectOneLine(result);
      EXPECT_THAT(result.output, HasSubstr(words));
      EXPECT_FALSE(fs::exists(picture)) << arguments;
    }
  }
}

// Truncated at many points: never more than one line, never a crash.
TEST(ResultsProgram, TruncatedResultsAreRefused) {
  const std::string whole = ReadFile(ResultsFile("whole.h5")), path = TempPath("truncated.h5");
  for (int part = 1; part < 8; ++part) {
    WriteFile(path, whole.substr(0, whole.size() * part / 8));
    ExpectOneLine(View(path + " --panel curves --size 100x100 --screenshot " + TempPath("bad_results.png")));
  }
}

}  // namespace
}  // namespace kvscope
