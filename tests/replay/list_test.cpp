// SPDX-License-Identifier: Apache-2.0
#include "replay/list.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/error.h"
#include "replay/registry.h"

namespace kvscope {
namespace {

using testing::HasSubstr;

TEST(List, TheReadmeIsUpToDate) {
  std::ifstream file(KVSCOPE_SOURCE_DIR "/replay/policies/README.md");
  std::stringstream contents;
  contents << file.rdbuf();
  EXPECT_EQ(contents.str(), ListMarkdown()) << "run: kvscope replay list --markdown > replay/policies/README.md";
}

TEST(List, NamesEverythingInEveryForm) {
  const nlohmann::json json = nlohmann::json::parse(ListJson());
  EXPECT_EQ(json["policies"].size(), Scorers().size());
  EXPECT_EQ(json["stores"].size(), Stores().size());
  for (const auto& [name, info] : Scorers()) EXPECT_THAT(ListText(), HasSubstr("\n  " + name + " "));
  for (const auto& [name, info] : Combinations()) EXPECT_THAT(ListText(), HasSubstr(info.spec));
}

TEST(Explain, TellsParametersRangesAndDepartures) {
  const std::string text = Explain("snapkv");
  EXPECT_THAT(text, HasSubstr("window=32"));
  EXPECT_THAT(text, HasSubstr("an integer from 1 to"));
  EXPECT_THAT(text, HasSubstr("departs"));
  EXPECT_THAT(Explain("int4"), HasSubstr("72 per entry at head dimension 64"));
  EXPECT_THAT(Explain("int4"), HasSubstr("combination, stands for full@int4"));
}

TEST(Explain, KnowsEveryName) {
  for (const auto& [name, info] : Scorers()) EXPECT_THAT(Explain(name), HasSubstr(info.summary));
  for (const auto& [name, info] : Allocators()) EXPECT_THAT(Explain(name), HasSubstr(info.summary));
  for (const auto& [name, info] : Stores()) EXPECT_THAT(Explain(name), HasSubstr(info.summary));
  for (const auto& [name, info] : Combinations()) EXPECT_THAT(Explain(name), HasSubstr(info.summary));
  try {
    Explain("snapk");
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "explain 'snapk': unknown; did you mean snapkv? (kvscope replay list shows all)");
  }
}

}  // namespace
}  // namespace kvscope
