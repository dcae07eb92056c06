// SPDX-License-Identifier: Apache-2.0
// Pictures and tables out of the window, as files and through the clipboard.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <imgui_internal.h>
#include <imgui_te_context.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "tests/support/core_files.h"
#include "tests/support/gui_app.h"
#include "viewer/image.h"

namespace kvscope {
namespace {

namespace fs = std::filesystem;
using testing::StartsWith;

// An empty folder that is the current one meanwhile.
class CurrentFolder {
 public:
  explicit CurrentFolder(const std::string& name) : former_(fs::current_path()) {
    fs::remove_all(TempPath(name));
    fs::create_directories(TempPath(name));
    fs::current_path(TempPath(name));
  }
  ~CurrentFolder() { fs::current_path(former_); }

 private:
  fs::path former_;
};

TEST(Export, EveryPanelHasATable) {
  const CurrentFolder here("tables");
  DriveApp({.paths = {kNeedleTrace}}, [](ImGuiTestContext* ctx, App& app) {
    for (const char* panel : {"//Run", "//Overview", "//Text", "//Timeline", "//Heatmap"}) {
      ctx->WindowFocus(panel);
      WaitUntilIdle(ctx, app);
      ctx->KeyPress(ImGuiMod_Ctrl | ImGuiKey_E);
      ctx->Yield(2);
      IM_CHECK(app.status().starts_with("Table saved as "));
    }
  });
  if (testing::Test::IsSkipped()) GTEST_SKIP();
  EXPECT_THAT(ReadFile("kvscope_run_1.csv"), StartsWith("heading,text\n"));
  EXPECT_THAT(ReadFile("kvscope_overview_1.csv"), StartsWith("layer,head,needle,sink,local,entropy\n3,0,"));
  EXPECT_THAT(ReadFile("kvscope_text_1.csv"), StartsWith("token,text,mean_weight,bits,kinds\n0,"));
  EXPECT_THAT(ReadFile("kvscope_timeline_1.csv"), StartsWith("step,query_token,token,text,weight\n0,"));
  EXPECT_THAT(ReadFile("kvscope_heatmap_1.csv"), StartsWith("query_begin,query_end,token_begin,token_end,weight\n0,"));
}

TEST(Export, APictureHasThePanelsPixels) {
  const CurrentFolder here("pictures");
  ImVec2 size;
  DriveApp({.paths = {kNeedleTrace}}, [&](ImGuiTestContext* ctx, App& app) {
    ctx->WindowFocus("//Heatmap");
    size = ctx->GetWindowByRef("//Heatmap")->InnerRect.GetSize();
    for (int picture = 0; picture < 2; ++picture) {
      ctx->KeyPress(ImGuiMod_Ctrl | ImGuiKey_P);
      ctx->Yield(6);
      IM_CHECK(app.status().starts_with("Picture saved as "));
    }
  });
  if (testing::Test::IsSkipped()) GTEST_SKIP();
  const Image image = ReadPng("kvscope_heatmap_1.png");
  EXPECT_NEAR(image.width, size.x, 1);
  EXPECT_NEAR(image.height, size.y, 1);
  EXPECT_GT(std::set(image.rgba.begin(), image.rgba.end()).size(), 100u);
  EXPECT_EQ(ReadPng("kvscope_heatmap_2.png").rgba, image.rgba);  // the first is not overwritten
}

// Neither the menu nor what hovers is in it.
TEST(Export, ATabOffersIt) {
  const CurrentFolder here("tabs");
  DriveApp({.paths = {kNeedleTrace}}, [](ImGuiTestContext* ctx, App& app) {
    ctx->WindowFocus("//Timeline");
    ctx->KeyPress(ImGuiMod_Ctrl | ImGuiKey_P);
    ctx->Yield(6);
    ctx->WindowFocus("//Heatmap");
    for (const char* item : {"Save picture", "Save table", "Copy table"}) {
      ctx->MouseMoveToPos(ctx->GetWindowTitlebarPoint("//Timeline"));
      ctx->MouseClick(ImGuiMouseButton_Right);
      ctx->Yield(2);
      ctx->SetRef("//$FOCUSED");
      ctx->ItemClick(item);
      ctx->Yield(6);
    }
    IM_CHECK(app.status().starts_with("Copied the table of Timeline"));
    IM_CHECK(std::string(ImGui::GetClipboardText()).starts_with("step,query_token,"));
  });
  if (testing::Test::IsSkipped()) GTEST_SKIP();
  EXPECT_TRUE(fs::exists("kvscope_timeline_1.csv"));
  EXPECT_EQ(ReadPng("kvscope_timeline_1.png").rgba, ReadPng("kvscope_timeline_2.png").rgba);
}

TEST(Export, SaysWhyNothingWasWritten) {
  const CurrentFolder here("gone");
  DriveApp({.paths = {kNeedleTrace}}, [](ImGuiTestContext* ctx, App& app) {
    fs::remove_all(fs::current_path());
    ctx->WindowFocus("//Run");
    ctx->KeyPress(ImGuiMod_Ctrl | ImGuiKey_E);
    ctx->Yield(2);
    IM_CHECK(app.status().find("cannot be written") != std::string::npos);
    ctx->KeyPress(ImGuiMod_Ctrl | ImGuiKey_P);
    ctx->Yield(6);
    IM_CHECK(app.status().find("the picture cannot be written") != std::string::npos);
  });
}

}  // namespace
}  // namespace kvscope
