// SPDX-License-Identifier: Apache-2.0
// A capture that is killed, followed or out of disk leaves a file that opens.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <random>
#include <thread>

#include "core/probe.h"
#include "core/trace_reader.h"
#include "core/trace_writer.h"
#include "tests/support/core_files.h"
#include "tests/support/core_tiny_trace.h"

namespace kvscope {
namespace {

constexpr double kFlushSecs = 0.05;
const TinyShape kShape{.layers = 3, .heads = 6, .kv_heads = 2, .head_dim = 16, .tokens = 200, .steps = 400};

struct Progress {
  std::atomic<int> tokens_flushed = 0, tokens_appended = 0;
};

Progress* SharedProgress() {
  void* memory = mmap(nullptr, sizeof(Progress), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  return new (memory) Progress;
}

// Appends the run token by token, a little every millisecond, and says how far it came.
void WriteSlowly(const std::string& path, const TinyRun& run, Progress& progress, int pause_us) {
  TraceWriter writer(path, run.info, {.flush_interval_secs = kFlushSecs, .overwrite = true});
  const int prompt = run.info.prompt_tokens, total = prompt + static_cast<int>(run.steps.size());
  auto last_flush = std::chrono::steady_clock::now();
  for (int token = 0; token < total;) {
    const int count = token < prompt ? std::min(70, prompt - token) : 1;
    for (int layer = 0; layer < kShape.layers; ++layer) {
      writer.AppendChunk(layer, token, Slice(run.layers[layer], run.info.layers[layer], token, count));
      if (token >= prompt) writer.AppendRows(layer, token, run.rows[layer][token - prompt]);
    }
    TraceTokens part;
    part.ids.assign(run.tokens.ids.begin() + token, run.tokens.ids.begin() + token + count);
    writer.AppendTokens(part);
    if (token >= prompt) writer.AppendStep(run.steps[token - prompt]);
    token += count;
    progress.tokens_appended = token;
    if (std::chrono::steady_clock::now() - last_flush > std::chrono::duration<double>(kFlushSecs)) {
      writer.Flush();
      progress.tokens_flushed = token;
      last_flush = std::chrono::steady_clock::now();
    }
    usleep(pause_us);
  }
  writer.SetSegments(run.info.segments, run.info.spans);
  writer.SetAnswer(run.answer);
  writer.Finish();
  progress.tokens_flushed = total;
}

pid_t StartWriter(const std::string& path, const TinyRun& run, Progress& progress, int pause_us) {
  std::fflush(nullptr);
  const pid_t child = fork();
  if (child == 0) {
    try {
      WriteSlowly(path, run, progress, pause_us);
    } catch (const std::exception& error) {
      std::fprintf(stderr, "writer: %s\n", error.what());
      _exit(1);
    }
    _exit(0);
  }
  return child;
}

// Everything up to the shortest array must be what was written.
void ExpectPrefix(const TraceReader& trace, const TinyRun& run) {
  const int tokens = static_cast<int>(trace.tokens().ids.size());
  ASSERT_TRUE(std::equal(trace.tokens().ids.begin(), trace.tokens().ids.end(), run.tokens.ids.begin()));
  MemoryTrace memory(run.info);
  for (int layer = 0; layer < kShape.layers; ++layer) {
    memory.AppendChunk(layer, 0, Slice(run.layers[layer], run.info.layers[layer], 0, tokens));
    for (int kv_head = 0; kv_head < kShape.kv_heads; ++kv_head) {
      const auto a = memory.ReadKvHead(layer, kv_head), b = trace.ReadKvHead(layer, kv_head);
      ASSERT_EQ(a->num_rows, b->num_rows);
      ASSERT_EQ(a->lse, b->lse);
      if (tokens == 0) continue;
      ASSERT_EQ(std::memcmp(a->q.data(), b->q.data(), a->q.size_bytes()), 0);
      ASSERT_EQ(std::memcmp(a->k.data(), b->k.data(), a->k.size_bytes()), 0);
      ASSERT_EQ(std::memcmp(a->v.data(), b->v.data(), a->v.size_bytes()), 0);
    }
  }
  const VerifyResult result = VerifyTrace(trace);
  EXPECT_TRUE(result.ok) << result.worst_place;
}

constexpr char kPythonSwmr[] = R"(
import sys, h5py
with h5py.File(sys.argv[1], 'r', libver='latest', swmr=True) as f:
    k = f['layer/00/k']
    assert k.dtype == 'float16' and k.shape[0] == 2 and k.shape[2] == 16, (k.dtype, k.shape)
    print(min(k.shape[1], f['tokens/id'].shape[0]), abs(k[...].astype('f8')).sum() >= 0)
)";
constexpr char kPythonPlain[] = R"(
import sys, h5py
with h5py.File(sys.argv[1], 'r') as f:
    assert f['status'][0] == int(sys.argv[2]), f['status'][0]
    for layer in f['layer'].values():
        for name in layer: layer[name][...]
    print(min(f['layer/00/k'].shape[1], f['tokens/id'].shape[0]), f['model'].attrs['name'])
)";

TEST(TraceFile, OpensAfterAKillAtAnyMoment) {
  const TinyRun run = MakeTinyRun(kShape);
  std::mt19937 random(7);
  for (int i = 0; i < 10; ++i) {
    const std::string path = TempPath(StrCat("killed", i, ".kvtrace.h5"));
    Progress* progress = SharedProgress();
    const pid_t child = StartWriter(path, run, *progress, 1000);
    while (!std::filesystem::exists(path)) usleep(100);
    usleep(random() % 380000);  // the run takes 400 ms at least
    kill(child, SIGKILL);
    int status = 0;
    waitpid(child, &status, 0);
    SCOPED_TRACE(StrCat("kill ", i, ": ", progress->tokens_flushed, " of ", progress->tokens_appended, " flushed"));
    int tokens = 0;
    {
      ProbeTraceInChild(path);
      const auto trace = TraceReader::Open(path);
      tokens = static_cast<int>(trace->tokens().ids.size());
      EXPECT_GE(tokens, progress->tokens_flushed);
      EXPECT_FALSE(IsBeingWritten(path));
      ExpectPrefix(*trace, run);
    }
    // Killed in the middle of a flush, the first layer may have more than all layers together, which is what we read.
    const auto expect_as_many = [&](const CommandResult& python, const char* rest) {
      int seen = -1, rest_begin = 0;
      ASSERT_EQ(std::sscanf(python.output.c_str(), "%d %n", &seen, &rest_begin), 1) << python.output;
      EXPECT_GE(seen, tokens);
      EXPECT_LE(seen, static_cast<int>(run.tokens.ids.size()));
      EXPECT_EQ(python.output.substr(rest_begin), rest);
    };
    expect_as_many(RunPython(kPythonSwmr, path), "True\n");
    RecoverTrace(path);
    const TraceStatus expected = WIFSIGNALED(status) ? TraceStatus::kRecovered : TraceStatus::kComplete;
    expect_as_many(RunPython(kPythonPlain, StrCat(path, " ", static_cast<int>(expected))), "tiny\n");
    const auto trace = TraceReader::Open(path);
    EXPECT_EQ(trace->status(), expected);
    EXPECT_EQ(static_cast<int>(trace->tokens().ids.size()), tokens);
    ExpectPrefix(*trace, run);
    munmap(progress, sizeof *progress);
  }
}

TEST(TraceFile, CanBeFollowedWhileItGrows) {
  const TinyRun run = MakeTinyRun(kShape);
  const std::string path = TempPath("followed.kvtrace.h5");
  Progress* progress = SharedProgress();
  const pid_t child = StartWriter(path, run, *progress, 2000);
  while (progress->tokens_flushed < 210) usleep(1000);
  const auto trace = TraceReader::Open(path);
  EXPECT_EQ(trace->status(), TraceStatus::kRecording);
  EXPECT_TRUE(IsBeingWritten(path));
  EXPECT_THROW(RecoverTrace(path), Error);
  size_t times_grown = 0, tokens = trace->tokens().ids.size();
  const CommandResult python = RunPython(kPythonSwmr, path);
  EXPECT_EQ(python.exit_code, 0) << python.output;
  while (trace->status() == TraceStatus::kRecording) {
    usleep(20000);
    if (!trace->Refresh()) continue;
    ++times_grown;
    EXPECT_GE(trace->tokens().ids.size(), tokens);
    tokens = trace->tokens().ids.size();
    ExpectPrefix(*trace, run);
  }
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  EXPECT_GT(times_grown, 2u);
  EXPECT_EQ(trace->tokens().ids.size(), run.tokens.ids.size());
  EXPECT_EQ(trace->answer().text, run.answer.text);
  EXPECT_FALSE(trace->Refresh());
  munmap(progress, sizeof *progress);
}

// Writes until an Error comes; returns its text. What the last flush wrote must still open.
std::string WriteUntilFull(const std::string& path, const TinyRun& run, int* tokens_flushed) {
  TraceWriter writer(path, run.info, {});
  try {
    for (int token = 0; token < run.info.prompt_tokens; token += 100) {
      for (int layer = 0; layer < static_cast<int>(run.layers.size()); ++layer) {
        writer.AppendChunk(layer, token, Slice(run.layers[layer], run.info.layers[layer], token, 100));
      }
      TraceTokens part;
      part.ids.assign(100, 5);
      writer.AppendTokens(part);
      writer.Flush();
      *tokens_flushed = token + 100;
    }
    writer.Finish();
  } catch (const Error& error) {
    EXPECT_THROW(writer.Flush(), Error) << "a failed writer must stay failed";
    return error.what();
  }
  return "";
}

TEST(TraceFile, KeepsWhatWasFlushedWhenTheDiskIsFull) {
  const std::string folder = TempPath("small_disk");
  std::filesystem::create_directories(folder);
  if (mount("tmpfs", folder.c_str(), "tmpfs", 0, "size=3m") != 0) GTEST_SKIP() << "mounting needs root";
  const TinyRun run = MakeTinyRun({.layers = 4, .heads = 4, .kv_heads = 4, .head_dim = 64, .tokens = 1000, .steps = 0});
  const std::string path = folder + "/full.kvtrace.h5";
  int flushed = 0;
  const std::string error = WriteUntilFull(path, run, &flushed);
  EXPECT_THAT(error,
              testing::AllOf(testing::HasSubstr("full.kvtrace.h5"), testing::HasSubstr("No space left"),
                             testing::HasSubstr("free space"), testing::HasSubstr("readable up to its last flush")));
  EXPECT_GE(flushed, 100);
  {
    ProbeTraceInChild(path);
    const auto trace = TraceReader::Open(path);
    EXPECT_GE(static_cast<int>(trace->tokens().ids.size()), flushed);
    EXPECT_TRUE(VerifyTrace(*trace).ok);
  }
  const CommandResult python = RunPython(
      "import sys, h5py\nprint(h5py.File(sys.argv[1], 'r', libver='latest', swmr=True)"
      "['layer/03/v'].shape[1] > 0)",
      path);
  EXPECT_EQ(python.output, "True\n");
  EXPECT_EQ(umount(folder.c_str()), 0);
}

TEST(TraceFile, LeavesNothingWhenTheDiskIsFullFromTheStart) {
  const std::string folder = TempPath("no_disk");
  std::filesystem::create_directories(folder);
  if (mount("tmpfs", folder.c_str(), "tmpfs", 0, "size=8k") != 0) GTEST_SKIP() << "mounting needs root";
  EXPECT_THROW(TraceWriter(folder + "/none.kvtrace.h5", MakeTinyRun({}).info, {}), Error);
  EXPECT_TRUE(std::filesystem::is_empty(folder));
  EXPECT_EQ(umount(folder.c_str()), 0);
}

}  // namespace
}  // namespace kvscope
