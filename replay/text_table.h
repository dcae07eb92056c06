// SPDX-License-Identifier: Apache-2.0
// Tables for the terminal: columns aligned by what people see, numbers to the right.
#pragma once

#include <string>
#include <vector>

#include "core/results.h"

namespace kvscope {

// rows[0] is the header, set off by a rule. The first `left_columns` are flush left, the others flush right.
std::string AlignedTable(const std::vector<std::vector<std::string>>& rows, size_t left_columns = 1);

// What a demo prints at its end: policy, kept, live accuracy (n), answer NLL, replay attention loss, needle retention,
// KV bytes. Replay and live rows of one policy share a line; an accuracy with n < 5 shows as a count only.
std::string SummaryTable(const Results& results);

// "2 of 18 rows were refused, the first: fastkv: ...", or empty.
std::string RefusalText(const Results& results);

}  // namespace kvscope
