// SPDX-License-Identifier: Apache-2.0
// Traces come in: by argument, by drop, by the dialog.
#include <gtest/gtest.h>
#include <imgui_internal.h>
#include <imgui_te_context.h>

#include <filesystem>

#include "tests/support/core_files.h"
#include "tests/support/gui_app.h"

namespace kvscope {
namespace {

namespace fs = std::filesystem;

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

void OpenDialogAt(ImGuiTestContext* ctx, const std::string& folder) {
  ctx->KeyPress(ImGuiMod_Ctrl | ImGuiKey_O);
  ctx->Yield(2);
  ctx->SetRef("//Open traces");
  ctx->ItemClick("##folder");
  ctx->KeyCharsReplaceEnter(folder.c_str());
  ctx->Yield(2);
}

// A folder with a trace, another folder and a file that is no trace.
std::string MakeFolder() {
  const fs::path folder = TempPath("open");
  fs::remove_all(folder);
  fs::create_directories(folder / "deeper");
  fs::copy_file(kNeedleTrace, folder / "one.kvtrace.h5");
  fs::copy_file(kNeedleTrace, folder / "two.kvtrace.h5");
  fs::copy_file(kNeedleTrace, folder / "deeper/three.kvtrace.h5");
  WriteFile((folder / "notes.txt").string(), "no trace");
  return folder.string();
}

TEST(Open, ByTheDialog) {
  const std::string folder = MakeFolder();
  DriveApp({}, [&](ImGuiTestContext* ctx, App& app) {
    ctx->ItemClick("//Start/Open ...");
    ctx->Yield(2);
    ctx->SetRef("//Open traces");
    ctx->ItemClick("##folder");
    ctx->KeyCharsReplaceEnter((folder + "/nothing").c_str());
    ctx->Yield(2);
    IM_CHECK(app.current() == nullptr);
    ctx->ItemClick("##folder");
    ctx->KeyCharsReplaceEnter((folder + "/deeper/").c_str());
    ctx->Yield(2);
    ctx->ItemClick("Up");
    ctx->Yield(2);
    IM_CHECK(!ctx->ItemExists("**/###notes.txt"));
    ctx->ItemDoubleClick("**/###deeper");
    ctx->Yield(2);
    ctx->ItemDoubleClick("**/###three.kvtrace.h5");
    WaitUntilIdle(ctx, app);
    IM_CHECK(app.current() && app.current()->state() == TraceDocument::State::kReady);
    IM_CHECK_STR_EQ(app.current()->path().c_str(), (folder + "/deeper/three.kvtrace.h5").c_str());
  });
}

TEST(Open, SeveralByTheDialog) {
  const std::string folder = MakeFolder();
  DriveApp({}, [&](ImGuiTestContext* ctx, App& app) {
    OpenDialogAt(ctx, folder);
    ctx->ItemClick("**/###one.kvtrace.h5");
    ctx->KeyDown(ImGuiMod_Ctrl);
    ctx->ItemClick("**/###two.kvtrace.h5");
    ctx->KeyUp(ImGuiMod_Ctrl);
    ctx->KeyPress(ImGuiKey_Enter);
    WaitUntilIdle(ctx, app);
    IM_CHECK(app.current() && app.current()->path().ends_with("one.kvtrace.h5"));  // the first of them
    ctx->WindowFocus("//Run");
    ctx->SetRef("//Run");
    ctx->ComboClick("##file/two.kvtrace.h5##1");
    ctx->Yield(2);
    IM_CHECK(app.current()->path().ends_with("two.kvtrace.h5"));
  });
}

TEST(Open, TheDialogSaysWhatItCannotRead) {
  const std::string folder = MakeFolder();
  fs::create_directories(folder + "/going");
  DriveApp({}, [&](ImGuiTestContext* ctx, App& app) {
    OpenDialogAt(ctx, folder);
    fs::remove_all(folder + "/going");
    ctx->ItemDoubleClick("**/###going");
    ctx->Yield(2);
    IM_CHECK(ctx->GetWindowByRef("//Open traces")->Active);  // with a sentence in place of entries
    IM_CHECK(!ctx->ItemExists("**/###one.kvtrace.h5"));
    ctx->ItemClick("Up");
    ctx->Yield(2);
    fs::remove(folder + "/one.kvtrace.h5");
    ctx->ItemDoubleClick("**/###one.kvtrace.h5");
    WaitUntilIdle(ctx, app);
    IM_CHECK(!app.failure().empty());
  });
}

TEST(Open, EscapeClosesTheDialog) {
  DriveApp({}, [](ImGuiTestContext* ctx, App&) {
    ctx->MenuClick("//##MainMenuBar/File/Open ...");
    ctx->Yield(2);
    IM_CHECK(ctx->GetWindowByRef("//Open traces")->Active);
    ctx->KeyPress(ImGuiKey_Escape);
    ctx->Yield(2);
    IM_CHECK(!ctx->GetWindowByRef("//Open traces")->Active);
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
