// SPDX-License-Identifier: Apache-2.0
// Curves and grid under the mouse: a point becomes the plan that all panels follow, a cell opens its trace, a trace is
// measured and the measuring stopped.
#include "core/results.h"

#include <gtest/gtest.h>
#include <imgui_internal.h>
#include <imgui_te_context.h>
#include <implot.h>
#include <implot_internal.h>

#include <filesystem>

#include "tests/support/core_files.h"
#include "tests/support/gui_app.h"

namespace kvscope {
namespace {

namespace fs = std::filesystem;

Results::Row Row(const std::string& policy, double fraction, double loss) {
  Results::Row row;
  ResultRow& figures = row.figures;
  figures.Set("run_id", "a"), figures.Set("trace", kNeedleTrace), figures.Set("policy", policy);
  figures.Set("mode", "replay"), figures.Set("task", "niah"), figures.Set("keep_fraction_asked", fraction);
  figures.Set("kept_bytes_prefill", 1e6 * fraction), figures.Set("attention_loss", loss);
  return row;
}

std::string ResultsFile() {
  Results results;
  results.rows = {Row("tova", 0.5, 0.2), Row("tova", 0.1, 0.6), Row("snapkv", 0.5, 0.1)};
  const std::string path = TempPath("results.h5");
  WriteResults(path, results);
  return path;
}

// Where a point of the plot is on the screen.
ImVec2 PlaceOf(ImGuiTestContext* ctx, double bytes, double value) {
  ImPlotPlot* const plot =
      ImPlot::GetCurrentContext()->Plots.GetByKey(ctx->GetWindowByRef("//Curves")->GetID("##curves"));
  IM_CHECK_RETV(plot != nullptr, ImVec2());
  return {plot->Axes[ImAxis_X1].PlotToPixels(bytes), plot->Axes[ImAxis_Y1].PlotToPixels(value)};
}

TEST(Curves, AClickOnAPointLoadsItsPlanAndItsTrace) {
  DriveApp({.paths = {ResultsFile()}}, [](ImGuiTestContext* ctx, App& app) {
    ctx->MouseMoveToPos(PlaceOf(ctx, 1e5, 0.6));
    ctx->Yield(2);
    ctx->MouseClick();
    WaitUntilIdle(ctx, app);
    const ViewState& view = app.view();
    IM_CHECK_EQ(view.policies.size(), 3u);
    IM_CHECK_STR_EQ(view.policies[view.policy_index].spec.c_str(), "tova");
    IM_CHECK_EQ(view.policies[view.policy_index].keep_fraction, 0.1);
    ctx->WindowFocus("//Curves");
    ctx->MouseMoveToPos(PlaceOf(ctx, 5e5, 0.1));
    ctx->Yield(2);
    ctx->MouseClick();
    WaitUntilIdle(ctx, app);
    IM_CHECK_EQ(app.view().policies.size(), 3u);
    IM_CHECK(app.view().policies[0] == (PolicyChoice{"snapkv", 0.5}));
    // The trace is open: another panel has something to show.
    ctx->WindowFocus("//Heatmap");
    ctx->ItemInputValue("//Heatmap/##layer", 1);
    IM_CHECK_EQ(app.view().layer_index, 1);
  });
}

TEST(Curves, ATraceIsMeasuredWhereNoResultsAre) {
  DriveApp({.paths = {kNeedleTrace}}, [](ImGuiTestContext* ctx, App& app) {
    ctx->WindowFocus("//Curves");
    ctx->ItemClick("//Curves/Measure this trace");
    WaitUntilIdle(ctx, app);
    IM_CHECK(ctx->ItemExists("//Curves/##metric"));
    ctx->ItemClick("//Curves/measure again");
    WaitUntilIdle(ctx, app);
    IM_CHECK(ctx->ItemExists("//Curves/##metric"));
  });
}

TEST(Grid, AClickOpensTheTraceOfACell) {
  const std::string folder = TempPath("runs");
  fs::remove_all(folder);
  fs::create_directories(folder);
  for (const char* name : {"/a.kvtrace.h5", "/b.kvtrace.h5"}) fs::copy_file(kNeedleTrace, folder + name);
  DriveApp({.paths = {folder}}, [](ImGuiTestContext* ctx, App& app) {
    ctx->WindowFocus("//Grid");
    WaitUntilIdle(ctx, app);
    IM_CHECK_EQ(app.view().document_index, 0);
    ctx->ItemClick("//Grid/needle kept by");
    WaitUntilIdle(ctx, app);
    IM_CHECK(app.view().grid_shows_retention);
    ctx->SetRef(ctx->WindowInfo("//Grid/cells").ID);
    ctx->ItemClick("$$0/cell");
    WaitUntilIdle(ctx, app);
    IM_CHECK_EQ(app.view().document_index, 0);  // both files are one run, and its first file is open
  });
}

}  // namespace
}  // namespace kvscope
