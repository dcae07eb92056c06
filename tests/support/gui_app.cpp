// SPDX-License-Identifier: Apache-2.0
#include "tests/support/gui_app.h"

#include <gtest/gtest.h>
#include <imgui.h>
#include <imgui_te_context.h>
#include <imgui_te_engine.h>

#include <utility>

#include "tests/support/viewer_display.h"
#include "viewer/shell.h"

namespace kvscope {
namespace {

// The program's frame with the engine around it. The engine outlives the window, as it unbinds when that goes.
class TestedApp final : public Frame {
 public:
  TestedApp(const AppOptions& options, Drive drive)
      : app_(options), drive_(std::move(drive)), engine_(ImGuiTestEngine_CreateContext()) {
    ImGuiTestEngineIO& io = ImGuiTestEngine_GetIO(engine_);
    io.ConfigRunSpeed = ImGuiTestRunSpeed_Fast;
    io.ConfigVerboseLevel = ImGuiTestVerboseLevel_Info;
    io.ConfigVerboseLevelOnError = ImGuiTestVerboseLevel_Debug;
    io.ConfigSavedSettings = false;
    io.ConfigMouseDrawCursor = false;
    io.ConfigFixedDeltaTime = 1.0f / 60;
    test_ = ImGuiTestEngine_RegisterTest(engine_, "gui", "test");
    test_->TestFunc = [this](ImGuiTestContext* ctx) {
      WaitUntilIdle(ctx, app_);
      if (!ctx->IsError()) drive_(ctx, app_);
    };
  }
  ~TestedApp() override { ImGuiTestEngine_DestroyContext(engine_); }

  void Draw() override {
    if (!is_started_) {
      ImGuiTestEngine_Start(engine_, ImGui::GetCurrentContext());
      ImGuiTestEngine_QueueTest(engine_, test_);
      is_started_ = true;
    }
    app_.Draw();
  }
  std::optional<PictureRequest> TakePictureRequest() override { return app_.TakePictureRequest(); }
  std::optional<bool> WantsDark() const override { return app_.WantsDark(); }
  bool IsBusy() const override { return true; }
  // Asked once after every frame, when it is on the screen.
  bool IsDone() const override {
    if (!is_started_) return false;
    ImGuiTestEngine_PostSwap(engine_);
    if (!ImGuiTestEngine_IsTestQueueEmpty(engine_)) return false;
    ImGuiTestEngine_Stop(engine_);
    return true;
  }

  bool succeeded() const { return test_->Output.Status == ImGuiTestStatus_Success; }
  std::string log() const { return test_->Output.Log.Buffer.c_str(); }

 private:
  App app_;
  Drive drive_;
  ImGuiTestEngine* engine_;
  ImGuiTest* test_;
  bool is_started_ = false;
};

}  // namespace

void WaitUntilIdle(ImGuiTestContext* ctx, const App& app) {
  ctx->Yield(3);
  for (int frame = 0; frame < 1800 && app.IsBusy(); ++frame) ctx->Yield();
  IM_CHECK(!app.IsBusy());
  ctx->Yield(2);
}

void DriveApp(const AppOptions& options, Drive drive, const std::string& ini_path) {
  const Display display;
  if (!display.is_there()) GTEST_SKIP() << "no Xvfb; install tests/packages.txt";
  TestedApp app(options, std::move(drive));
  RunWindow(app, {.width = 1000, .height = 700, .ini_path = ini_path});
  EXPECT_TRUE(app.succeeded()) << app.log();
}

}  // namespace kvscope
