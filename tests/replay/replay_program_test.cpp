// SPDX-License-Identifier: Apache-2.0
// The program `kvscope-replay`: from traces to rows to a page; exit codes and one line per error.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>

#include "core/results.h"
#include "tests/support/core_files.h"
#include "tests/support/core_tiny_trace.h"

namespace kvscope {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::StartsWith;

CommandResult Replay(const std::string& arguments) {
  return RunCommand(KVSCOPE_BINARY_DIR "/bin/kvscope-replay " + arguments);
}

std::string TinyFile(const std::string& name = "replay.kvtrace.h5", TinyShape shape = {}) {
  shape.head_dim = 16;
  const std::string path = TempPath(name);
  WriteTinyTrace(path, shape);
  return path;
}

// A fresh path: what is there afterwards was written by the program.
std::string Output(const std::string& name) {
  const std::string path = TempPath(name);
  fs::remove(path);
  return path;
}

TEST(ReplayProgram, WritesRowsAndCsv) {
  const std::string out = Output("replay.h5"), csv = Output("replay.csv");
  const CommandResult result = Replay(
      "run " + TinyFile() + " --policy snapkv:window=4,h2o --keep-fraction 0.5,0.25 -o " + out + " --csv " + csv);
  ASSERT_EQ(result.exit_code, 0) << result.output;
  const Results results = ReadResults(out);
  EXPECT_EQ(results.rows.size(), 1u + 4 * 2);
  EXPECT_EQ(results.traces.size(), 1u);
  ASSERT_EQ(results.commands.size(), 1u);
  EXPECT_THAT(results.commands[0], StartsWith("kvscope replay run "));
  const std::string text = ReadFile(csv);
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1 + 9);
  EXPECT_THAT(text, StartsWith("run_id,trace,model,mode,"));
  EXPECT_THAT(result.output, HasSubstr("snapkv"));
}

TEST(ReplayProgram, GivesTheSameFileAtAnyNumberOfThreads) {
  std::vector<std::string> tables;
  for (const char* threads : {"1", "2", "4"}) {
    const CommandResult result =
        Replay("run " + TinyFile() + " --policy tova,adkvc --keep-tokens 10 --decide-at prompt,context --threads " +
               threads + " -o " + Output("threads.h5") + " --csv -");
    ASSERT_EQ(result.exit_code, 0) << result.output;
    tables.push_back(result.output);
  }
  EXPECT_EQ(tables[1], tables[0]);
  EXPECT_EQ(tables[2], tables[0]);
}

TEST(ReplayProgram, TakesFoldersAndMergesResults) {
  const fs::path folder = TempPath("folder");
  fs::remove_all(folder);
  fs::create_directories(folder);
  TinyFile("folder/a.kvtrace.h5", {.seed = 1});
  TinyFile("folder/b.kvtrace.h5", {.seed = 2});
  const std::string both = Output("both.h5"), merged = Output("merged.h5");
  ASSERT_EQ(Replay("run " + folder.string() + " --bare --policy tova --keep-fraction 0.5 -o " + both).exit_code, 0);
  ASSERT_EQ(ReadResults(both).rows.size(), 2u);
  EXPECT_EQ(ReadResults(both).rows[1].figures.Text("run_id"), "tiny-2");
  const std::string more = Output("more.h5");
  ASSERT_EQ(Replay("run " + folder.string() + " --bare --policy h2o --keep-fraction 0.5 -o " + more).exit_code, 0);
  ASSERT_EQ(Replay("merge " + both + " " + more + " " + both + " -o " + merged).exit_code, 0);
  EXPECT_EQ(ReadResults(merged).rows.size(), 4u);
  EXPECT_EQ(ReadResults(merged).traces.size(), 2u);
}

TEST(ReplayProgram, MakesThePageAndWantsLiveForFidelity) {
  const std::string out = Output("page.h5"), page = Output("page.html");
  ASSERT_EQ(Replay("run " + TinyFile() + " --policy tova,snapkv:window=4 --keep-fraction 0.5,0.25 -o " + out).exit_code,
            0);
  const CommandResult report = Replay("report " + out + " --no-png -o " + page);
  EXPECT_EQ(report.exit_code, 0) << report.output;
  EXPECT_THAT(ReadFile(page), HasSubstr("<svg"));
  const CommandResult fidelity = Replay("fidelity " + out + " " + out);
  EXPECT_EQ(fidelity.exit_code, 2);
  EXPECT_THAT(fidelity.output, HasSubstr("expected results of live"));
}

TEST(ReplayProgram, ListsAndExplains) {
  EXPECT_THAT(Replay("list").output, HasSubstr("snapkv"));
  EXPECT_THAT(Replay("list --json").output, StartsWith("{"));
  EXPECT_THAT(Replay("explain snapkv").output, HasSubstr("window"));
  EXPECT_EQ(Replay("explain snapkw").exit_code, 2);
}

