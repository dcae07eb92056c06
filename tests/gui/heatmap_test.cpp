// SPDX-License-Identifier: Apache-2.0
// The heatmap under the mouse. What is zoomed into is in the view, so that it can be undone, kept and compared.
#include <gtest/gtest.h>
#include <imgui_internal.h>
#include <imgui_te_context.h>

#include "tests/support/gui_app.h"
#include "viewer/heatmap_model.h"

namespace kvscope {
namespace {

// ImPlot takes one notch a frame.
void Zoom(ImGuiTestContext* ctx, int notches) {
  for (int notch = 0; notch < std::abs(notches); ++notch) ctx->MouseWheelY(notches > 0 ? 1 : -1);
  ctx->Yield(2);
}

// The middle of the map.
ImVec2 Middle(ImGuiTestContext* ctx) {
  ctx->WindowFocus("//Heatmap");
  const ImRect rect = ctx->GetWindowByRef("//Heatmap")->InnerRect;
  return {rect.Min.x + rect.GetWidth() * 0.5f, rect.Min.y + rect.GetHeight() * 0.55f};
}

TEST(Heatmap, TheSlidersChooseLayerAndHead) {
  DriveApp({.paths = {kNeedleTrace}}, [](ImGuiTestContext* ctx, App& app) {
    ctx->WindowFocus("//Heatmap");
    ctx->ItemInputValue("//Heatmap/##layer", 2);
    IM_CHECK_EQ(app.view().layer_index, 2);
    ctx->ItemInputValue("//Heatmap/##head", 7);
    IM_CHECK_EQ(app.view().head_index, 7);
    ctx->ItemInputValue("//Heatmap/##layer", 99);
    IM_CHECK_EQ(app.view().layer_index, 2);
  });
}

TEST(Heatmap, TheWheelZooms) {
  DriveApp({.paths = {kNeedleTrace}}, [](ImGuiTestContext* ctx, App& app) {
    ctx->MouseMoveToPos(Middle(ctx));
    IM_CHECK(app.view().window == MapWindow{});
    Zoom(ctx, 3);
    const MapWindow near = app.view().window;
    IM_CHECK(near != MapWindow{});
    IM_CHECK_LT(near.token_end - near.token_begin, 500);
    IM_CHECK_LT(near.query_end - near.query_begin, 500);
    WaitUntilIdle(ctx, app);
    IM_CHECK(app.view().window == near);  // it stays as it is
    Zoom(ctx, -20);
    IM_CHECK(app.view().window == MapWindow{});  // all of it again
  });
}

TEST(Heatmap, ADragMovesWhatIsSeen) {
  DriveApp({.paths = {kNeedleTrace}}, [](ImGuiTestContext* ctx, App& app) {
    ctx->MouseMoveToPos(Middle(ctx));
    Zoom(ctx, 5);
    const MapWindow before = app.view().window;
    ctx->MouseDragWithDelta({60, 40});
    ctx->Yield(2);
    const MapWindow after = app.view().window;
    IM_CHECK_LT(after.token_begin, before.token_begin);
    IM_CHECK_LT(after.query_begin, before.query_begin);
    IM_CHECK_LE(std::abs((after.token_end - after.token_begin) - (before.token_end - before.token_begin)), 1);
    ctx->MouseDragWithDelta({500, 0});  // against the border, where it stays as long as it was
    ctx->Yield(2);
    const MapWindow left = app.view().window;
    IM_CHECK_EQ(left.token_begin, 0);
    IM_CHECK_LE(std::abs((left.token_end - left.token_begin) - (before.token_end - before.token_begin)), 2);
  });
}

TEST(Heatmap, ADoubleClickShowsEverythingAgain) {
  DriveApp({.paths = {kNeedleTrace}}, [](ImGuiTestContext* ctx, App& app) {
    ctx->MouseMoveToPos(Middle(ctx));
    Zoom(ctx, 5);
    IM_CHECK(app.view().window != MapWindow{});
    ctx->MouseDoubleClick();
    ctx->Yield(3);
    IM_CHECK(app.view().window == MapWindow{});
    Zoom(ctx, 5);  // and it can be zoomed once more
    IM_CHECK(app.view().window != MapWindow{});
  });
}

TEST(Heatmap, ADragThatBeganElsewhereChangesNothing) {
  DriveApp({.paths = {kNeedleTrace}}, [](ImGuiTestContext* ctx, App& app) {
    ctx->MouseMove("//Heatmap/##layer");
    ctx->MouseDown();
    ctx->MouseMoveToPos(Middle(ctx));
    ctx->Yield(2);
    ctx->MouseUp();
    ctx->Yield(2);
    IM_CHECK(app.view().window == MapWindow{});
  });
}

TEST(Heatmap, TheOtherKindsZoomAlongTheTokens) {
  DriveApp({.paths = {kNeedleTrace}, .view = {.heatmap_kind = HeatmapKind::kStep}},
           [](ImGuiTestContext* ctx, App& app) {
             ctx->MouseMoveToPos(Middle(ctx));
             Zoom(ctx, 5);
             const MapWindow near = app.view().window;
             IM_CHECK_LT(near.token_end - near.token_begin, 400);
             IM_CHECK_EQ(near.query_end - near.query_begin, app.current()->num_tokens());
             ctx->MouseDragWithDelta({30, 30});
             ctx->Yield(2);
             IM_CHECK_LT(app.view().window.token_begin, near.token_begin);
             IM_CHECK_EQ(app.view().window.query_begin, 0);
             ctx->MouseDoubleClick();
             ctx->Yield(3);
             IM_CHECK(app.view().window == MapWindow{});
           });
}

}  // namespace
}  // namespace kvscope
