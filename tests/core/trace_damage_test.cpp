// SPDX-License-Identifier: Apache-2.0
// Files that are cut, changed or made to harm: an Error that says what is wrong, or a trace that can be read; no crash.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <random>
#include <span>

#include "core/probe.h"
#include "core/trace_reader.h"
#include "core/trace_writer.h"
#include "tests/support/core_files.h"
#include "tests/support/core_harmed_traces.h"
#include "tests/support/core_tiny_trace.h"

namespace kvscope {
namespace {

using testing::AllOf;
using testing::HasSubstr;

const TinyShape kShape{.layers = 2, .heads = 2, .kv_heads = 1, .head_dim = 8, .tokens = 40, .steps = 5};

void ReadEverything(const TraceReader& trace) {
  for (int layer = 0; layer < static_cast<int>(trace.info().layers.size()); ++layer) {
    const LayerInfo& info = trace.info().layers[layer];
    for (int i = 0; !trace.HasColumns() && i < static_cast<int>(info.kv_heads.size()); ++i) trace.ReadKvHead(layer, i);
    if (trace.HasColumns()) trace.ReadColumnStatistics(layer);
    for (int i = 0; trace.HasRows() && i < static_cast<int>(info.heads.size()); ++i) trace.ReadRows(layer, i);
  }
  VerifyTrace(trace);
}

// The text of the Error, or "" when everything could be read.
std::string ErrorOf(const std::string& path) {
  try {
    ProbeTraceInChild(path, 20);
    ReadEverything(*TraceReader::Open(path));
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr(path));
    return error.what();
  }
  return "";
}

TEST(TraceReader, RefusesAFileThatWasCutShort) {
  const std::string whole = TempPath("whole.kvtrace.h5"), cut = TempPath("cut.kvtrace.h5");
  WriteTinyTrace(whole, kShape);
  const std::string bytes = ReadFile(whole);
  ASSERT_EQ(ErrorOf(whole), "");
  for (int percent = 0; percent < 100; ++percent) {
    WriteFile(cut, bytes.substr(0, bytes.size() * percent / 100));
    EXPECT_NE(ErrorOf(cut), "") << percent << " %";
  }
}

TEST(TraceReader, SurvivesChangedBytes) {
  const std::string whole = TempPath("whole.kvtrace.h5"), changed = TempPath("changed.kvtrace.h5");
  WriteTinyTrace(whole, kShape);
  const std::string bytes = ReadFile(whole);
  std::mt19937 random(11);
  int num_refused = 0, num_crashed = 0;
  for (int i = 0; i < 250; ++i) {
    std::string copy = bytes;
    // Half of them in the first part, where most of the structure lies.
    const size_t range = i % 2 ? copy.size() : copy.size() / 8;
    for (int j = 0; j <= i % 3; ++j) copy[random() % range] = static_cast<char>(random());
    WriteFile(changed, copy);
    const std::string error = ErrorOf(changed);
    num_refused += !error.empty();
    num_crashed += error.find("crashes HDF5") != std::string::npos;
  }
  EXPECT_GT(num_refused, 20) << "metadata has checksums";
  RecordProperty("crashed_in_child", num_crashed);
}

void ExpectRefusals(const TinyShape& shape, std::span<const HarmCase> cases) {
  const std::vector<std::string> paths = WriteHarmedTraces(shape, cases);
  ASSERT_EQ(paths.size(), cases.size());
  for (size_t i = 0; i < cases.size(); ++i)
    EXPECT_THAT(ErrorOf(paths[i]), HasSubstr(cases[i].expected)) << cases[i].edit;
}

TEST(TraceReader, SaysWhatIsWrongWithAFileMadeToHarm) {
  ExpectRefusals(kShape, HarmCases());
}

TEST(TraceReader, SaysWhatIsWrongWithColumnStatistics) {
  TinyShape shape = kShape;
  shape.level = TraceLevel::kRelevance;
  ExpectRefusals(shape, ColumnHarmCases());
}

TEST(TraceReader, ReadsATraceThatAnotherProgramCompressed) {
  const std::string path = TempPath("compressed.kvtrace.h5");
  WriteTinyTrace(path, kShape);
  const CommandResult python = RunPython(R"(
import sys, h5py
with h5py.File(sys.argv[1], 'r+') as f:
    for name in 'qkv':
        data = f['layer/00/' + name][...]
        del f['layer/00/' + name]
        f.create_dataset('layer/00/' + name, data=data, compression='gzip', shuffle=True, chunks=(1, 16, 8))
)",
                                         path);
  ASSERT_EQ(python.exit_code, 0) << python.output;
  ProbeTraceInChild(path);
  EXPECT_TRUE(VerifyTrace(*TraceReader::Open(path)).ok);
}

TEST(TraceReader, NamesTheFileThatIsMissingOrNoTrace) {
  EXPECT_THAT(ErrorOf("/no/such/file"), HasSubstr("No such file"));
  EXPECT_THAT(ErrorOf("/tmp"), HasSubstr("expected a file"));
  EXPECT_THAT(ErrorOf("/dev/zero"), HasSubstr("expected a file"));
  const std::string path = TempPath("text.kvtrace.h5");
  WriteFile(path, std::string(5000, 'x'));
  EXPECT_THAT(ErrorOf(path), HasSubstr("not an HDF5 file"));
}

