// SPDX-License-Identifier: Apache-2.0
#include "core/results.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <sstream>

#include "core/error.h"

namespace kvscope {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

std::string TempPath(const std::string& name) {
  return testing::TempDir() + "results_test_" + name;
}

std::string FileText(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

TEST(ResultColumns, AreThoseOfTheDesignInItsOrder) {
  // A contract with other people's scripts: this list may only grow at its end.
  const std::string expected =
      "run_id trace model mode device task context depth protocol policy parameters class class_note query_aware "
      "growth "
      "guard_sinks guard_recent keep_fraction_asked kept_fraction kept_tokens compression_ratio full_bytes "
      "kept_bytes_prefill kept_bytes_mean kept_bytes_peak metadata_bytes read_bytes_step host_bytes moved_bytes_step "
      "bits "
      "attention_loss output_error topk_overlap needle_retention needle_weight_ratio needle_bits "
      "needle_first_lost_step "
      "metric metric_value n ci_low ci_high answer_nll answer_rank answer_prefix perplexity kl top1_agreement "
      "tokens_per_s "
      "ttft_s process_peak_bytes device_peak_bytes seed version refused_reason prefill_bytes_peak "
      "engine_flags ";
  std::string found;
  for (const ResultColumn& column : ResultColumns()) found += std::string(column.name) + " ";
  EXPECT_EQ(found, expected);
}

TEST(ResultColumns, AreDocumentedInFormatMd) {
  const std::string text = FileText(std::string(KVSCOPE_SOURCE_DIR) + "/traces/FORMAT.md");
  const std::string begin = "<!-- columns begin -->\n", end = "<!-- columns end -->";
  const size_t from = text.find(begin), to = text.find(end);
  ASSERT_NE(from, std::string::npos);
  ASSERT_NE(to, std::string::npos);
  EXPECT_EQ(text.substr(from + begin.size(), to - from - begin.size()), ResultColumnsMarkdown())
      << "put this table between the markers of traces/FORMAT.md";
}

TEST(ResultRow, KeepsAbsentApartFromZero) {
  ResultRow row;
  row.Set("kl", 0.0);
  EXPECT_EQ(row.Number("kl"), 0.0);
  EXPECT_EQ(row.Number("perplexity"), std::nullopt);
  EXPECT_FALSE(row.Has("perplexity"));
  EXPECT_EQ(row.Text("policy"), "");
  row.Set("policy", "h2o");
  EXPECT_EQ(row.Text("policy"), "h2o");
  row.Set("policy", "");
  EXPECT_FALSE(row.Has("policy"));
}

TEST(ResultRow, RefusesNumbersThatAreNotFinite) {
  ResultRow row;
  EXPECT_THROW(row.Set("kl", std::nan("")), Error);
  EXPECT_THROW(row.Set("kl", std::numeric_limits<double>::infinity()), Error);
  EXPECT_FALSE(row.Has("kl"));
}

TEST(ResultRowDeathTest, TreatsAnUnknownColumnAsABug) {
  ResultRow row;
  EXPECT_DEATH(row.Set("kullback", 1.0), "check failed");
  EXPECT_DEATH(row.Set("policy", 1.0), "check failed");
}

TEST(Csv, QuotesWhatNeedsItAndLeavesAbsentEmpty) {
  Results results;
  results.rows.resize(2);
  results.rows[0].figures.Set("run_id", "a,b \"c\"\nd");
  results.rows[0].figures.Set("context", 2048.0);
  results.rows[0].figures.Set("depth", 0.1);
  results.rows[1].figures.Set("refused_reason", "plain");
  const std::string path = TempPath("quotes.csv");
  WriteCsv(path, results);
  const std::string text = FileText(path);
  EXPECT_THAT(text, StartsWith("run_id,trace,model,"));
  EXPECT_THAT(text, HasSubstr("\r\n\"a,b \"\"c\"\"\nd\",,,,,,2048,0.1,"));
  EXPECT_THAT(text, HasSubstr(",plain,,\r\n"));
  EXPECT_FALSE(std::filesystem::exists(path + ".part"));
}

TEST(Csv, NumbersReadBackToTheSameBits) {
  for (const double value : {0.1, 1.0 / 3, 1e-300, 6.02214076e23, -0.5, 123456789012.0}) {
    Results results;
    results.rows.resize(1);
    results.rows[0].figures.Set("run_id", "x");
    results.rows[0].figures.Set("context", value);
    const std::string path = TempPath("numbers.csv");
    WriteCsv(path, results);
    const std::string text = FileText(path), row = text.substr(text.find("\r\n") + 2);
    EXPECT_EQ(std::stod(row.substr(row.find("x,,,,,,") + 7)), value);
  }
}

TEST(Csv, SaysWhereItCannotWrite) {
  try {
    WriteCsv(TempPath("no_such_folder/x.csv"), Results());
    FAIL() << "expected an Error";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("no_such_folder/x.csv: "));
  }
}

TEST(MergeResults, KeepsRowsOnceAndJoinsTraces) {
  Results first, second;
  first.rows.resize(2);
  first.rows[0].figures.Set("policy", "h2o");
  first.rows[1].figures.Set("policy", "tova");
  first.traces.push_back({"run", "a.h5", {{"model", "m"}}, {{"sink_mass", {"layer", "head"}, {1, 1}, {0.5f}}}});
  first.commands = {"one"};
  second = first;
  second.rows[1].figures.Set("policy", "snapkv");
  second.traces[0].arrays = {{"needle_weight", {"layer", "head"}, {1, 1}, {0.25f}}};
  second.commands = {"one", "two"};
  const Results merged = MergeResults(std::vector<Results>{first, second});
  ASSERT_EQ(merged.rows.size(), 3u);
  EXPECT_EQ(merged.rows[2].figures.Text("policy"), "snapkv");
  ASSERT_EQ(merged.traces.size(), 1u);
  EXPECT_TRUE(merged.traces[0].Find("sink_mass"));
  EXPECT_TRUE(merged.traces[0].Find("needle_weight"));
  EXPECT_EQ(merged.commands, (std::vector<std::string>{"one", "two"}));
}

TEST(WilsonInterval, AgreesWithPublishedValues) {
  // 81 of 263 is the worked example of Newcombe, Statistics in Medicine 17, 1998 (method 3): 0.2553 to 0.3662.
  const Interval worked = WilsonInterval(81, 263);
  EXPECT_NEAR(worked.low, 0.2553, 5e-5);
  EXPECT_NEAR(worked.high, 0.3662, 5e-5);
  const Interval none = WilsonInterval(0, 20), all = WilsonInterval(20, 20);
  EXPECT_EQ(none.low, 0.0);
  EXPECT_NEAR(none.high, 0.1611, 5e-5);
  EXPECT_NEAR(all.low, 1 - none.high, 1e-12);
  EXPECT_EQ(all.high, 1.0);
}

}  // namespace
}  // namespace kvscope
