// SPDX-License-Identifier: Apache-2.0
// The program `kvscope`: what it prints, its exit codes, and one line per error.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/support/core_files.h"
#include "tests/support/core_tiny_trace.h"

namespace kvscope {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

CommandResult Kvscope(const std::string& arguments) {
  return RunCommand(KVSCOPE_BINARY_DIR "/bin/kvscope " + arguments);
}

std::string TinyFile(const TinyShape& shape = {}) {
  const std::string path = TempPath("tiny.kvtrace.h5");
  WriteTinyTrace(path, shape);
  return path;
}

TEST(KvscopeProgram, InfoSaysWhatATraceHolds) {
  const CommandResult text = Kvscope("info " + TinyFile());
  EXPECT_EQ(text.exit_code, 0);
  for (const char* part : {"complete", "2 layers", "4 query heads on 2 KV heads", "52 = 48 prompt + 4 generated",
                           "needle", "qkv+rows, all layers, all heads"}) {
    EXPECT_THAT(text.output, HasSubstr(part));
  }
  const auto json = nlohmann::json::parse(Kvscope("info --json " + TinyFile()).output);
  EXPECT_EQ(json["status"], "complete");
  EXPECT_EQ(json["tokens"], 52);
  EXPECT_EQ(json["spans"][0]["token_begin"], 24);
  EXPECT_EQ(json["layers"].size(), 2u);
}

TEST(KvscopeProgram, InfoSaysWhichLayersHaveAWindow) {
  EXPECT_THAT(Kvscope("info " + TinyFile()).output,
              HasSubstr("all layers: full attention, scale 0.353553, RoPE set default"));
  const std::string path = TinyFile({.layers = 6, .window = 12, .softcap = 50});
  const std::string text = Kvscope("info " + path).output;
  EXPECT_THAT(text, HasSubstr("layers 0, 2, 4: full attention, scale 0.353553, soft-cap 50, RoPE set default"));
  EXPECT_THAT(text, HasSubstr("layers 1, 3, 5: window 12, scale 0.353553, soft-cap 50, RoPE set default"));
  const auto layers = nlohmann::json::parse(Kvscope("info --json " + path).output)["layers"];
  EXPECT_EQ(layers[1]["window"], 12);
  EXPECT_EQ(layers[1]["softcap"], 50);
  EXPECT_EQ(layers[1]["rope_set"], "default");
}

TEST(KvscopeProgram, VerifyExitsWithOneWhenRowsDiffer) {
  const std::string path = TinyFile();
  EXPECT_EQ(Kvscope("verify " + path).exit_code, 0);
  ASSERT_EQ(RunPython("import sys, h5py\nh5py.File(sys.argv[1], 'r+')['layer/00/rows'][0, 1, 7] = 0.5", path).exit_code,
            0);
  const CommandResult result = Kvscope("verify " + path);
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.output, HasSubstr("layer 0, head 0, token 49"));
  const CommandResult json = Kvscope("verify --json " + path);
  EXPECT_EQ(json.exit_code, 1);
  EXPECT_EQ(nlohmann::json::parse(json.output)["ok"], false);
}

TEST(KvscopeProgram, ExportsTheSameRowsInEveryFormat) {
  const std::string path = TinyFile(), out = TempPath("rows");
  const std::string what = "export " + path + " --what rows --layer 1 --head 3 ";
  ASSERT_EQ(Kvscope(what + "-t csv -o " + out + ".csv").exit_code, 0);
  ASSERT_EQ(Kvscope(what + "-t json -o " + out + ".json").exit_code, 0);
  ASSERT_EQ(Kvscope(what + "-t npz -o " + out + ".npz").exit_code, 0);
  const CommandResult python = RunPython(R"(
import csv, json, sys, h5py, numpy as np
out, path = sys.argv[1], sys.argv[2]
rows = h5py.File(path)['layer/01/rows'][3].astype('f4')
z = np.load(out + '.npz')
assert (z['weights'] == rows).all() and z['query_token'].tolist() == [48, 49, 50, 51] and len(z['token_id']) == 52
j = json.load(open(out + '.json'))
for step, row in enumerate(j['rows']):
    assert row['query_token'] == 48 + step and np.abs(np.array(row['weights']) - rows[step, :49 + step]).max() == 0
count = 0
for line in csv.DictReader(open(out + '.csv')):
    count += 1
    assert abs(float(line['weight']) - rows[int(line['step']), int(line['token'])]) <= 1e-6
assert count == 49 + 50 + 51 + 52, count
)",
                                         out + " " + path);
  EXPECT_EQ(python.exit_code, 0) << python.output;
}

TEST(KvscopeProgram, RecoverLeavesACompleteTraceComplete) {
  const std::string path = TinyFile();
  const CommandResult result = Kvscope("recover " + path);
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_THAT(result.output, HasSubstr("complete, 52 tokens and 4 steps readable"));
}

TEST(KvscopeProgram, BadInputIsOneLineAndExitTwo) {
  const std::string path = TinyFile(), text = TempPath("text");
  WriteFile(text, "no trace");
  for (const std::string& arguments :
       {std::string(""), std::string("info"), std::string("unknown"), "info " + path + " --wrong",
        "info " + path + ".x", "info " + text, "verify " + text, "recover " + text, "export " + path,
        "export " + path + " --layer 9 --head 0", "export " + path + " --layer 0 --head 9",
        "export " + path + " --layer 0 --head 0 -t xls", "export " + path + " --what q --layer 0 --head 0",
        "export " + path + " --layer 0 --head 0 -o /no/such/x.csv",
        "export " + TempPath("missing") + " --layer 0 --head 0"}) {
    const CommandResult result = Kvscope(arguments);
    EXPECT_EQ(result.exit_code, 2) << arguments;
    EXPECT_THAT(result.output, StartsWith("kvscope: ")) << arguments;
    EXPECT_EQ(std::count(result.output.begin(), result.output.end(), '\n'), 1) << arguments << "\n" << result.output;
  }
}

TEST(KvscopeProgram, HandsOverToTheProgramBesideIt) {
  const std::string copy = TempPath("kvscope"), sibling = TempPath("kvscope-replay");
  ASSERT_EQ(RunCommand("cp " KVSCOPE_BINARY_DIR "/bin/kvscope " + copy).exit_code, 0);
  WriteFile(sibling, "#!/bin/sh\necho ran $*\nexit 7\n");
  ASSERT_EQ(RunCommand("chmod +x " + sibling).exit_code, 0);
  const CommandResult replay = RunCommand(copy + " replay run --help");
  EXPECT_EQ(replay.exit_code, 7);
  EXPECT_EQ(replay.output, "ran run --help\n");
  const CommandResult view = RunCommand(copy + " view x");
  EXPECT_EQ(view.exit_code, 2);
  EXPECT_THAT(view.output, HasSubstr("kvscope-view: cannot be run"));
}

}  // namespace
}  // namespace kvscope
