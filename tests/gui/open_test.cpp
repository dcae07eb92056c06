// SPDX-License-Identifier: Apache-2.0
// Traces come in: by argument, by drop, by the dialog.
#include <gtest/gtest.h>
#include <imgui_te_context.h>

#include "tests/support/gui_app.h"

namespace kvscope {
namespace {

TEST(Open, ByArgument) {
  DriveApp({.paths = {kNeedleTrace}}, [](ImGuiTestContext* ctx, App& app) {
    IM_CHECK(app.current() && app.current()->state() == TraceDocument::State::kReady);
    for (const char* panel : {"//Run", "//Overview", "//Text", "//Timeline", "//Heatmap"})
      IM_CHECK(ctx->GetWindowByRef(panel) != nullptr);
  });
}

TEST(Open, ByDrop) {
  DriveApp({}, [](ImGuiTestContext* ctx, App& app) {
    IM_CHECK(app.current() == nullptr);
    app.DroppedFiles({kNeedleTrace});
    WaitUntilIdle(ctx, app);
    IM_CHECK(app.current() && app.current()->state() == TraceDocument::State::kReady);
    // The first time the panels are docked, though something else was on the screen before.
    for (const char* panel : {"//Run", "//Overview", "//Text", "//Timeline", "//Heatmap"})
      IM_CHECK(!ctx->WindowIsUndockedOrStandalone(ctx->GetWindowByRef(panel)));
  });
}

TEST(Open, WhatIsNotATraceIsSaid) {
  DriveApp({}, [](ImGuiTestContext* ctx, App& app) {
    app.DroppedFiles({KVSCOPE_SOURCE_DIR "/README.md"});
    WaitUntilIdle(ctx, app);
    IM_CHECK(app.failure().find("expected a trace") != std::string::npos);
  });
}

}  // namespace
}  // namespace kvscope
