// SPDX-License-Identifier: Apache-2.0
// What the open dialog shows of a folder: its folders and HDF5 files.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace kvscope {

struct FolderEntry {
  std::string name;
  bool is_folder = false;
  int64_t size_bytes = 0;
  std::string changed;  // local time, "2026-03-01 14:05"
};

struct FolderListing {
  std::vector<FolderEntry> entries;  // folders first, then files, each by name; nothing hidden
  std::string failure;               // one sentence, or empty
};

FolderListing ListFolder(const std::string& folder);

}  // namespace kvscope
