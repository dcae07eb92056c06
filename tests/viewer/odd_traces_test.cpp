// SPDX-License-Identifier: Apache-2.0
// Every panel on traces that are odd but valid, and on files made to harm: it shows something or says why not.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <imgui.h>
#include <imgui_internal.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <set>

#include "core/error.h"
#include "core/trace_writer.h"
#include "tests/support/core_files.h"
#include "tests/support/core_harmed_traces.h"
#include "viewer/app.h"

namespace kvscope {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

// The app, and the text of its last frame.
class ReadFrame final : public Frame {
 public:
  explicit ReadFrame(const AppOptions& options) : app_(options) {}
  void Draw() override {
    ImGui::LogToBuffer();
    app_.Draw();
    text = ImGui::GetCurrentContext()->LogBuffer.c_str();
    ImGui::LogFinish();
  }
  bool IsBusy() const override { return app_.IsBusy(); }
  std::string failure() const { return app_.failure(); }
  std::string text;

 private:
  App app_;
};

struct Seen {
  std::string text, failure;
  int num_colors = 0;
};
Seen Look(const std::string& path, const std::string& panel, const ViewState& view = {}) {
  ReadFrame frame({.paths = {path}, .only_panel = panel, .layer = {}, .head = {}, .view = view, .follows = false});
  const Image image = RenderOffscreen(frame, {.width = 900, .height = 500}, 60);
  std::replace(frame.text.begin(), frame.text.end(), '\n', ' ');
  return {frame.text, frame.failure(), static_cast<int>(std::set(image.rgba.begin(), image.rgba.end()).size())};
}

struct OddTrace {
  const char* name;
  std::function<void(const std::string& path)> write;
  // Words that a panel has to say; "" of a panel's name: it draws a picture.
  std::vector<std::pair<const char*, const char*>> says = {};
};

void PrintTo(const OddTrace& trace, std::ostream* out) {
  *out << trace.name;
}

const TinyShape kTiny{.layers = 3, .head_dim = 16, .tokens = 64, .steps = 5};

TinyShape With(const std::function<void(TinyShape&)>& change) {
  TinyShape shape = kTiny;
  change(shape);
  return shape;
}

std::function<void(const std::string&)> Writes(const TinyShape& shape) {
  return [shape](const std::string& path) { WriteTinyTrace(path, shape); };
}

void WriteRun(const std::string& path, const TinyRun& run) {
  TraceWriter writer(path, run.info, {.flush_interval_secs = 1, .overwrite = true});
  AppendTinyRun(writer, run);
  writer.Finish();
}

void WriteWithoutNeedle(const std::string& path) {
  TinyRun run = MakeTinyRun(kTiny);
  run.info.spans.clear();
  run.info.segments.clear();
  WriteRun(path, run);
}

void WriteSomeLayers(const std::string& path) {
  TinyRun run = MakeTinyRun(kTiny);
  run.info.layers.erase(run.info.layers.begin());  // layers 1 and 2 of three
  run.layers.erase(run.layers.begin()), run.rows.erase(run.rows.begin());
  WriteRun(path, run);
}

void WriteASink(const std::string& path) {
  TinyRun run = MakeTinyRun(kTiny);
  for (LayerInfo& layer : run.info.layers) layer.sink = true;
  WriteRun(path, run);
}

// KV head 2 of four, and its two query heads of eight.
void WriteSomeKvHeads(const std::string& path) {
  TinyRun run = MakeTinyRun(With([](TinyShape& shape) { shape.heads = 2, shape.kv_heads = 1; }));
  for (LayerInfo& layer : run.info.layers) {
    layer.num_heads = 8, layer.num_kv_heads = 4;
    layer.heads = {4, 5}, layer.kv_heads = {2};
  }
  WriteRun(path, run);
}

// As a capture that was killed leaves it: all that the last flush wrote, nothing of the end.
void WriteUnfinished(const std::string& path) {
  const TinyRun run = MakeTinyRun(kTiny);
  TraceWriter writer(path, run.info, {.flush_interval_secs = 1000, .overwrite = true});
  TraceTokens some = run.tokens;
  some.ids.resize(40), some.positions.resize(40), some.pieces.resize(40), some.logprobs.resize(40);
  for (size_t layer = 0; layer < run.layers.size(); ++layer)
    writer.AppendChunk(static_cast<int>(layer), 0, Slice(run.layers[layer], run.info.layers[layer], 0, 40));
  writer.AppendTokens(some);
  writer.Flush();
}

// Before the first chunk.
void WriteBegun(const std::string& path) {
  TraceWriter writer(path, MakeTinyRun(kTiny).info, {.flush_interval_secs = 1000, .overwrite = true});
  writer.Flush();
}

// A prompt in Greek, Cyrillic and Hebrew whose tokens are single bytes: every character is shared.
void WriteBytesOfScripts(const std::string& path) {
  TinyRun run = MakeTinyRun(kTiny);
  const std::string text = "θάλασσα море ים ";
  for (size_t i = 0; i < run.tokens.pieces.size(); ++i) run.tokens.pieces[i] = text[i % text.size()];
  WriteRun(path, run);
}

const std::vector<OddTrace> kOddTraces = {
    {"plain", Writes(kTiny), {{"heatmap", ""}, {"heatmap layer", ""}, {"heatmap step", ""}, {"overview", ""}}},
    {"no_steps",
     Writes(With([](TinyShape& shape) { shape.steps = 0; })),
     {{"timeline", "no decode steps"}, {"heatmap step", "no decode steps"}, {"heatmap", ""}, {"heatmap layer", ""}}},
    {"no_needle",
     WriteWithoutNeedle,
     {{"heatmap", ""}, {"heatmap layer", "from all 69 stored queries"}, {"text", "gives each token"}}},
    {"relevance",
     Writes(With([](TinyShape& shape) { shape.level = TraceLevel::kRelevance; })),
     {{"heatmap", "choose token x layer"},
      {"heatmap layer", "recorded as sums and maxima"},
      {"heatmap step", "record with --level rows"},
      {"overview", "record with --level qkv"},
      {"text", "from all queries"},
      {"timeline", "record with --level rows"}}},
    {"rows",
     Writes(With([](TinyShape& shape) { shape.level = TraceLevel::kRows; })),
     {{"heatmap", "choose token x step"},
      {"heatmap layer", "from the rows of 5 decode steps"},
      {"heatmap step", "recorded rows of decode steps"},
      {"overview", "record with --level qkv"},
      {"text", "gives each token"},
      {"timeline", "step"}}},
    {"rows_without_steps",
     Writes(With([](TinyShape& shape) { shape.level = TraceLevel::kRows, shape.steps = 0; })),
     {{"heatmap layer", "there was no step"}, {"heatmap step", "no decode steps"}}},
    {"some_layers", WriteSomeLayers, {{"heatmap", ""}, {"heatmap layer", ""}, {"overview", ""}}},
    {"some_kv_heads", WriteSomeKvHeads, {{"heatmap", ""}, {"heatmap layer", ""}, {"overview", ""}}},
    {"some_queries",
     Writes(With([](TinyShape& shape) { shape.query_rows = "last:4"; })),
     {{"heatmap", ""}, {"heatmap layer", "from 9 queries"}, {"heatmap step", ""}}},
    {"unfinished", WriteUnfinished, {{"heatmap", ""}, {"heatmap step", "no decode steps"}}},
    {"begun", WriteBegun, {{"text", "No tokens yet."}, {"heatmap", "No tokens yet."}, {"overview", "No "}}},
    {"one_token",
     Writes(With([](TinyShape& shape) { shape.tokens = 1, shape.steps = 0; })),
     {{"heatmap layer", "from all 1 stored queries"}}},
    {"one_token_and_steps", Writes(With([](TinyShape& shape) { shape.tokens = 1; })), {{"heatmap step", ""}}},
    {"bytes_of_scripts", WriteBytesOfScripts, {{"text", ""}}},
    {"f32", Writes(With([](TinyShape& shape) { shape.dtype = DType::kF32; })), {{"heatmap", ""}}},
    {"window",
     Writes(With([](TinyShape& shape) { shape.window = 8; })),
     {{"heatmap", ""},
      {"heatmap layer", "from "},
      {"heatmap step", "rows of decode steps"},
      {"overview", ""},
      {"timeline", ""},
      {"run", "layer 1: window 8"}}},
    {"softcap",
     Writes(With([](TinyShape& shape) { shape.softcap = 20; })),
     {{"heatmap", ""}, {"text", "gives each token"}, {"timeline", ""}, {"run", "soft-cap 20"}}},
    {"sink", WriteASink, {{"heatmap", "learned sink"}, {"text", "learned sink"}, {"timeline", "learned sink"}}},
    {"few_channels",
     Writes(With([](TinyShape& shape) { shape.head_dim = 8; })),
     {{"heatmap", "has 8 channels"}, {"overview", "has 8 channels"}, {"heatmap step", ""}}},
};

class OddTraces : public testing::TestWithParam<OddTrace> {};

TEST_P(OddTraces, ShowSomethingOrSayWhyNot) {
  const std::string path = TempPath(StrCat("odd_", GetParam().name, ".kvtrace.h5"));
  GetParam().write(path);
  std::vector<std::string> panels = PanelNames();
  panels.push_back("heatmap layer"), panels.push_back("heatmap step");
  for (const std::string& panel : panels) {
    ViewState view;
    if (panel.ends_with(" layer")) view.heatmap_kind = HeatmapKind::kLayer;
    if (panel.ends_with(" step")) view.heatmap_kind = HeatmapKind::kStep;
    const Seen seen = Look(path, panel.substr(0, panel.find(' ')), view);
    EXPECT_EQ(seen.failure, "") << panel;
    EXPECT_NE(seen.text, "") << panel;
    EXPECT_GT(seen.num_colors, 5) << panel;
    for (const auto& [name, words] : GetParam().says) {
      if (panel != name) continue;
      EXPECT_THAT(seen.text, HasSubstr(words)) << panel;
      if (!*words) {
        EXPECT_GT(seen.num_colors, 150) << panel << " draws nothing but says: " << seen.text;
      }
    }
  }
  EXPECT_EQ(Look(path, "").failure, "") << "all panels docked";
}
INSTANTIATE_TEST_SUITE_P(Traces, OddTraces, testing::ValuesIn(kOddTraces),
                         [](const auto& test) { return std::string(test.param.name); });

// A writer has it open all the while.
TEST(OddTrace, IsSeenWhileItIsRecorded) {
  const std::string path = TempPath("odd_recording.kvtrace.h5");
  const TinyRun run = MakeTinyRun(kTiny);
  TraceWriter writer(path, run.info, {.flush_interval_secs = 1000, .overwrite = true});
  AppendTinyRun(writer, run);
  writer.Flush();
  for (const std::string& panel : PanelNames()) {
    const Seen seen = Look(path, panel);
    EXPECT_EQ(seen.failure, "") << panel;
    EXPECT_NE(seen.text, "") << panel;
  }
}

// In a panel each, in turn: what a file fails with does not depend on the panel, and a picture takes a while.
TEST(HarmedTrace, IsOneSentenceInEveryPanel) {
  TinyShape vectors{.layers = 2, .heads = 2, .kv_heads = 1, .head_dim = 8, .tokens = 40, .steps = 5}, columns = vectors;
  columns.level = TraceLevel::kRelevance;
  std::vector<std::string> kinds;
  for (const std::string& panel : PanelNames()) kinds.push_back(panel);
  kinds.push_back("heatmap --kind layer");
  size_t turn = 0;
  for (const auto& [shape, cases] : {std::pair{vectors, HarmCases()}, {columns, ColumnHarmCases()}}) {
    const std::vector<std::string> paths = WriteHarmedTraces(shape, cases);
    ASSERT_EQ(paths.size(), cases.size());
    for (size_t i = 0; i < cases.size(); ++i) {
      if (std::strstr(cases[i].expected, "found nan") || std::strstr(cases[i].expected, "found -1")) {
        // A number that is wrong is found by the panel that reads it.
        const Seen seen = Look(paths[i], "heatmap", {.heatmap_kind = HeatmapKind::kLayer});
        EXPECT_THAT(seen.text, HasSubstr(cases[i].expected)) << cases[i].edit;
        continue;
      }
      const std::string& panel = kinds[turn++ % kinds.size()];
      const std::string picture = TempPath("harmed.png");
      const CommandResult result =
          RunCommand(StrCat("env -u DISPLAY " KVSCOPE_BINARY_DIR "/bin/kvscope view ", paths[i],
                            " --size 200x150 --screenshot ", picture, " --panel ", panel));
      EXPECT_EQ(result.exit_code, 2) << cases[i].edit << ", " << panel << ": " << result.output;
      EXPECT_THAT(result.output, StartsWith("kvscope view: ")) << cases[i].edit;
      EXPECT_THAT(result.output, HasSubstr(cases[i].expected)) << cases[i].edit << ", " << panel;
      EXPECT_EQ(std::count(result.output.begin(), result.output.end(), '\n'), 1) << result.output;
    }
    for (const std::string& panel : kinds) {
      const Seen seen = Look(paths[0], panel.substr(0, panel.find(' ')));
      EXPECT_THAT(seen.failure, HasSubstr(cases[0].expected)) << panel;
    }
  }
}

TEST(HarmedTrace, CutShortIsOneSentence) {
  const std::string whole = TempPath("odd_whole.kvtrace.h5"), cut = TempPath("odd_cut.kvtrace.h5");
  WriteTinyTrace(whole, kTiny);
  const std::string bytes = ReadFile(whole);
  std::vector<std::string> panels = PanelNames();
  for (int percent = 0; percent < 100; percent += 5) {
    WriteFile(cut, bytes.substr(0, bytes.size() * percent / 100));
    const Seen seen = Look(cut, panels[percent / 5 % panels.size()]);
    EXPECT_NE(seen.failure, "") << percent << " %";
    EXPECT_EQ(seen.failure.find('\n'), std::string::npos) << seen.failure;
  }
}

}  // namespace
}  // namespace kvscope
