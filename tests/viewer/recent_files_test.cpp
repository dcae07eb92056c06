// SPDX-License-Identifier: Apache-2.0
// What is kept between runs: the recent files and the preferences.
#include "viewer/recent_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "core/error.h"
#include "tests/support/core_files.h"
#include "viewer/preferences.h"

namespace kvscope {
namespace {

using testing::ElementsAre;

TEST(RecentFiles, TheNewestComesFirstAndOnlyOnce) {
  const std::string kept = TempPath("recent");
  std::filesystem::remove(kept);
  RecentFiles recent(kept);
  EXPECT_TRUE(recent.files().empty());
  for (const char* file : {"/a", "/b/./c/../d", "/a"}) EXPECT_TRUE(recent.Add(file));
  EXPECT_THAT(recent.files(), ElementsAre("/a", "/b/d"));
  EXPECT_EQ(RecentFiles(kept).files(), recent.files());
}

TEST(RecentFiles, KeepsTen) {
  RecentFiles recent;
  for (int file = 0; file < 15; ++file) recent.Add(StrCat("/", file));
  EXPECT_EQ(recent.files().size(), RecentFiles::kMost);
  EXPECT_EQ(recent.files().front(), "/14");
  EXPECT_EQ(recent.files().back(), "/5");
}

TEST(RecentFiles, ARelativePathBecomesAbsolute) {
  RecentFiles recent;
  recent.Add("here.h5");
  EXPECT_EQ(recent.files().front(), (std::filesystem::current_path() / "here.h5").string());
}

TEST(RecentFiles, TwoWindowsKeepEachOthers) {
  const std::string kept = TempPath("recent");
  std::filesystem::remove(kept);
  RecentFiles one(kept), other(kept);
  one.Add("/one");
  other.Add("/other");
  EXPECT_THAT(other.files(), ElementsAre("/other", "/one"));
}

TEST(RecentFiles, OddContentsDoNoHarm) {
  const std::string kept = TempPath("recent");
  WriteFile(kept, "\n/a\n\n/a\n" + std::string(1 << 16, 'x'));
  RecentFiles recent(kept);
  EXPECT_EQ(recent.files().size(), 2u);
  recent.Add("/two\nlines");
  EXPECT_EQ(recent.files().size(), 2u);
}

TEST(RecentFiles, SaysWhenItCannotBeKept) {
  EXPECT_FALSE(RecentFiles("/nowhere/recent").Add("/a"));
}

TEST(Preferences, AreReadAsTheyWereWritten) {
  const std::string path = TempPath("preferences");
  for (const Preferences& preferences :
       {Preferences{}, Preferences{true, {}}, Preferences{false, {"text", "timeline"}}}) {
    ASSERT_TRUE(WritePreferences(path, preferences));
    EXPECT_EQ(ReadPreferences(path), preferences);
  }
  EXPECT_FALSE(WritePreferences("/nowhere/preferences", {}));
  EXPECT_EQ(ReadPreferences("/nowhere/preferences"), Preferences{});
}

TEST(Preferences, WhatIsNotKnownIsLeftOut) {
  const std::string path = TempPath("preferences");
  WriteFile(path, "theme purple\nzoom 3\nhidden run\n\x80\xff");
  EXPECT_EQ(ReadPreferences(path), (Preferences{{}, {"run"}}));
}

}  // namespace
}  // namespace kvscope
