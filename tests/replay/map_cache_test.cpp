// SPDX-License-Identifier: Apache-2.0
#include "replay/map_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "core/error.h"
#include "core/sha256.h"
#include "tests/support/core_files.h"

namespace kvscope {
namespace {

namespace fs = std::filesystem;

constexpr MapWindow kWindow{0, 90, 0, 90};

// Causal, with a row that nobody stored.
std::shared_ptr<const WeightCells> MakeMap(int rows = 30, int columns = 45) {
  WeightCells map{kWindow, rows, columns, {}};
  for (int row = 0; row < rows; ++row) {
    for (int column = 0; column < columns; ++column) {
      const bool is_seen = map.TokenBegin(column) <= map.QueryBegin(row) && row != 7;
      map.cells.push_back(is_seen ? 1.0f / static_cast<float>(1 + row + column) : WeightCells::kNoWeight);
    }
  }
  return std::make_shared<const WeightCells>(map);
}

// A path of a trace with no maps beside it.
std::string Trace(const std::string& name) {
  const std::string path = TempPath(name);
  fs::remove_all(path + ".maps");
  return path;
}

bool Finds(const std::string& trace, const std::string& identity, const WeightCells& map, int head = 3) {
  const auto found = MapCache(trace, identity).Find(2, head, map.window, map.rows, map.columns);
  if (found) {
    EXPECT_EQ(*found, map);
  }
  return found != nullptr;
}

TEST(MapCache, KeepsMapsInMemoryAndLongOnesInFiles) {
  const std::string trace = Trace("kept");
  const auto map = MakeMap();
  MapCache cache(trace, "run");
  EXPECT_EQ(cache.Find(2, 3, kWindow, 30, 45), nullptr);
  cache.Keep(2, 3, map, false);
  EXPECT_EQ(cache.Find(2, 3, kWindow, 30, 45), map);
  EXPECT_FALSE(fs::exists(trace + ".maps")) << "not worth a file";
  EXPECT_FALSE(Finds(trace, "run", *map));
  cache.Keep(2, 3, map, true);
  EXPECT_TRUE(Finds(trace, "run", *map));
  const std::string file = trace + ".maps/layer-2-head-3.map";
  EXPECT_LT(fs::file_size(file), 30 * 45 * 4u) << "what no query sees takes no room";
  EXPECT_FALSE(Finds(trace, "run", *map, 4));
  EXPECT_FALSE(Finds(trace, "run", *MakeMap(30, 44)));
  EXPECT_FALSE(Finds(trace, "another run", *map)) << "recorded again";
  MapCache(trace, "another run").Keep(2, 3, map, true);
  EXPECT_TRUE(Finds(trace, "another run", *map)) << "and written anew";
  EXPECT_EQ(std::distance(fs::directory_iterator(trace + ".maps"), {}), 1) << "no parts are left";
}

TEST(MapCache, IgnoresAFileThatIsDamagedAnywhere) {
  const std::string trace = Trace("damaged"), file = trace + ".maps/layer-2-head-3.map";
  const auto map = MakeMap();
  MapCache(trace, "run").Keep(2, 3, map, true);
  const std::string whole = ReadFile(file);
  for (size_t i = 0; i < whole.size(); ++i) {
    std::string changed = whole;
    changed[i] = static_cast<char>(changed[i] ^ (1 << i % 8));
    WriteFile(file, changed);
    ASSERT_FALSE(Finds(trace, "run", *map)) << "byte " << i;
  }
  for (size_t length = 0; length < whole.size(); length += 7) {
    WriteFile(file, whole.substr(0, length));
    ASSERT_FALSE(Finds(trace, "run", *map)) << length << " bytes";
  }
  WriteFile(file, whole + "x");
  EXPECT_FALSE(Finds(trace, "run", *map));
  WriteFile(file, whole);
  EXPECT_TRUE(Finds(trace, "run", *map));
}

// With a checksum that holds: whoever makes such a file can compute it.
TEST(MapCache, IgnoresAFileMadeToHarm) {
  const std::string trace = Trace("harm"), file = trace + ".maps/layer-2-head-3.map";
  const auto map = MakeMap();
  MapCache(trace, "run").Keep(2, 3, map, true);
  const std::string whole = ReadFile(file), body = whole.substr(0, whole.size() - 64);
  const auto write = [&](size_t at, const std::string& bytes) {
    std::string changed = body;
    changed.replace(at, bytes.size(), bytes);
    WriteFile(file, changed + HexSha256(std::as_bytes(std::span(changed))));
    return Finds(trace, "run", *map);
  };
  const size_t first_row = 8 + 64 + 32;
  EXPECT_TRUE(write(0, ""));
  EXPECT_FALSE(write(first_row, "\xff\xff\xff\xff")) << "more cells than a row has";
  EXPECT_FALSE(write(first_row, std::string("\0\0\0\0", 4))) << "cells that belong to no row";
  EXPECT_FALSE(write(first_row + 4, std::string("\0\0\xc0\x7f", 4))) << "not a number";
  EXPECT_FALSE(write(first_row + 4, std::string("\0\0\x80\x7f", 4))) << "infinite";
  EXPECT_FALSE(write(first_row + 4, std::string("\0\0\0\xc0", 4))) << "-2";
  fs::remove(file);
  fs::create_symlink("/dev/zero", file);
  EXPECT_FALSE(Finds(trace, "run", *map));
  MapCache(trace, "run").Keep(2, 3, map, true);
  EXPECT_TRUE(Finds(trace, "run", *map)) << "the link was replaced, not followed";
  EXPECT_FALSE(fs::is_symlink(file));
}

TEST(MapCache, WritesThroughNoLink) {
  const std::string trace = Trace("linked"), elsewhere = TempPath("elsewhere");
  fs::remove_all(elsewhere);
  fs::create_directory(elsewhere);
  fs::create_directory_symlink(elsewhere, trace + ".maps");
  MapCache(trace, "run").Keep(2, 3, MakeMap(), true);
  EXPECT_TRUE(fs::is_empty(elsewhere));
  fs::remove(trace + ".maps");
}

TEST(MapCache, StaysInMemoryWhereNothingCanBeWritten) {
  const std::string folder = TempPath("read_only_maps");
  fs::create_directories(folder);
  // Root may write where permissions say no, but not on a read-only file system.
  const bool is_root = geteuid() == 0;
  if (is_root && mount("tmpfs", folder.c_str(), "tmpfs", MS_RDONLY, "size=64k") != 0) GTEST_SKIP() << "cannot mount";
  if (!is_root) chmod(folder.c_str(), 0555);
  const auto map = MakeMap();
  MapCache cache(folder + "/trace", "run");
  cache.Keep(2, 3, map, true);
  EXPECT_EQ(cache.Find(2, 3, kWindow, 30, 45), map);
  EXPECT_FALSE(Finds(folder + "/trace", "run", *map));
  EXPECT_TRUE(fs::is_empty(folder));
  if (is_root) {
    EXPECT_EQ(umount(folder.c_str()), 0);
  }
}

TEST(MapCache, ForgetsWhatWasNotUsedForLongest) {
  const std::string trace = Trace("full"), folder = trace + ".maps";
  const auto map = MakeMap();
  MapCache(trace, "run").Keep(2, 3, map, true);
  MapCache(trace, "run").Keep(2, 4, map, true);
  // Old ones fill the folder; sparse, they take no room on the disk.
  WriteFile(folder + "/layer-0-head-0.map", "");
  fs::resize_file(folder + "/layer-0-head-0.map", MapCache::kMostFileBytes - 3000);
  WriteFile(folder + "/notes.txt", "not ours");
  const auto age = [&](const char* name, int hours) {
    fs::last_write_time(folder + name, fs::file_time_type::clock::now() - std::chrono::hours(hours));
  };
  age("/layer-2-head-3.map", 3), age("/layer-0-head-0.map", 2), age("/layer-2-head-4.map", 1), age("/notes.txt", 9);
  EXPECT_TRUE(Finds(trace, "run", *map, 3)) << "used: now it is the newest";
  MapCache(trace, "run").Keep(2, 5, map, true);
  EXPECT_FALSE(fs::exists(folder + "/layer-0-head-0.map"));
  for (const char* name : {"/layer-2-head-3.map", "/layer-2-head-4.map", "/layer-2-head-5.map", "/notes.txt"})
    EXPECT_TRUE(fs::exists(folder + name)) << name;
  fs::remove_all(folder);
}

TEST(MapCache, BoundsMemory) {
  const std::string trace = Trace("bounded");
  MapCache cache(trace, "run");
  const auto map = std::make_shared<const WeightCells>(
      WeightCells{kWindow, 1000, 4000, std::vector<float>(4'000'000, 0.5f)});  // 16 MB
  for (int head = 0; head < 6; ++head) cache.Keep(0, head, map, false);
  int kept = 0;
  for (int head = 0; head < 6; ++head) kept += cache.Find(0, head, kWindow, 1000, 4000) != nullptr;
  EXPECT_EQ(kept, 4);
  EXPECT_NE(cache.Find(0, 5, kWindow, 1000, 4000), nullptr) << "the newest";
}

}  // namespace
}  // namespace kvscope
