// SPDX-License-Identifier: Apache-2.0
#include "replay/registry.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "core/error.h"
#include "replay/policy_spec.h"
#include "tests/support/core_message.h"

namespace kvscope {
namespace {

using testing::HasSubstr;

size_t CountSources(const std::string& folder) {
  size_t count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(KVSCOPE_SOURCE_DIR "/replay/" + folder)) {
    count += entry.path().extension() == ".cpp";
  }
  return count;
}

// Static libraries lose objects that nobody names: this fails when the link feature in replay/CMakeLists.txt goes.
TEST(Registry, EveryPlugInFileIsRegistered) {
  EXPECT_EQ(Scorers().size(), CountSources("policies"));
  EXPECT_EQ(Allocators().size(), CountSources("allocators"));
  EXPECT_EQ(Stores().size(), CountSources("stores"));
}

TEST(Registry, EveryPlugInSaysWhatItIs) {
  for (const auto& [name, info] : Scorers()) {
    EXPECT_FALSE(info.summary.empty()) << name;
    EXPECT_TRUE(bool(info.make) != bool(info.make_policy)) << name;
    if (info.kind == "eviction" && name != "adkvc") {
      EXPECT_THAT(info.paper_url, HasSubstr("https://")) << name;
    }
  }
  for (const auto& [name, info] : Allocators()) EXPECT_FALSE(info.summary.empty()) << name;
  for (const auto& [name, info] : Stores()) EXPECT_FALSE(info.summary.empty()) << name;
}

TEST(Registry, EveryCombinationParses) {
  for (const auto& [name, info] : Combinations()) {
    EXPECT_FALSE(Scorers().contains(name)) << name;
    EXPECT_EQ(PolicySpec::Parse(name).text, name);
  }
}

TEST(NearestName, FindsTyposAndLeavesStrangersAlone) {
  const std::vector<std::string> known{"snapkv", "streaming_llm", "tova", "h2o"};
  EXPECT_EQ(NearestName("snapk", known), "snapkv");
  EXPECT_EQ(NearestName("steaming_lm", known), "streaming_llm");
  EXPECT_EQ(NearestName("toav", known), "tova");
  EXPECT_EQ(NearestName("quantum_cache", known), "");
  EXPECT_EQ(NearestName("", known), "");
  EXPECT_EQ(NearestName(std::string(100000, 'a'), known), "");
}

TEST(Params, TakesValuesAndDefaultsAndDescribesBoth) {
  Params params("here", {{"window", "8"}, {"mode", "max"}});
  EXPECT_EQ(params.Int("window", 32, 1, 100, "queries"), 8);
  EXPECT_EQ(params.Real("share", 0.5, 0, 1, "part"), 0.5);
  EXPECT_EQ(params.Choice("mode", "avg", {"avg", "max"}, "how"), "max");
  params.CheckAllUsed();
  ASSERT_EQ(params.descriptions().size(), 3u);
  EXPECT_EQ(params.descriptions()[0].value, "8");
  EXPECT_EQ(params.descriptions()[1].value, "0.5");
  EXPECT_EQ(params.descriptions()[2].range, "avg | max");
}

TEST(Params, RefusesWhatIsNoNumberInRange) {
  for (const char* bad : {"", "x", "1.5", "0", "101", "8 ", "99999999999999999999", "0x8", "nan"}) {
    Params params("here", {{"window", bad}});
    EXPECT_EQ(MessageOf([&] { params.Int("window", 32, 1, 100, ""); }),
              std::string("here: window: expected an integer from 1 to 100, found '") + bad + "'");
  }
  for (const char* bad : {"nan", "inf", "-inf", "-0.1", "1.1", "1e400", "0.5x"}) {
    Params params("here", {{"share", bad}});
    EXPECT_EQ(MessageOf([&] { params.Real("share", 0.5, 0, 1, ""); }),
              std::string("here: share: expected a number from 0 to 1, found '") + bad + "'");
  }
}

TEST(Params, NamesTheNearestParameter) {
  Params params("policy 'p'", {{"windw", "3"}});
  params.Int("window", 32, 1, 100, "");
  EXPECT_EQ(MessageOf([&] { params.CheckAllUsed(); }), "policy 'p': parameter 'windw': unknown; did you mean window?");
}

}  // namespace
}  // namespace kvscope
