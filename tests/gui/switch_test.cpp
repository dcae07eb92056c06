// SPDX-License-Identifier: Apache-2.0
// Traces of different shapes are switched at run time: what one chose and what its jobs still answer must not reach
// into the other, in any panel.
#include <gtest/gtest.h>
#include <imgui_internal.h>
#include <imgui_te_context.h>

#include <filesystem>

#include "tests/support/core_files.h"
#include "tests/support/core_tiny_trace.h"
#include "tests/support/gui_app.h"

namespace kvscope {
namespace {

class Switch : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Panels, Switch,
                         testing::Values("Overview", "Text", "Heatmap", "Policies", "Curves", "Grid", "Timeline"),
                         [](const auto& test) { return std::string(test.param); });

TEST_P(Switch, TracesOfDifferentShapes) {
  const std::string small = TempPath("small.kvtrace.h5"), deep = TempPath("deep.kvtrace.h5"),
                    sums = TempPath("sums.kvtrace.h5");
  WriteTinyTrace(small, {.layers = 1, .heads = 2, .kv_heads = 1, .head_dim = 16, .tokens = 40, .steps = 0});
  WriteTinyTrace(deep, {.layers = 12, .heads = 4, .kv_heads = 2, .head_dim = 16, .tokens = 60});
  WriteTinyTrace(sums, {.layers = 20, .head_dim = 16, .level = TraceLevel::kRelevance});
  // Tables are saved where the program runs.
  const std::filesystem::path before = std::filesystem::current_path(), folder = TempPath("switch");
  std::filesystem::create_directories(folder);
  std::filesystem::current_path(folder);
  ViewState view;
  view.policies = {{"snapkv", 0.25}, {"h2o:prefill_chunk=16", 0.25}, {"adkvc", 0.25}};
  view.follows_policies = true;
  view.layer_index = 2, view.head_index = 8, view.step = 15, view.marked_token = 500;
  DriveApp({.paths = {kNeedleTrace}, .view = view}, [&](ImGuiTestContext* ctx, App& app) {
    ctx->WindowFocus((std::string("//") + GetParam()).c_str());
    const std::string* last = nullptr;
    for (const std::string* path : {&small, &deep, &sums, &kNeedleTrace, &sums, &small, &kNeedleTrace, &deep}) {
      app.DroppedFiles({*path});
      ctx->Yield(3);  // in the middle of whatever runs
      last = path;
      if (path == &deep || path == &sums) WaitUntilIdle(ctx, app);
      ctx->KeyPress(ImGuiMod_Ctrl | ImGuiKey_E);  // a table, or a sentence why there is none
    }
    WaitUntilIdle(ctx, app);
    IM_CHECK_STR_EQ(app.current()->path().c_str(), last->c_str());
    IM_CHECK(app.policies().document() == app.current());
    for (int index = 0; index < 3; ++index)
      IM_CHECK(app.policies().Outcome(index) && app.policies().Outcome(index)->trial.has_value());
    ctx->KeyPress(ImGuiMod_Ctrl | ImGuiKey_Z);
    ctx->KeyPress(ImGuiMod_Ctrl | ImGuiKey_Z);
    WaitUntilIdle(ctx, app);
  });
  std::filesystem::current_path(before);
}

}  // namespace
}  // namespace kvscope
