// SPDX-License-Identifier: Apache-2.0
// Shortcuts, undo and redo.
#include <gtest/gtest.h>
#include <imgui_internal.h>
#include <imgui_te_context.h>

#include "tests/support/gui_app.h"

namespace kvscope {
namespace {

constexpr ImGuiKeyChord kUndo = ImGuiMod_Ctrl | ImGuiKey_Z, kRedo = ImGuiMod_Ctrl | ImGuiKey_Y;

bool IsShown(ImGuiTestContext* ctx, const char* window) {
  const ImGuiWindow* const found = ctx->GetWindowByRef(window);
  return found && found->Active;
}

TEST(Keys, ChooseLayerHeadAndStep) {
  DriveApp({.paths = {kNeedleTrace}}, [](ImGuiTestContext* ctx, App& app) {
    ctx->KeyPress(ImGuiKey_DownArrow);
    ctx->KeyChars("]");
    ctx->Yield();
    IM_CHECK_EQ(app.view().layer_index, 2);
    ctx->KeyPress(ImGuiKey_DownArrow);  // there is no other
    IM_CHECK_EQ(app.view().layer_index, 2);
    ctx->KeyPress(ImGuiKey_UpArrow);
    IM_CHECK_EQ(app.view().layer_index, 1);
    ctx->KeyPress(ImGuiKey_J, 3);
    ctx->KeyPress(ImGuiKey_K);
    IM_CHECK_EQ(app.view().head_index, 2);
    ctx->KeyPress(ImGuiKey_RightArrow, 4);
    ctx->KeyPress(ImGuiKey_LeftArrow);
    IM_CHECK_EQ(app.view().step, 3);
  });
}

TEST(Keys, SwitchTheHeatmap) {
  DriveApp({.paths = {kNeedleTrace}, .view = {.window = {100, 200, 100, 200}}}, [](ImGuiTestContext* ctx, App& app) {
    ctx->KeyPress(ImGuiKey_L);
    IM_CHECK(!app.view().is_log);
    ctx->KeyPress(ImGuiKey_S);
    IM_CHECK(app.view().masks_sinks);
    IM_CHECK(app.view().window != MapWindow{});
    ctx->KeyPress(ImGuiKey_Home);
    IM_CHECK(app.view().window == MapWindow{});
  });
}

TEST(Keys, DoNothingInATextField) {
  DriveApp({.paths = {kNeedleTrace}}, [](ImGuiTestContext* ctx, App& app) {
    const ViewState before = app.view();
    ctx->KeyPress(ImGuiMod_Ctrl | ImGuiKey_F);
    ctx->Yield(3);
    IM_CHECK(ImGui::GetIO().WantTextInput);
    ctx->KeyChars("ls?jk[]");
    ctx->KeyPress(ImGuiKey_L);
    ctx->KeyPress(ImGuiKey_Space);
    ctx->Yield();
    IM_CHECK(app.view() == before);
    IM_CHECK(!IsShown(ctx, "//Shortcuts"));
  });
}

TEST(Keys, AreListedByAQuestionMark) {
  DriveApp({.paths = {kNeedleTrace}}, [](ImGuiTestContext* ctx, App&) {
    ctx->KeyChars("?");
    ctx->Yield(2);
    IM_CHECK(IsShown(ctx, "//Shortcuts"));
    ctx->KeyPress(ImGuiKey_Escape);
    ctx->Yield(2);
    IM_CHECK(!IsShown(ctx, "//Shortcuts"));
    for (const bool is_shown : {true, false}) {
      ctx->KeyPress(ImGuiKey_F1);
      ctx->Yield(2);
      IM_CHECK_EQ(IsShown(ctx, "//Shortcuts"), is_shown);
    }
    ctx->MenuClick("//##MainMenuBar/Help/Shortcuts");
    ctx->Yield(2);
    IM_CHECK(IsShown(ctx, "//Shortcuts"));
  });
}

// Also a panel that is behind another, or closed.
TEST(Keys, BringTheirPanelForward) {
  DriveApp({.paths = {kNeedleTrace}}, [](ImGuiTestContext* ctx, App& app) {
    ctx->WindowClose("//Timeline");
    ctx->Yield(2);
    ctx->KeyPress(ImGuiKey_Space);
    ctx->Yield(60);
    IM_CHECK(IsShown(ctx, "//Timeline"));
    IM_CHECK_GT(app.view().step, 1);
    ctx->DockInto("//Timeline", "//Heatmap");
    ctx->WindowFocus("//Heatmap");
    ctx->KeyPress(ImGuiKey_Space);  // rests
    ctx->Yield(3);
    const int step = app.view().step;
    ctx->Yield(60);
    IM_CHECK_EQ(app.view().step, step);
  });
}

TEST(Keys, Quit) {
  DriveApp({}, [](ImGuiTestContext* ctx, App& app) {
    IM_CHECK(!app.IsDone());
    ctx->KeyPress(ImGuiMod_Ctrl | ImGuiKey_Q);
    IM_CHECK(app.IsDone());
  });
}

TEST(Keys, WorkOnTheStartScreen) {
  DriveApp({}, [](ImGuiTestContext* ctx, App& app) {
    const ViewState before = app.view();
    for (const ImGuiKeyChord key : {ImGuiKeyChord{ImGuiKey_DownArrow}, ImGuiKeyChord{ImGuiKey_Space}, kUndo,
                                    ImGuiMod_Ctrl | ImGuiKey_E, ImGuiMod_Ctrl | ImGuiKey_P})
      ctx->KeyPress(key);
    ctx->Yield(3);
    IM_CHECK(app.view() == before);
    IM_CHECK(app.status().find("is open, so there is no") != std::string::npos);
  });
}

TEST(Undo, GoesBackAndForth) {
  DriveApp({.paths = {kNeedleTrace}}, [](ImGuiTestContext* ctx, App& app) {
    const ViewState first = app.view();
    ctx->KeyPress(ImGuiKey_L);
    ctx->Yield(2);
    ctx->ItemInputValue("//Heatmap/##layer", 2);
    ctx->Yield(2);
    const ViewState last = app.view();
    ctx->KeyPress(kUndo);
    ctx->Yield(2);
    IM_CHECK_EQ(app.view().layer_index, 0);
    IM_CHECK(!app.view().is_log);
    ctx->KeyPress(kUndo);
    ctx->Yield(2);
    IM_CHECK(app.view() == first);
    ctx->KeyPress(kUndo);  // nothing is left
    ctx->Yield(2);
    IM_CHECK(app.view() == first);
    ctx->KeyPress(kRedo);
    ctx->KeyPress(ImGuiMod_Ctrl | ImGuiMod_Shift | ImGuiKey_Z);
    ctx->Yield(2);
    IM_CHECK(app.view() == last);
  });
}

TEST(Undo, ADragOfASliderIsOneStep) {
  DriveApp({.paths = {kNeedleTrace}}, [](ImGuiTestContext* ctx, App& app) {
    const ImGuiTestItemInfo slider = ctx->ItemInfo("//Heatmap/##head");
    const float y = slider.RectFull.GetCenter().y;
    ctx->MouseMoveToPos({slider.RectFull.Min.x + 4, y});
    ctx->MouseDown();
    for (float share = 0.1f; share < 1; share += 0.1f) {
      ctx->MouseMoveToPos({slider.RectFull.Min.x + share * slider.RectFull.GetWidth(), y});
      ctx->Yield();
    }
    ctx->MouseUp();
    ctx->Yield(2);
    IM_CHECK_GT(app.view().head_index, 4);
    ctx->KeyPress(kUndo);
    ctx->Yield(2);
    IM_CHECK_EQ(app.view().head_index, 0);
  });
}

TEST(Undo, ZoomedMapsComeBack) {
  DriveApp({.paths = {kNeedleTrace}}, [](ImGuiTestContext* ctx, App& app) {
    ctx->WindowFocus("//Heatmap");
    const ImRect rect = ctx->GetWindowByRef("//Heatmap")->InnerRect;
    ctx->MouseMoveToPos({rect.GetCenter().x, rect.GetCenter().y + 20});
    for (int notch = 0; notch < 5; ++notch) ctx->MouseWheelY(1);
    ctx->Yield(60);  // the wheel is at rest
    const MapWindow near = app.view().window;
    IM_CHECK(near != MapWindow{});
    ctx->KeyPress(kUndo);
    ctx->Yield(3);
    IM_CHECK(app.view().window == MapWindow{});
    ctx->KeyPress(kRedo);
    ctx->Yield(3);
    IM_CHECK(app.view().window == near);
  });
}

}  // namespace
}  // namespace kvscope
