// SPDX-License-Identifier: Apache-2.0
// Overview, Text and Timeline under the mouse; the files of the Run panel.
#include <gtest/gtest.h>
#include <imgui_internal.h>
#include <imgui_te_context.h>

#include <filesystem>

#include "tests/support/core_files.h"
#include "tests/support/gui_app.h"

namespace kvscope {
namespace {

TEST(Overview, AClickChoosesTheHead) {
  DriveApp({.paths = {kNeedleTrace}}, [](ImGuiTestContext* ctx, App& app) {
    ctx->WindowFocus("//Overview");
    WaitUntilIdle(ctx, app);
    ctx->SetRef(ctx->WindowInfo("//Overview/heads").Window);
    ctx->ItemClick("$$10/thumb");  // the trace holds three layers of nine heads
    ctx->Yield(2);
    IM_CHECK_EQ(app.view().layer_index, 1);
    IM_CHECK_EQ(app.view().head_index, 1);
    WaitUntilIdle(ctx, app);
    IM_CHECK_STR_EQ(ImGui::GetCurrentContext()->NavWindow->RootWindow->Name, "Heatmap");
  });
}

TEST(Overview, IsSorted) {
  DriveApp({.paths = {kNeedleTrace}}, [](ImGuiTestContext* ctx, App& app) {
    ctx->WindowFocus("//Overview");
    ctx->SetRef("//Overview");
    ctx->ComboClick("##order/needle weight");
    IM_CHECK(app.view().head_order == HeadOrder::kNeedle);
  });
}

TEST(Text, TheSearchGoesFromHitToHit) {
  DriveApp({.paths = {kNeedleTrace}}, [](ImGuiTestContext* ctx, App& app) {
    ctx->WindowFocus("//Text");
    ctx->ItemClick("//Text/##search");
    ctx->KeyCharsReplaceEnter(" the");
    ctx->Yield(2);
    const auto& pieces = app.current()->reader().tokens().pieces;
    const int first = app.view().marked_token;
    IM_CHECK_GE(first, 0);
    IM_CHECK(pieces[first].starts_with(" the"));
    ctx->KeyPress(ImGuiKey_Enter);
    ctx->Yield(2);
    IM_CHECK_GT(app.view().marked_token, first);
    const int second = app.view().marked_token;
    ctx->ItemClick("//Text/##search");
    ctx->KeyCharsReplaceEnter("this is nowhere in it");
    ctx->Yield(2);
    IM_CHECK_EQ(app.view().marked_token, second);
  });
}

TEST(Text, AClickMarksAToken) {
  DriveApp({.paths = {kNeedleTrace}}, [](ImGuiTestContext* ctx, App& app) {
    ctx->WindowFocus("//Text");
    ctx->Yield(2);
    const ImRect tokens = ctx->WindowInfo("//Text/tokens").Window->InnerRect;
    ctx->MouseMoveToPos({tokens.Min.x + 12, tokens.Min.y + 2 * ImGui::GetFontSize()});  // below a header
    ctx->MouseClick();
    ctx->Yield(2);
    const int marked = app.view().marked_token;
    IM_CHECK_GE(marked, 0);
    ctx->MouseClick();  // once more: not any longer
    ctx->Yield(2);
    IM_CHECK_EQ(app.view().marked_token, -1);
  });
}

TEST(Timeline, IsScrubbedAndPlayed) {
  DriveApp({.paths = {kNeedleTrace}}, [](ImGuiTestContext* ctx, App& app) {
    ctx->ItemInputValue("//Timeline/##step", 5);
    IM_CHECK_EQ(app.view().step, 5);
    ctx->ItemInputValue("//Timeline/##speed", 10.0f);
    ctx->ItemClick("//Timeline/###play");
    ctx->Yield(30);
    IM_CHECK_GT(app.view().step, 6);
    ctx->KeyPress(ImGuiKey_Space);  // rests
    ctx->Yield(2);
    const int paused = app.view().step;
    ctx->Yield(30);
    IM_CHECK_EQ(app.view().step, paused);
    ctx->KeyPress(ImGuiKey_Space);  // plays to the end and rests
    ctx->Yield(120);
    IM_CHECK_EQ(app.view().step, static_cast<int>(app.current()->reader().steps().size()) - 1);
    // What was played is two steps of undo, however many frames it took.
    ctx->Yield(3);
    ctx->KeyPress(ImGuiMod_Ctrl | ImGuiKey_Z, 2);
    ctx->Yield(3);
    IM_CHECK_EQ(app.view().step, 5);
  });
}

TEST(Run, ChecksTheTrace) {
  DriveApp({.paths = {kNeedleTrace}}, [](ImGuiTestContext* ctx, App& app) {
    ctx->WindowFocus("//Run");
    ctx->SetRef("//Run");
    ctx->ItemClick("**/Check");
    ctx->Yield(2);
    WaitUntilIdle(ctx, app);
    IM_CHECK(app.Csv("run").find("integrity,\"intact: ") != std::string::npos);
  });
}

TEST(Run, SwitchesFiles) {
  const std::string other = TempPath("other.kvtrace.h5");
  std::filesystem::copy_file(kNeedleTrace, other, std::filesystem::copy_options::overwrite_existing);
  DriveApp({.paths = {kNeedleTrace, other}}, [&](ImGuiTestContext* ctx, App& app) {
    IM_CHECK_STR_EQ(app.current()->path().c_str(), kNeedleTrace.c_str());
    ctx->WindowFocus("//Run");
    ctx->SetRef("//Run");
    ctx->ComboClick("##file/other.kvtrace.h5##1");
    WaitUntilIdle(ctx, app);
    IM_CHECK_STR_EQ(app.current()->path().c_str(), other.c_str());
    ctx->KeyPress(ImGuiMod_Ctrl | ImGuiKey_Z);
    WaitUntilIdle(ctx, app);
    IM_CHECK_STR_EQ(app.current()->path().c_str(), kNeedleTrace.c_str());
  });
}

}  // namespace
}  // namespace kvscope
