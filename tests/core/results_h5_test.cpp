// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "core/error.h"
#include "core/h5.h"
#include "core/results.h"

namespace kvscope {
namespace {

using ::testing::HasSubstr;

std::string TempPath(const std::string& name) {
  return testing::TempDir() + "results_h5_test_" + name;
}

Results Small() {
  Results results;
  results.rows.resize(3);
  results.rows[0].figures.Set("policy", "snapkv+ada@int4:window=32");
  results.rows[0].figures.Set("keep_fraction_asked", 0.25);
  results.rows[0].figures.Set("answer_nll", 0.1);
  results.rows[0].arrays.push_back({"kept", {"layer", "kv_head", "token"}, {2, 1, 3}, {0, 1, 1, 1, 0, 0}});
  results.rows[0].arrays.push_back({"attention_loss", {"layer", "head"}, {2, 2}, {0.5f, 0.25f, 0, 1e-9f}});
  results.rows[2].figures.Set("refused_reason", "needs attn_in, which this trace lacks");
  Results::Trace trace{"run-1", "a folder/x.kvtrace.h5", {{"model", "SmolLM2"}, {"needle_begin", "17"}}, {}};
  trace.arrays.push_back({"sink_mass", {"layer", "head"}, {1, 2}, {0.75f, 0.5f}});
  results.traces.push_back(trace);
  results.commands = {"kvscope replay run x.kvtrace.h5 --policy h2o", ""};
  return results;
}

void ExpectSame(const NamedArray& a, const NamedArray& b) {
  EXPECT_EQ(a.name, b.name);
  EXPECT_EQ(a.axes, b.axes);
  EXPECT_EQ(a.shape, b.shape);
  EXPECT_EQ(a.values, b.values);
}

TEST(ResultsFile, ReadsBackWhatWasWritten) {
  const std::string path = TempPath("round.h5");
  const Results written = Small();
  WriteResults(path, written);
  WriteResults(path, written);  // replaces
  const Results read = ReadResults(path);
  ASSERT_EQ(read.rows.size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_TRUE(read.rows[i].figures == written.rows[i].figures) << "row " << i;
    EXPECT_EQ(read.rows[i].arrays.size(), written.rows[i].arrays.size());
  }
  for (const char* name : {"kept", "attention_loss"}) {
    ASSERT_TRUE(read.rows[0].Find(name));
    ExpectSame(*read.rows[0].Find(name), *written.rows[0].Find(name));
  }
  ASSERT_EQ(read.traces.size(), 1u);
  EXPECT_EQ(read.traces[0].run_id, "run-1");
  EXPECT_EQ(read.traces[0].path, "a folder/x.kvtrace.h5");
  EXPECT_EQ(read.traces[0].attributes, written.traces[0].attributes);
  ASSERT_TRUE(read.traces[0].Find("sink_mass"));
  ExpectSame(*read.traces[0].Find("sink_mass"), *written.traces[0].Find("sink_mass"));
  EXPECT_EQ(read.commands, written.commands);
  EXPECT_FALSE(std::filesystem::exists(path + ".part"));
}

TEST(ResultsFile, HoldsAnEmptySweep) {
  const std::string path = TempPath("empty.h5");
  WriteResults(path, Results());
  const Results read = ReadResults(path);
  EXPECT_TRUE(read.rows.empty());
  EXPECT_TRUE(read.traces.empty());
  EXPECT_TRUE(read.commands.empty());
}

TEST(ResultsFile, LeavesNothingWhereItCannotWrite) {
  EXPECT_THROW(WriteResults(TempPath("no_such_folder/x.h5"), Small()), Error);
  const std::string folder = TempPath("is_a_folder");
  std::filesystem::create_directories(folder + "/child");
  EXPECT_THROW(WriteResults(folder, Small()), Error);
  EXPECT_FALSE(std::filesystem::exists(folder + ".part"));
}

std::string WhyRefused(const std::string& path) {
  try {
    ReadResults(path);
  } catch (const Error& error) {
    return error.what();
  }
  return "it was read";
}

TEST(ResultsFile, RefusesOtherFilesInOneSentence) {
  const std::string path = TempPath("other.h5");
  std::filesystem::remove(path);
  EXPECT_THAT(WhyRefused(path), HasSubstr("other.h5"));
  std::ofstream(path) << "policy,kl\r\n";
  EXPECT_THAT(WhyRefused(path), HasSubstr("HDF5"));
  std::filesystem::remove(path);
  h5::File file = h5::File::Create(path);
  file.WriteText("/", "format", "kvscope.trace");
  file.Close();
  EXPECT_THAT(WhyRefused(path), HasSubstr("expected a results file"));
}

TEST(ResultsFile, RefusesCountsBeyondTheFile) {
  const std::string path = TempPath("counts.h5");
  for (const int64_t rows : {int64_t{-1}, int64_t{4}, int64_t{1} << 60}) {
    std::filesystem::remove(path);
    h5::File file = h5::File::Create(path);
    file.WriteText("/", "format", "kvscope.results");
    file.WriteIntegers("/", "version", {1, 0});
    file.WriteInteger("/", "rows", rows);
    file.WriteInteger("/", "traces", 0);
    file.CreateGroup("/column");
    h5::DatasetShape shape;
    shape.type = h5::Type::kF64;
    shape.extents = {uint64_t{1} << 50};  // never allocated, so the file stays small
    file.CreateDataset("/column/context", shape);
    file.Close();
    EXPECT_THAT(WhyRefused(path), HasSubstr("counts.h5:/")) << rows;
  }
}

TEST(ResultsFile, RefusesANewerVersion) {
  const std::string path = TempPath("newer.h5");
  std::filesystem::remove(path);
  h5::File file = h5::File::Create(path);
  file.WriteText("/", "format", "kvscope.results");
  file.WriteIntegers("/", "version", {2, 0});
  file.Close();
  EXPECT_THAT(WhyRefused(path), HasSubstr("update kvscope"));
}

// HDF5 may notice a cut only later than at opening; what matters is one Error and no crash.
TEST(ResultsFile, SurvivesACutAtEveryPercent) {
  const std::string whole = TempPath("whole.h5"), cut = TempPath("cut.h5");
  WriteResults(whole, Small());
  const auto bytes = std::filesystem::file_size(whole);
  for (int percent = 0; percent < 100; ++percent) {
    std::filesystem::copy_file(whole, cut, std::filesystem::copy_options::overwrite_existing);
    std::filesystem::resize_file(cut, bytes * percent / 100);
    EXPECT_THAT(WhyRefused(cut), HasSubstr("cut.h5")) << percent << " %";
  }
}

}  // namespace
}  // namespace kvscope
