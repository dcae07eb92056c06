// SPDX-License-Identifier: Apache-2.0
#include "viewer/folder_listing.h"

#include <sys/stat.h>

#include <algorithm>
#include <ctime>
#include <filesystem>
#include <tuple>

#include "core/error.h"

namespace kvscope {

namespace fs = std::filesystem;

FolderListing ListFolder(const std::string& folder) {
  FolderListing listing;
  std::error_code failure;
  fs::directory_iterator entry(folder, failure);
  for (; !failure && entry != fs::directory_iterator(); entry.increment(failure)) {
    const std::string name = entry->path().filename().string();
    struct stat status {};
    if (name.starts_with(".") || stat(entry->path().c_str(), &status) != 0) continue;
    const bool is_folder = S_ISDIR(status.st_mode);
    if (!is_folder && !(S_ISREG(status.st_mode) && name.ends_with(".h5"))) continue;
    char changed[32] = "";
    std::tm local{};
    if (localtime_r(&status.st_mtime, &local)) std::strftime(changed, sizeof changed, "%Y-%m-%d %H:%M", &local);
    listing.entries.push_back({name, is_folder, int64_t{status.st_size}, changed});
  }
  if (failure) listing.failure = StrCat(folder, ": cannot be read (", failure.message(), "); choose another folder");
  std::ranges::sort(listing.entries, {}, [](const FolderEntry& one) { return std::tuple(!one.is_folder, one.name); });
  return listing;
}

}  // namespace kvscope
