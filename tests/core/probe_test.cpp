// SPDX-License-Identifier: Apache-2.0
#include "core/probe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include "core/error.h"
#include "core/results.h"
#include "tests/support/core_files.h"

namespace kvscope {
namespace {

using testing::HasSubstr;

std::string WhyNot(const std::function<void()>& read, double timeout_secs = 20) {
  try {
    ProbeInChild("a.h5", read, timeout_secs);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(Probe, RepeatsWhatTheChildSaid) {
  EXPECT_EQ(WhyNot([] {}), "");
  EXPECT_EQ(WhyNot([] { throw Error("a.h5: expected more"); }), "a.h5: expected more");
}

TEST(Probe, OutlivesACrashAndAHang) {
  EXPECT_THAT(WhyNot([] { raise(SIGSEGV); }), HasSubstr("crashes"));
  EXPECT_THAT(WhyNot([] { sleep(30); }, 1), HasSubstr("longer than 1 s"));
}

TEST(Probe, KnowsResultsByWhatIsInThem) {
  Results results;
  results.rows.emplace_back().figures.Set("policy", "snapkv");
  const std::string path = TempPath("results.kvtrace.h5"), text = TempPath("text.h5");
  WriteResults(path, results);
  WriteFile(text, "kvscope.results");
  EXPECT_TRUE(SaysResultsInChild(path));
  EXPECT_FALSE(SaysResultsInChild(text));
  EXPECT_FALSE(SaysResultsInChild(TempPath("missing.h5")));
  EXPECT_FALSE(SaysResultsInChild(KVSCOPE_SOURCE_DIR "/traces/needle_512.kvtrace.h5"));
}

TEST(Probe, ResultsAreReadWithoutTheirEntries) {
  Results results;
  results.rows.emplace_back().figures.Set("policy", "snapkv");
  results.rows[0].arrays = {{"kept", {"token"}, {2}, {0, 1}}, {"needle_bits", {"layer"}, {1}, {4}}};
  const std::string path = TempPath("entries.h5");
  WriteResults(path, results);
  EXPECT_TRUE(ReadResults(path).rows[0].Find("kept"));
  const Results small = ReadResults(path, ReadEntries::kNone);
  EXPECT_FALSE(small.rows[0].Find("kept"));
  EXPECT_TRUE(small.rows[0].Find("needle_bits"));
}

}  // namespace
}  // namespace kvscope
