// SPDX-License-Identifier: Apache-2.0
#include "replay/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
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

FakeResultsOptions Tiny() {
  FakeResultsOptions options;
  options.layers = 4;
  options.heads = 4;
  options.kv_heads = 2;
  options.tokens = 160;
  options.policies = {"full", "random", "h2o", "snapkv", "top_k_oracle"};
  return options;
}

std::string HtmlOf(const std::vector<Results>& inputs) {
  ReportOptions options;
  options.path = testing::TempDir() + "report_test.html";
  options.write_png = false;
  WriteReport(inputs, options);
  return FileText(options.path);
}

Results::Row LiveRow(const char* policy, double value, double n) {
  Results::Row row;
  row.figures.Set("mode", "live");
  row.figures.Set("policy", policy);
  row.figures.Set("task", "niah");
  row.figures.Set("keep_fraction_asked", 0.5);
  row.figures.Set("metric_value", value);
  row.figures.Set("n", n);
  return row;
}

TEST(Report, PrintsNoAccuracyBelowFiveSamples) {
  Results few, enough;
  few.rows = {LiveRow("h2o", 0.75, 4), LiveRow("tova", 0.25, 4)};
  enough.rows = {LiveRow("h2o", 0.8, 5), LiveRow("tova", 0.2, 5)};
  const std::string html_few = HtmlOf({few}), html_enough = HtmlOf({enough});
  EXPECT_THAT(html_few, HasSubstr("<td>3 of 4</td>"));
  EXPECT_THAT(html_few, Not(HasSubstr("75\u00a0%")));
  EXPECT_THAT(html_enough, HasSubstr("80\u00a0% (4/5; 38–96)"));  // Wilson: 0.376 to 0.964
}

TEST(Report, PoolsAccuracyOverTracesByTheirSamples) {
  Results results;
  results.rows = {LiveRow("h2o", 1, 3), LiveRow("h2o", 0, 7), LiveRow("tova", 0.5, 10)};
  results.rows[0].figures.Set("depth", 0.0);
  results.rows[1].figures.Set("depth", 1.0);
  EXPECT_THAT(HtmlOf({results}), HasSubstr("30\u00a0% (3/10;"));
}

TEST(Report, ShowsWhatWasNotMeasuredAsADash) {
  const std::string html = HtmlOf({FakeReplay(Tiny())});
  EXPECT_THAT(html, HasSubstr("No live results were given"));
  EXPECT_THAT(html, HasSubstr("nothing to set side by side"));
  EXPECT_THAT(html, HasSubstr("needs the attention block&#39;s input"));  // the refused row is listed
}

TEST(Report, NamesMissingReferences) {
  Results results;
  results.rows = {LiveRow("h2o", 1, 5), LiveRow("tova", 0, 5)};
  EXPECT_THAT(HtmlOf({results}), HasSubstr("Not run: full, random and an oracle."));
}

TEST(Report, SentencesFollowTheData) {
  Results results;
  results.rows = {LiveRow("h2o", 1, 5), LiveRow("tova", 0, 5), LiveRow("snapkv", 0.4, 5)};
  results.rows[0].figures.Set("answer_nll", 0.5);
  results.rows[1].figures.Set("answer_nll", 7.0);
  results.rows[2].figures.Set("answer_nll", 2.0);
  EXPECT_THAT(HtmlOf({results}),
              HasSubstr("of 3 policies h2o has the lowest answer NLL (0.500 nats), tova the highest (7.00 nats). "
                        "Of 5 needles, h2o answers all; tova answers none."));
  results.rows[0].figures.Set("answer_nll", 9.0);
  results.rows[0].figures.Set("metric_value", 0.0);
  EXPECT_THAT(HtmlOf({results}),
              HasSubstr("of 3 policies snapkv has the lowest answer NLL (2.00 nats), h2o the highest (9.00 nats). "
                        "Of 5 needles, none of them answers all; h2o and tova answer none."));
}

TEST(Report, EscapesNamesFromFiles) {
  Results results = FakeReplay(Tiny());
  for (Results::Row& row : results.rows) {
    if (row.figures.Text("policy") == "h2o") row.figures.Set("policy", "<script>alert('h2o')</script>\xff");
    row.figures.Set("model", "a & b </title>");
  }
  results.commands.push_back("</pre><img src=x>");
  const std::string html = HtmlOf({results});
  EXPECT_THAT(html, Not(HasSubstr("<script")));
  EXPECT_THAT(html, Not(HasSubstr("<img")));
  EXPECT_THAT(html, HasSubstr("&lt;script&gt;"));
}

// A results file may hold arrays of any shape under any name; none of them may stop the report.
TEST(Report, SurvivesArraysOfOtherShapes) {
  for (const std::vector<int64_t>& shape :
       std::vector<std::vector<int64_t>>{{0}, {3}, {0, 2}, {2, 3}, {1, 1, 1}, {2, 0, 4}, {1, 2, 1, 1}}) {
    int64_t size = 1;
    for (const int64_t extent : shape) size *= extent;
    Results replay = FakeReplay(Tiny()), live = FakeLive(Tiny());
    const auto spoil = [&](NamedArray& array) {
      array.shape = shape;
      array.axes.assign(shape.size(), "x");
      array.values.assign(static_cast<size_t>(size), NAN);
    };
    for (Results* results : {&replay, &live}) {
      for (Results::Row& row : results->rows) {
        for (NamedArray& array : row.arrays) spoil(array);
      }
      for (Results::Trace& trace : results->traces) {
        for (NamedArray& array : trace.arrays) spoil(array);
        for (auto& [name, value] : trace.attributes) value = "nan";
      }
    }
    EXPECT_THAT(HtmlOf({replay, live}), HasSubstr("</html>"));
  }
}

TEST(Report, SurvivesFiguresOutOfRange) {
  Results results = FakeLive(Tiny());
  for (Results::Row& row : results.rows) {
    row.figures.Set("metric_value", -3.0);
    row.figures.Set("n", -1.0);
    row.figures.Set("kept_bytes_mean", -1e300);
    row.figures.Set("answer_nll", 1e300);
    row.figures.Set("kl", -1e-300);
    row.figures.Set("depth", 1e18);
    row.figures.Set("context", -5.5);
  }
  EXPECT_THAT(HtmlOf({results}), HasSubstr("</html>"));
}

TEST(Report, SaysWhatIsMissing) {
  ReportOptions options;
  options.path = testing::TempDir() + "report_test_none.html";
  EXPECT_THROW(WriteReport({Results()}, options), Error);
  EXPECT_FALSE(std::filesystem::exists(options.path));
  options.path = testing::TempDir() + "no_such_folder/report.html";
  options.write_png = false;
  EXPECT_THROW(WriteReport({FakeReplay(Tiny())}, options), Error);
}

}  // namespace
}  // namespace kvscope