TEST(TraceVerify, FindsAChangedColumn) {
  const std::string path = TempPath("changed_column.kvtrace.h5");
  TinyShape shape = kShape;
  shape.level = TraceLevel::kRelevance;
  for (const char* edit : {"f['layer/01/column_sum'][1, 20] += 0.01", "f['layer/01/column_max'][0, 3] = 1.01"}) {
    WriteTinyTrace(path, shape);
    EXPECT_TRUE(VerifyTrace(*TraceReader::Open(path)).ok);
    const CommandResult python =
        RunPython(StrCat("import sys, h5py\nwith h5py.File(sys.argv[1], 'r+') as f:\n    ", edit, "\n"), path);
    ASSERT_EQ(python.exit_code, 0) << python.output;
    const VerifyResult result = VerifyTrace(*TraceReader::Open(path));
    EXPECT_FALSE(result.ok) << edit;
    EXPECT_THAT(result.worst_place, HasSubstr("layer 1, head")) << edit;
  }
}

TEST(TraceVerify, FindsAChangedRowAndAChangedKey) {
  const std::string path = TempPath("changed.kvtrace.h5");
  const char* edits[] = {"f['layer/01/rows'][1, 2, 20] += 0.01", "f['layer/01/k'][0, 20, :] *= 1.1",
                         "f['layer/01/lse'][1, 42] = float('nan')"};
  for (const char* edit : edits) {
    WriteTinyTrace(path, kShape);
    EXPECT_TRUE(VerifyTrace(*TraceReader::Open(path)).ok);
    const CommandResult python =
        RunPython(StrCat("import sys, h5py\nwith h5py.File(sys.argv[1], 'r+') as f:\n    ", edit, "\n"), path);
    ASSERT_EQ(python.exit_code, 0) << python.output;
    const VerifyResult result = VerifyTrace(*TraceReader::Open(path));
    EXPECT_FALSE(result.ok) << edit;
    EXPECT_THAT(result.worst_place, HasSubstr("layer 1, head")) << edit;
  }
}

// What a window hides and a soft cap bends is checked too.
TEST(TraceVerify, HoldsRowsAgainstTheWindowAndTheSoftCap) {
  const std::string path = TempPath("changed_rule.kvtrace.h5");
  TinyShape shape = kShape;
  shape.window = 9, shape.softcap = 2, shape.dtype = DType::kF32;
  const std::pair<const char*, bool> edits[] = {
      {"pass", true},
      {"f['layer/01/k'][0, :20, :] *= 7.0", false},      // in sight of the first rows
      {"f['layer/01/rows'][1, 2, 33] = 0.01", false},    // row 42 sees tokens from 34 on
      {"f['layer/01'].attrs['window'] = 10", false},     // it is said to see one more than it did
      {"f['layer/01'].attrs['window'] = 8", false},      // ... one fewer
      {"f['layer/00'].attrs['softcap'] = 2.2", false},   // as lse and rows knew it: 2
      {"f['layer/00'].attrs['softcap'] = 0.0", false}};  // none
  for (const auto& [edit, is_right] : edits) {
    WriteTinyTrace(path, shape);
    const CommandResult python =
        RunPython(StrCat("import sys, h5py\nwith h5py.File(sys.argv[1], 'r+') as f:\n    ", edit, "\n"), path);
    ASSERT_EQ(python.exit_code, 0) << python.output;
    EXPECT_EQ(VerifyTrace(*TraceReader::Open(path)).ok, is_right) << edit;
  }
  // Keys that left the window of every recorded step may be anything, and so may those rows that saw them be checked by
  // their sums alone.
  shape.query_rows = "last:1";
  WriteTinyTrace(path, shape);
  const CommandResult python = RunPython(
      "import sys, h5py\nwith h5py.File(sys.argv[1], 'r+') as f:\n    f['layer/01/k'][0, :20, :] *= 7.0\n", path);
  ASSERT_EQ(python.exit_code, 0) << python.output;
  EXPECT_TRUE(VerifyTrace(*TraceReader::Open(path)).ok) << "no stored query sees them";
}

std::string WriterError(const std::string& path, TraceWriter::Options options = {}) {
  try {
    TraceWriter writer(path, MakeTinyRun(kShape).info, options);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(TraceWriter, RefusesAFileThatExistsUnlessToldToOverwrite) {
  const std::string path = TempPath("exists.kvtrace.h5");
  WriteFile(path, "precious");
  EXPECT_THAT(WriterError(path), AllOf(HasSubstr("exists.kvtrace.h5"), HasSubstr("exists already")));
  EXPECT_EQ(ReadFile(path), "precious");
  EXPECT_EQ(WriterError(path, {.flush_interval_secs = 1, .overwrite = true}), "");
  EXPECT_EQ(TraceReader::Open(path)->status(), TraceStatus::kRecording) << "never finished";
}

TEST(TraceWriter, SaysThatAFolderIsMissingOrReadOnly) {
  EXPECT_THAT(WriterError("/no/such/folder/x.kvtrace.h5"), HasSubstr("does not exist"));
  EXPECT_THAT(WriterError("/tmp"), HasSubstr("is a folder"));
  const std::string folder = TempPath("read_only");
  std::filesystem::create_directories(folder);
  // Root may write where permissions say no, but not on a read-only file system.
  const bool is_root = geteuid() == 0;
  if (is_root && mount("tmpfs", folder.c_str(), "tmpfs", MS_RDONLY, "size=64k") != 0) GTEST_SKIP() << "cannot mount";
  if (!is_root) chmod(folder.c_str(), 0555);
  EXPECT_THAT(WriterError(folder + "/x.kvtrace.h5"), HasSubstr("not writable"));
  EXPECT_TRUE(std::filesystem::is_empty(folder));
  if (is_root) {
    EXPECT_EQ(umount(folder.c_str()), 0);
  }
}

}  // namespace
}  // namespace kvscope
