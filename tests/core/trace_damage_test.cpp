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

struct HarmCase {
  const char* edit;  // f is the open file
  const char* expected;
};

void ExpectRefusals(const TinyShape& shape, std::span<const HarmCase> cases) {
  const std::string whole = TempPath("whole.kvtrace.h5");
  WriteTinyTrace(whole, shape);
  // One Python for all cases: starting it costs more than the edits.
  std::string script = "import sys, shutil, h5py, numpy as np\nwhole = sys.argv[1]\n";
  int i = 0;
  for (const HarmCase& test : cases) {
    script += StrCat("path = whole + '.", i++, "'\nshutil.copy(whole, path)\nwith h5py.File(path, 'r+') as f:\n    ",
                     test.edit, "\n");
  }
  const CommandResult python = RunPython(script, whole);
  ASSERT_EQ(python.exit_code, 0) << python.output;
  i = 0;
  for (const HarmCase& test : cases)
    EXPECT_THAT(ErrorOf(StrCat(whole, ".", i++)), HasSubstr(test.expected)) << test.edit;
}

TEST(TraceReader, SaysWhatIsWrongWithAFileMadeToHarm) {
  const HarmCase cases[] = {
      {"f.attrs['version'] = np.array([2, 0], 'i4')", "update kvscope"},
      {"f.attrs['format'] = 'something else'", "not a trace"},
      {"del f['tokens/id']", "/tokens/id: missing"},
      {"del f['layer/01/k']; f['layer/01/k'] = h5py.SoftLink('/layer/00/k')", "found a link"},
      {"del f['layer/01']; f['layer/01'] = h5py.ExternalLink('/etc/passwd', '/')", "found a link"},
      {"del f['tokens/id']; f.create_dataset('tokens/id', (1 << 40,), 'i4', chunks=(1 << 20,))", "promise"},
      {"del f['layer/00/k']; f.create_dataset('layer/00/k', (1, 45, 8), 'f4')", "expected elements of type f16"},
      {"del f['layer/00/k']; f.create_dataset('layer/00/k', data=np.zeros((1, 45, 9), 'f2'))", "expected [1, any, 8]"},
      {"del f['layer/00/k']; f.create_dataset('layer/00/k', data=np.zeros((1, 44, 8), 'f2'))", "one length"},
      {"del f['layer/00/k']; f.create_dataset('layer/00/k', data=np.zeros(5, 'f2'))", "expected 3 dimensions"},
      {"del f['layer/00/k']; f.create_group('layer/00/k')", "expected a data set"},
      {"del f['tokens/id']; f.create_dataset('tokens/id', data=np.zeros(45, '>i4'))", "little endian"},
      {"del f['tokens/id']; f.create_dataset('tokens/id', data=[b'x'] * 45, dtype=h5py.string_dtype())",
       "little endian"},
      {"del f['tokens/id']; f.create_dataset('tokens/id', data=np.zeros(45, 'i4'), compression='lzf', chunks=(45,))",
       "filter"},
      {"f['tokens/piece_offsets'][3] = 1 << 60", "piece_offsets: text"},
      {"f['tokens/piece_offsets'][3] = -1", "piece_offsets: text"},
      {"f['steps/top_offsets'][1] = 99", "top_offsets"},
      {"f['segments/token_begin'][0] = -5", "/segments: entry 0"},
      {"f['layer/00/q_token'][3] = 99", "ascending"},
      {"f['layer/00/rows_token'][4] = 9999", "a row for token 9999"},
      {"f['layer/00/head'][0] = 1", "ascending KV heads"},
      {"f['layer/00'].attrs['heads'] = 1 << 40", "@heads: expected 1 to 65536"},
      {"f['layer/00'].attrs['kv_heads'] = 0", "@kv_heads: expected 1 to 2"},
      {"f['layer/00'].attrs['scale'] = float('nan')", "finite"},
      {"f['layer/00'].attrs['scale'] = 'text'", "expected a number"},
      {"f['layer/00'].attrs['kind'] = 'mla'", "update kvscope"},
      {"f['model'].attrs['layers_recorded'] = np.array([1, 0], 'i4')", "ascending layers"},
      {"f['model'].attrs['kv_dtype'] = 'f8'", "expected f16 or f32"},
      {"f['status'][0] = 77", "/status"},
      {"f['rope'].attrs['sets'] = '../../x'", "is not a name"},
      {"f['rope'].attrs['sets'] = 'x' * 60", "missing"},
  };
  ExpectRefusals(kShape, cases);
}

TEST(TraceReader, SaysWhatIsWrongWithColumnStatistics) {
  const HarmCase cases[] = {
      {"del f['layer/00/column_sum']", "column_sum: missing"},
      {"del f['layer/00/column_sum']; f['layer/00/column_sum'] = np.zeros((2, 45), 'f8')", "type f32"},
      {"del f['layer/00/column_sum']; f['layer/00/column_sum'] = np.zeros((3, 45), 'f4')", "expected [2, any]"},
      {"del f['layer/00/column_max']; f['layer/00/column_max'] = np.zeros((2, 44), 'f4')", "one length"},
      {"del f['layer/00/column_max']; f.create_dataset('layer/00/column_max', (2, 1 << 40), 'f4', chunks=(2, 1 << 20))",
       "promise"},
      {"for n in 'column_sum', 'column_max': del f['layer/00/' + n]; f['layer/00/' + n] = np.zeros((2, 46), 'f4')",
       "46 columns for 45 tokens"},
      {"f['layer/00/column_rows'][0] = 46", "expected one number from 0 to 45"},
      {"f['layer/00/column_rows'][0] = -1", "expected one number from 0 to 45"},
      {"f['layer/00/column_sum'][1, 7] = float('nan')", "found nan at token 7"},
      {"f['layer/00/column_max'][0, 3] = -1", "found -1 at token 3"},
  };
  TinyShape shape = kShape;
  shape.level = TraceLevel::kRelevance;
  ExpectRefusals(shape, cases);
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
