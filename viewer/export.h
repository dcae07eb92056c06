// SPDX-License-Identifier: Apache-2.0
// Files that the viewer writes for people: names that are free, fields of tables.
#pragma once

#include <string>

namespace kvscope {

// folder/stem_N.extension with the smallest N from 1 that no file has.
std::string FreePath(const std::string& folder, const std::string& stem, const std::string& extension);
// Writes a file that was not there, or "-": stdout. Throws Error; no half file is left.
void WriteTable(const std::string& path, const std::string& csv);

// A text as one field: quoted where it must be, control characters written out.
std::string CsvText(const std::string& text);
// Nine digits, as a float needs; NaN is an empty field.
std::string CsvNumber(double number);

}  // namespace kvscope
