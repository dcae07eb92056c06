// SPDX-License-Identifier: Apache-2.0
// Every panel of the committed trace against a picture that somebody looked at. After a change that is meant:
//   KVSCOPE_NEW_PICTURES=1 build/bin/kvscope_viewer_test --gtest_filter='*ReferencePicture*'
// and look at what git shows.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "core/error.h"
#include "tests/support/core_files.h"
#include "viewer/image.h"

namespace kvscope {
namespace {

// Of a channel's 255 steps, and of all pixels. Another driver or font draws edges a little differently; a panel that
// lost a label, a band or its map differs in more.
constexpr int kTolerance = 32;
constexpr double kMostPixels = 0.01;

// Paths are relative, as they are seen in the pictures.
CommandResult InSources(const std::string& command) {
  return RunCommand("cd " KVSCOPE_SOURCE_DIR " && " KVSCOPE_BINARY_DIR "/bin/kvscope " + command);
}

struct Reference {
  const char *name, *arguments;  // after `kvscope view FILE`
  const char* size = "900x560";
};
std::ostream& operator<<(std::ostream& out, const Reference& reference) {
  return out << reference.name;
}

class ReferencePicture : public testing::TestWithParam<Reference> {};

TEST_P(ReferencePicture, IsWhatSomebodyLookedAt) {
  const std::string name = GetParam().name,
                    expected_path = KVSCOPE_SOURCE_DIR "/tests/viewer/pictures/" + name + ".png";
  std::string files = "traces/needle_512.kvtrace.h5";
  if (name == "curves" || name == "grid") {
    const std::string results = TempPath("reference.h5");
    const CommandResult replay =
        InSources("replay run " + files + " --policy snapkv,h2o,adkvc --keep-fraction 0.5,0.25,0.1 -o " + results);
    ASSERT_EQ(replay.exit_code, 0) << replay.output;
    files += " " + results;
  }
  const bool is_new = std::getenv("KVSCOPE_NEW_PICTURES") != nullptr;
  const std::string path = is_new ? expected_path : TempPath(name + ".png");
  const CommandResult view =
      InSources("view " + files + " --size " + GetParam().size + " --screenshot " + path + " " + GetParam().arguments);
  ASSERT_EQ(view.exit_code, 0) << view.output;
  if (is_new) GTEST_SKIP() << "written: " << path;
  const Image found = ReadPng(path), expected = ReadPng(expected_path);
  ASSERT_EQ(found.width, expected.width);
  ASSERT_EQ(found.height, expected.height);
  int64_t different = 0;
  for (size_t i = 0; i < found.rgba.size(); ++i) {
    bool differs = false;
    for (int shift = 0; shift < 24; shift += 8) {
      const int a = static_cast<int>(found.rgba[i] >> shift & 255),
                b = static_cast<int>(expected.rgba[i] >> shift & 255);
      differs = differs || std::abs(a - b) > kTolerance;
    }
    different += differs;
  }
  EXPECT_LE(static_cast<double>(different), kMostPixels * static_cast<double>(found.rgba.size()))
      << path << " differs from " << expected_path << " in " << different << " of " << found.rgba.size() << " pixels";
}

INSTANTIATE_TEST_SUITE_P(
    Panels, ReferencePicture,
    testing::Values(
        Reference{"run", "--panel run"}, Reference{"overview", "--panel overview --light"},
        Reference{"heatmap", "--panel heatmap --layer 18 --head 7 --mask-sinks --light"},
        Reference{"heatmap_layers", "--panel heatmap --kind layer --mask-sinks"},
        Reference{"heatmap_steps",
                  "--panel heatmap --kind step --reduce none --layer 18 --head 7 --mask-sinks --light"},
        Reference{"text", "--panel text --layer 18 --head 7 --policy snapkv --keep-fraction 0.15 --light"},
        Reference{"timeline",
                  "--panel timeline --layer 18 --head 7 --step 9 --policy snapkv,adkvc,h2o --keep-fraction 0.15"},
        Reference{"policies",
                  "--panel policies --layer 18 --head 7 --policy snapkv,adkvc,h2o --keep-fraction 0.15 --light",
                  "1200x800"},
        Reference{"policies_difference",
                  "--panel policies --policy snapkv,adkvc --keep-fraction 0.15 --map difference --decide-at context",
                  "1200x800"},
        Reference{"curves", "--panel curves --figure attention_loss --light"},
        Reference{"grid", "--panel grid --figure needle_retention --policy snapkv --keep-fraction 0.25"}),
    [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace kvscope
