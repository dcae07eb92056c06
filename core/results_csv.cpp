// SPDX-License-Identifier: Apache-2.0
// Results as CSV (RFC 4180): one header line, CRLF, quotes doubled, an empty field for what was not measured.
#include <charconv>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iostream>

#include "core/error.h"
#include "core/results.h"

namespace kvscope {
namespace {

// Shortest text that reads back to the same double; integers up to 2^53 without an exponent.
std::string NumberText(double value) {
  char buffer[64];
  const bool is_integer =
      value == static_cast<double>(static_cast<int64_t>(value < 9e15 && value > -9e15 ? value : 0.5));
  const auto end = is_integer ? std::to_chars(buffer, buffer + sizeof buffer, static_cast<int64_t>(value))
                              : std::to_chars(buffer, buffer + sizeof buffer, value);
  return {buffer, end.ptr};
}

void WriteTo(std::ostream& out, const Results& results) {
  const char* separator = "";
  for (const ResultColumn& column : ResultColumns()) {
    out << separator << column.name;
    separator = ",";
  }
  out << "\r\n";
  for (const Results::Row& row : results.rows) {
    separator = "";
    for (const ResultColumn& column : ResultColumns()) {
      out << separator;
      separator = ",";
      if (!row.figures.Has(column.name)) continue;
      out << (column.is_text ? CsvField(row.figures.Text(column.name)) : NumberText(*row.figures.Number(column.name)));
    }
    out << "\r\n";
  }
  out.flush();
}

}  // namespace

std::string CsvField(const std::string& text) {
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"') quoted += '"';
    quoted += c;
  }
  return quoted + '"';
}

void WriteCsv(const std::string& path, const Results& results) {
  if (path == "-") {
    WriteTo(std::cout, results);
    return;
  }
  const std::string temporary = path + ".part";
  {
    std::ofstream out(temporary, std::ios::binary);
    if (!out)
      throw Error(StrCat(path, ": expected a folder that can be written to; check the path and its permissions"));
    WriteTo(out, results);
    if (!out) {
      out.close();
      std::remove(temporary.c_str());
      throw Error(StrCat(path, ": writing failed; the disk may be full"));
    }
  }
  std::error_code failure;
  std::filesystem::rename(temporary, path, failure);
  if (failure) {
    std::remove(temporary.c_str());
    throw Error(StrCat(path, ": expected to replace it, found: ", failure.message()));
  }
}

}  // namespace kvscope
