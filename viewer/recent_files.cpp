// SPDX-License-Identifier: Apache-2.0
#include "viewer/recent_files.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "core/error.h"

namespace kvscope {

namespace fs = std::filesystem;

std::string AbsolutePath(const std::string& path) {
  std::error_code failure;
  const fs::path absolute = fs::absolute(path, failure);
  return failure ? path : absolute.lexically_normal().string();
}

bool WriteWhole(const std::string& path, const std::string& text) {
  const std::string part = StrCat(path, ".", getpid());
  std::ofstream file(part, std::ios::binary | std::ios::trunc);
  file << text;
  file.close();
  std::error_code failure;
  if (file) fs::rename(part, path, failure);
  if (file && !failure) return true;
  fs::remove(part, failure);
  return false;
}

RecentFiles::RecentFiles(std::string path) : path_(std::move(path)) {
  Read();
}

void RecentFiles::Read() {
  if (path_.empty()) return;
  std::ifstream file(path_);
  if (!file) return;
  files_.clear();
  for (std::string line; files_.size() < kMost && std::getline(file, line);) {
    if (!line.empty() && std::ranges::find(files_, line) == files_.end()) files_.push_back(line);
  }
}

bool RecentFiles::Add(const std::string& file) {
  Read();
  const std::string absolute = AbsolutePath(file);
  if (absolute.find('\n') != std::string::npos) return true;  // a line is a path
  std::erase(files_, absolute);
  files_.insert(files_.begin(), absolute);
  if (files_.size() > kMost) files_.resize(kMost);
  std::string text;
  for (const std::string& one : files_) text += one + "\n";
  return path_.empty() || WriteWhole(path_, text);
}

}  // namespace kvscope
