// SPDX-License-Identifier: Apache-2.0
#include "replay/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "core/error.h"
#include "tests/support/replay_fake_results.h"

namespace kvscope {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

std::string FileText(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

// Written into the build folder, so that people can look at it.
TEST(Report, WritesOnePageWithItsPictures) {
  const std::string folder = std::string(KVSCOPE_BINARY_DIR) + "/sample_report";
  std::filesystem::create_directories(folder);
  FakeResultsOptions options;
  options.tokens = 512;
  ReportOptions report;
  report.path = folder + "/report.html";
  const auto pictures = WriteReport({FakeReplay(options), FakeLive(options)}, report);
  EXPECT_GE(pictures.size(), 10u);
  for (const std::string& picture : pictures) {
    EXPECT_THAT(FileText(picture).substr(0, 8), "\x89PNG\r\n\x1a\n") << picture;
    EXPECT_GT(std::filesystem::file_size(picture), 3000u) << picture;
  }
  const std::string html = FileText(report.path);
  for (const char* id :
       {"findings", "table", "quality", "grid", "needle", "relevance", "attention", "fidelity", "repeat"}) {
    EXPECT_THAT(html, HasSubstr("<section id=\"" + std::string(id) + "\">"));
    EXPECT_THAT(html, HasSubstr("<a href=\"#" + std::string(id) + "\">"));
  }
  EXPECT_THAT(html, Not(HasSubstr("<script")));
  EXPECT_THAT(html, Not(HasSubstr("src=")));
  EXPECT_THAT(html, Not(HasSubstr("@import")));
}

}  // namespace
}  // namespace kvscope
