// SPDX-License-Identifier: Apache-2.0
#include "viewer/export.h"

#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "core/error.h"
#include "core/results.h"
#include "core/units.h"

namespace kvscope {

namespace fs = std::filesystem;

std::string FreePath(const std::string& folder, const std::string& stem, const std::string& extension) {
  for (int number = 1;; ++number) {
    const fs::path path = fs::path(folder) / StrCat(stem, "_", number, ".", extension);
    std::error_code failure;
    const fs::file_type type = fs::symlink_status(path, failure).type();
    if (type == fs::file_type::not_found || type == fs::file_type::none)
      return path.string();  // none: writing will say
  }
}

void WriteTable(const std::string& path, const std::string& csv) {
  const bool is_stdout = path == "-";
  std::FILE* file = is_stdout ? stdout : std::fopen(path.c_str(), "wb");
  if (!file) throw Error(StrCat(path, ": cannot be written (", std::strerror(errno), ")"));
  bool is_written = std::fwrite(csv.data(), 1, csv.size(), file) == csv.size();
  is_written = (is_stdout ? std::fflush(file) : std::fclose(file)) == 0 && is_written;
  if (is_written) return;
  const std::string reason = std::strerror(errno);
  if (!is_stdout) std::remove(path.c_str());
  throw Error(StrCat(is_stdout ? "stdout" : path, ": cannot be written (", reason, ")"));
}

std::string CsvText(const std::string& text) {
  return CsvField(Escape(text));
}

std::string CsvNumber(double number) {
  if (std::isnan(number)) return "";
  char text[32];
  std::snprintf(text, sizeof text, "%.9g", number);
  return text;
}

}  // namespace kvscope
