// SPDX-License-Identifier: Apache-2.0
// The traces opened last, kept between runs: one absolute path a line, the newest first.
#pragma once

#include <string>
#include <vector>

namespace kvscope {

class RecentFiles {
 public:
  static constexpr size_t kMost = 10;

  // Reads what was kept. Empty: nothing is kept.
  explicit RecentFiles(std::string path = "");
  // Puts a file first and keeps the list. What another window added meanwhile stays. False: it could not be written.
  bool Add(const std::string& file);
  const std::vector<std::string>& files() const { return files_; }

 private:
  void Read();
  std::string path_;
  std::vector<std::string> files_;
};

// As it is compared and kept: absolute, without "." and "..".
std::string AbsolutePath(const std::string& path);
// Writes a small file whole or not at all.
bool WriteWhole(const std::string& path, const std::string& text);

}  // namespace kvscope
