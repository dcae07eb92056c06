// SPDX-License-Identifier: Apache-2.0
// What is kept between two runs: layout, theme, hidden panels, recent files.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <imgui_internal.h>
#include <imgui_te_context.h>

#include <filesystem>

#include "tests/support/core_files.h"
#include "tests/support/gui_app.h"
#include "viewer/recent_files.h"
#include "viewer/theme.h"

namespace kvscope {
namespace {

namespace fs = std::filesystem;

std::string MakeStateFolder() {
  const std::string folder = TempPath("state");
  fs::remove_all(folder);
  fs::create_directories(folder);
  return folder;
}

// Of the entry of a recent file, as the engine wants it: a slash of a name is no step down.
std::string IdOf(const std::string& path) {
  std::string id = "###";
  for (const char c : path) id += c == '/' ? "\\/" : std::string(1, c);
  return id;
}

TEST(Kept, TheLayout) {
  const std::string ini = MakeStateFolder() + "/view.ini";
  float width = 0;
  DriveApp(
      {.paths = {kNeedleTrace}},
      [&](ImGuiTestContext* ctx, App&) {
        ctx->DockInto("//Text", "//Timeline");
        ctx->Yield(2);
        IM_CHECK(ctx->GetWindowByRef("//Text")->DockId == ctx->GetWindowByRef("//Timeline")->DockId);
        width = ctx->GetWindowByRef("//Overview")->Size.x;
      },
      ini);
  DriveApp(
      {.paths = {kNeedleTrace}},
      [&](ImGuiTestContext* ctx, App&) {
        IM_CHECK(ctx->GetWindowByRef("//Text")->DockId == ctx->GetWindowByRef("//Timeline")->DockId);
        IM_CHECK(ctx->GetWindowByRef("//Text")->DockId != ctx->GetWindowByRef("//Heatmap")->DockId);
        IM_CHECK_EQ(ctx->GetWindowByRef("//Overview")->Size.x, width);
        ctx->MenuClick("//##MainMenuBar/View/Reset layout");
        ctx->Yield(3);
        IM_CHECK(ctx->GetWindowByRef("//Text")->DockId == ctx->GetWindowByRef("//Heatmap")->DockId);
      },
      ini);
}

// Also by a run that shows nothing but the start screen.
TEST(Kept, TheLayoutThroughAStartScreen) {
  const std::string ini = MakeStateFolder() + "/view.ini";
  const auto are_together = [](ImGuiTestContext* ctx) {
    return ctx->GetWindowByRef("//Text")->DockId == ctx->GetWindowByRef("//Timeline")->DockId;
  };
  DriveApp(
      {.paths = {kNeedleTrace}},
      [&](ImGuiTestContext* ctx, App&) {
        ctx->DockInto("//Text", "//Timeline");
        ctx->Yield(2);
      },
      ini);
  DriveApp(
      {}, [&](ImGuiTestContext* ctx, App&) { ctx->Yield(5); }, ini);
  DriveApp(
      {},
      [&](ImGuiTestContext* ctx, App& app) {
        app.DroppedFiles({kNeedleTrace});
        WaitUntilIdle(ctx, app);
        IM_CHECK(are_together(ctx));
      },
      ini);
}

TEST(Kept, ThemeAndHiddenPanels) {
  const std::string state = MakeStateFolder();
  DriveApp({.paths = {kNeedleTrace}, .state_folder = state}, [](ImGuiTestContext* ctx, App&) {
    IM_CHECK(CurrentTheme().is_dark);
    ctx->KeyPress(ImGuiKey_T);
    ctx->Yield(2);
    IM_CHECK(!CurrentTheme().is_dark);
    ctx->MenuClick("//##MainMenuBar/View/Timeline");
    ctx->WindowClose("//Text");
    ctx->Yield(2);
  });
  DriveApp({.paths = {kNeedleTrace}, .state_folder = state}, [](ImGuiTestContext* ctx, App&) {
    IM_CHECK(!CurrentTheme().is_dark);
    IM_CHECK(ctx->GetWindowByRef("//Timeline") == nullptr);
    IM_CHECK(ctx->GetWindowByRef("//Text") == nullptr);
    ctx->MenuClick("//##MainMenuBar/View/Text");
    ctx->Yield(2);
    IM_CHECK(ctx->GetWindowByRef("//Text")->Active);
  });
  // A flag of this run is stronger.
  DriveApp({.paths = {kNeedleTrace}, .is_dark = true, .state_folder = state},
           [](ImGuiTestContext*, App&) { IM_CHECK(CurrentTheme().is_dark); });
}

TEST(Kept, RecentFiles) {
  const std::string state = MakeStateFolder(), gone = TempPath("gone.kvtrace.h5");
  fs::copy_file(kNeedleTrace, gone, fs::copy_options::overwrite_existing);
  DriveApp({.paths = {kNeedleTrace, gone}, .state_folder = state}, [](ImGuiTestContext*, App&) {});
  if (testing::Test::IsSkipped()) GTEST_SKIP();
  EXPECT_THAT(RecentFiles(state + "/recent_files").files(), testing::UnorderedElementsAre(kNeedleTrace, gone));
  fs::remove(gone);
  DriveApp({.state_folder = state}, [&](ImGuiTestContext* ctx, App& app) {
    ctx->SetRef(ctx->WindowInfo("//Start/recent").Window);
    IM_CHECK(ctx->ItemInfo(IdOf(gone).c_str()).ItemFlags & ImGuiItemFlags_Disabled);
    ctx->ItemClick(IdOf(kNeedleTrace).c_str());
    WaitUntilIdle(ctx, app);
    IM_CHECK(app.current() && app.current()->state() == TraceDocument::State::kReady);
  });
}

}  // namespace
}  // namespace kvscope
