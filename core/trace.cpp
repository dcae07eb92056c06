// SPDX-License-Identifier: Apache-2.0
#include "core/trace.h"

#include <array>
#include <utility>

namespace kvscope {
namespace {

constexpr std::array<std::pair<TraceLevel, std::string_view>, 4> kLevels{{{TraceLevel::kQkvRows, "qkv+rows"},
                                                                          {TraceLevel::kQkv, "qkv"},
                                                                          {TraceLevel::kRows, "rows"},
                                                                          {TraceLevel::kRelevance, "relevance"}}};

}  // namespace

std::string_view Name(TraceLevel level) {
  for (const auto& [value, name] : kLevels) {
    if (value == level) return name;
  }
  KVSCOPE_CHECK(false);
  return "";
}

std::string_view Name(TraceStatus status) {
  switch (status) {
    case TraceStatus::kRecording:
      return "recording";
    case TraceStatus::kComplete:
      return "complete";
    case TraceStatus::kRecovered:
      return "recovered";
  }
  KVSCOPE_CHECK(false);
  return "";
}

TraceLevel TraceLevelFromName(std::string_view name) {
  for (const auto& [level, known] : kLevels) {
    if (known == name) return level;
  }
  throw Error(StrCat("trace level '", name, "': expected qkv+rows, qkv, rows or relevance"));
}

}  // namespace kvscope
