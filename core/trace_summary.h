// SPDX-License-Identifier: Apache-2.0
// What `kvscope info` and `kvscope verify` say about a trace, for people and for programs.
#pragma once

#include <string>
#include <vector>

#include "core/trace_reader.h"

namespace kvscope {

// One line or more under a heading; the first says which file and in what state.
struct SummaryLine {
  std::string heading, text;
};
std::vector<SummaryLine> SummaryLines(const std::string& path, const TraceReader& trace);
std::string SummaryText(const std::string& path, const TraceReader& trace);
std::string SummaryJson(const std::string& path, const TraceReader& trace);
std::string VerifyText(const std::string& path, const TraceReader& trace, const VerifyResult& result);
std::string VerifyJson(const std::string& path, const VerifyResult& result);

}  // namespace kvscope
