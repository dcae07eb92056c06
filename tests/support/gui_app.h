// SPDX-License-Identifier: Apache-2.0
// The real program in a window on a virtual display, driven by Dear ImGui Test Engine: mouse and keys go in, the state
// and files come out.
//
//   TEST(Heatmap, FollowsTheSlider) {
//     DriveApp({.paths = {kNeedleTrace}}, [](ImGuiTestContext* ctx, const App& app) {
//       ctx->ItemClick("//Heatmap/log");
//       IM_CHECK(!app.view().is_log);
//     });
//   }
#pragma once

#include <functional>
#include <string>

#include "viewer/app.h"

struct ImGuiTestContext;

namespace kvscope {

inline const std::string kNeedleTrace = KVSCOPE_SOURCE_DIR "/traces/needle_512.kvtrace.h5";

// Opens the program, waits until it is not busy, runs `drive` and closes the window. Fails the test that is running
// with the engine's log when one of the engine's checks or actions failed; skips it where there is no display.
using Drive = std::function<void(ImGuiTestContext*, App&)>;
void DriveApp(const AppOptions& options, Drive drive, const std::string& ini_path = "");

// Frames until the program's jobs are done, or the engine's check fails.
void WaitUntilIdle(ImGuiTestContext* ctx, const App& app);

}  // namespace kvscope
