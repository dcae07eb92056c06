// SPDX-License-Identifier: Apache-2.0
// Traces made to harm: a sound one with one change that breaks a rule of traces/FORMAT.md.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "tests/support/core_tiny_trace.h"

namespace kvscope {

struct HarmCase {
  const char* edit;      // in Python; f is the open file
  const char* expected;  // of what the error says
};

// For traces of 40 + 5 tokens, two layers, two heads of one KV head and 8 channels: of level qkv+rows, of level
// relevance.
std::span<const HarmCase> HarmCases();
std::span<const HarmCase> ColumnHarmCases();

// One file a case, in order. Empty when Python failed.
std::vector<std::string> WriteHarmedTraces(const TinyShape& shape, std::span<const HarmCase> cases);

}  // namespace kvscope
