// SPDX-License-Identifier: Apache-2.0
// traces/FORMAT.md and the writer name the same objects, and its example runs.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <regex>
#include <set>
#include <sstream>

#include "core/h5.h"
#include "tests/support/core_files.h"
#include "tests/support/core_tiny_trace.h"

namespace kvscope {
namespace {

std::string FormatPage() {
  return ReadFile(std::string(KVSCOPE_SOURCE_DIR) + "/traces/FORMAT.md");
}

TEST(TraceFormat, PageListsExactlyWhatTheWriterMakes) {
  const std::string path = TempPath("format.kvtrace.h5");
  std::set<std::string> written, documented;
  // Every level holds a part of the objects; the page marks those of level relevance.
  for (const TraceLevel level : {TraceLevel::kQkvRows, TraceLevel::kRelevance}) {
    WriteTinyTrace(path, {.layers = 12, .level = level});
    for (std::string name : h5::File::OpenToRead(path).ListAll()) {
      name = std::regex_replace(name, std::regex("^/layer/[0-9]{2,}"), "/layer/NN");
      const bool is_column = name.find("/column_") != std::string::npos;
      EXPECT_FALSE(is_column && level != TraceLevel::kRelevance) << name;
      EXPECT_FALSE(name == "/layer/NN/k" && level == TraceLevel::kRelevance);
      written.insert(std::regex_replace(name, std::regex("^/rope/default"), "/rope/SET"));
    }
  }
  std::istringstream page(FormatPage());
  const std::regex row("^\\| `(/[^`]*)` \\|.*");
  std::smatch match;
  for (std::string line; std::getline(page, line);) {
    if (!std::regex_match(line, match, row)) continue;
    EXPECT_TRUE(documented.insert(match[1]).second) << match[1] << " is listed twice";
  }
  EXPECT_EQ(documented, written);
}

TEST(TraceFormat, ExampleOfThePageReadsATrace) {
  const std::string path = TempPath("example.kvtrace.h5"), page = FormatPage(), fence = "```python\n";
  WriteTinyTrace(path, {.layers = 3, .tokens = 30});
  const size_t begin = page.find(fence) + fence.size();
  const CommandResult result = RunPython(page.substr(begin, page.find("```", begin) - begin), path);
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_THAT(result.output, testing::StartsWith("tiny 34 tokens, 30 of them prompt\nlayer 00:"));
  EXPECT_THAT(result.output, testing::Not(testing::HasSubstr("BAD")));
  EXPECT_EQ(std::count(result.output.begin(), result.output.end(), '\n'), 4);
}

TEST(TraceFormat, SecondReaderAgrees) {
  const std::string path = TempPath("second.kvtrace.h5");
  WriteTinyTrace(path, {.layers = 2, .heads = 6, .kv_heads = 3, .tokens = 30});
  const CommandResult result =
      RunCommand("/usr/bin/python3 " KVSCOPE_SOURCE_DIR "/tests/python/read_trace_test.py " + path);
  EXPECT_EQ(result.exit_code, 0) << result.output;
}

}  // namespace
}  // namespace kvscope