TEST(ReplayProgram, RefusedRowsAreToldAndCountedAsDone) {
  const std::string trace = TinyFile("part.kvtrace.h5", {.query_rows = "last:16"});
  const CommandResult result =
      Replay("run " + trace + " --bare --policy h2o --keep-fraction 0.5 -o " + Output("part.h5"));
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_THAT(result.output, HasSubstr("1 of 1 rows were refused"));
  EXPECT_THAT(result.output, HasSubstr("--query-rows last:16"));
}

struct BadCall {
  const char* arguments;  // @ stands for the trace
  const char* complaint;
};

TEST(ReplayProgram, BadInputIsOneLineAndLeavesNoFile) {
  const std::string trace = TinyFile(), out = Output("bad.h5");
  const std::string cut = TempPath("cut.kvtrace.h5"), text = TempPath("text.kvtrace.h5");
  WriteFile(cut, ReadFile(trace).substr(0, 3000));
  WriteFile(text, "this is no trace");
  const BadCall calls[] = {
      {"run /nowhere/x.kvtrace.h5 --policy tova --keep-fraction 0.5", "/nowhere/x.kvtrace.h5"},
      {"run CUT --policy tova --keep-fraction 0.5", "cut.kvtrace.h5"},
      {"run TEXT --policy tova --keep-fraction 0.5", "text.kvtrace.h5"},
      {"run @ --policy snapkw --keep-fraction 0.5", "did you mean snapkv"},
      {"run @ --policy snapkv:windows=3 --keep-fraction 0.5", "did you mean window"},
      {"run @ --policy snapkv:window=nan --keep-fraction 0.5", "window"},
      {"run @ --policy snapkv --keep-fraction 0", "--keep-fraction"},
      {"run @ --policy snapkv --keep-fraction 1.01", "--keep-fraction"},
      {"run @ --policy snapkv --keep-fraction nan", "--keep-fraction"},
      {"run @ --policy snapkv --keep-tokens 0", "--keep-tokens"},
      {"run @ --policy snapkv --keep-tokens 2.5", "--keep-tokens"},
      {"run @ --policy snapkv --compression-ratio 1", "--compression-ratio"},
      {"run @ --policy snapkv", "--keep-fraction"},
      {"run @ --keep-fraction 0.5", "--policy"},
      {"run @ --policy tova --keep-fraction 0.1 --guard sinks=4,recent=32", "guards"},
      {"run @ --policy tova --keep-fraction 0.5 --guard sink=4", "--guard"},
      {"run @ --policy tova --keep-fraction 0.5 --decide-at never", "--decide-at"},
      {"run @ --policy tova --keep-fraction 0.5 --threads -1", "--threads"},
      {"run @ --policy tova --keep-fraction 0.5 --nonsense", "--nonsense"},
      {"run @ --policy tova --keep-fraction 0.5 --device cuda:7", "--device"},
      {"merge TEXT", "text.kvtrace.h5"},
      {"merge @", "results"},
      {"fly", "subcommand"},
      {"", "subcommand"},
  };
  for (const BadCall& call : calls) {
    std::string arguments = call.arguments;
    const auto replace = [&](const std::string& mark, const std::string& path) {
      if (const size_t at = arguments.find(mark); at != std::string::npos) arguments.replace(at, mark.size(), path);
    };
    replace("@", trace), replace("CUT", cut), replace("TEXT", text);
    if (arguments.starts_with("run") || arguments.starts_with("merge")) arguments += " -o " + out;
    const CommandResult result = Replay(arguments);
    EXPECT_EQ(result.exit_code, 2) << arguments << "\n" << result.output;
    EXPECT_THAT(result.output, StartsWith("kvscope-replay: ")) << arguments;
    EXPECT_THAT(result.output, HasSubstr(call.complaint)) << arguments;
    EXPECT_EQ(std::count(result.output.begin(), result.output.end(), '\n'), 1) << arguments << "\n" << result.output;
    EXPECT_FALSE(fs::exists(out)) << arguments;
    EXPECT_FALSE(fs::exists(out + ".part")) << arguments;
  }
}

TEST(ReplayProgram, ChecksTheOutputFolderBeforeItWorks) {
  const CommandResult missing = Replay("run " + TinyFile() + " --policy tova --keep-fraction 0.5 -o /nowhere/r.h5");
  EXPECT_EQ(missing.exit_code, 2);
  EXPECT_THAT(missing.output, HasSubstr("/nowhere"));
  EXPECT_EQ(Replay("run " + TinyFile() + " --policy tova --keep-fraction 0.5 -o /proc/r.h5").exit_code, 2);
}

}  // namespace
}  // namespace kvscope
