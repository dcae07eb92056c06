// SPDX-License-Identifier: Apache-2.0
// Names and fields of exported files, and what the open dialog finds in a folder.
#include "viewer/export.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "core/error.h"
#include "tests/support/core_files.h"
#include "viewer/folder_listing.h"

namespace kvscope {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

TEST(Export, TakesTheFirstNumberThatIsFree) {
  const std::string folder = TempPath("free");
  fs::remove_all(folder);
  fs::create_directories(folder);
  EXPECT_EQ(FreePath(folder, "a", "csv"), folder + "/a_1.csv");
  WriteFile(folder + "/a_1.csv", "");
  fs::create_symlink("/nowhere", folder + "/a_2.csv");  // it would be written through
  fs::create_directories(folder + "/a_3.csv");
  EXPECT_EQ(FreePath(folder, "a", "csv"), folder + "/a_4.csv");
  EXPECT_EQ(FreePath(folder, "a", "png"), folder + "/a_1.png");
  EXPECT_EQ(FreePath("/nowhere", "a", "png"), "/nowhere/a_1.png");  // writing says what is wrong
}

TEST(Export, QuotesWhatWouldBreakARow) {
  EXPECT_EQ(CsvText("plain"), "plain");
  EXPECT_EQ(CsvText("a,b"), "\"a,b\"");
  EXPECT_EQ(CsvText("a\"b"), "\"a\"\"b\"");
  EXPECT_EQ(CsvText("a\nb"), "a\\nb");
  EXPECT_EQ(CsvNumber(0.25), "0.25");
  EXPECT_EQ(CsvNumber(std::nan("")), "");
  EXPECT_EQ(std::stof(CsvNumber(0.1f)), 0.1f);
}

TEST(Export, SaysWhyATableCannotBeWritten) {
  EXPECT_THROW(WriteTable("/nowhere/a.csv", "a\n"), Error);
  if (fs::exists("/dev/full")) {
    EXPECT_THROW(WriteTable("/dev/full", std::string(1 << 20, 'a')), Error);
  }
}

TEST(FolderListing, HasFoldersAndHdf5Files) {
  const std::string folder = TempPath("listing");
  fs::remove_all(folder);
  fs::create_directories(folder + "/later");
  fs::create_directories(folder + "/.hidden");
  fs::create_directories(folder + "/folder.h5");
  WriteFile(folder + "/b.kvtrace.h5", "12345");
  WriteFile(folder + "/a.h5", "");
  WriteFile(folder + "/.c.h5", "");
  WriteFile(folder + "/notes.txt", "");
  fs::create_symlink("/nowhere", folder + "/dangling.h5");
  const FolderListing listing = ListFolder(folder);
  EXPECT_EQ(listing.failure, "");
  std::string names;
  for (const FolderEntry& entry : listing.entries) names += entry.name + (entry.is_folder ? "/ " : " ");
  EXPECT_EQ(names, "folder.h5/ later/ a.h5 b.kvtrace.h5 ");
  EXPECT_EQ(listing.entries.back().size_bytes, 5);
  EXPECT_EQ(listing.entries.back().changed.size(), 16u);
}

TEST(FolderListing, SaysWhyAFolderCannotBeRead) {
  for (const std::string& folder : {std::string("/nowhere"), TempPath("file")}) {
    WriteFile(TempPath("file"), "");
    const FolderListing listing = ListFolder(folder);
    EXPECT_TRUE(listing.entries.empty());
    EXPECT_THAT(listing.failure, HasSubstr(folder + ": cannot be read"));
  }
}

}  // namespace
}  // namespace kvscope
