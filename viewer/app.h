// SPDX-License-Identifier: Apache-2.0
// The viewer: open traces, what is chosen, and the panels, docked or one alone.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "viewer/panels.h"
#include "viewer/shell.h"
#include "viewer/start_frame.h"

namespace kvscope {

struct AppOptions {
  std::vector<std::string> paths;
  std::string only_panel;          // "run", "overview", "text", "timeline", "heatmap"; empty: all, docked
  std::optional<int> layer, head;  // absolute numbers, for the first trace
  ViewState view{};
  bool follows = true;  // files that are still being written; a picture shows what is there
};

class App final : public Frame {
 public:
  explicit App(const AppOptions& options);
  void Draw() override;
  bool IsBusy() const override;
  void DroppedFiles(std::vector<std::string> paths) override;

  // Empty, or why what was asked for cannot be shown.
  std::string failure() const;

 private:
  void ChooseAskedFor();
  void DrawPanel(const std::string& name);
  void DrawDocked();

  AppOptions options_;
  std::string failure_;
  ViewState view_;
  std::vector<std::unique_ptr<TraceDocument>> documents_;
  size_t current_ = 0;
  double next_follow_ = 0;
  bool is_moving_ = false;  // a panel plays
  StartFrame start_;
  OverviewPanel overview_;
  TextPanel text_;
  TimelinePanel timeline_;
  HeatmapPanel heatmap_;
  Jobs jobs_;  // last: its threads end before what they work on
};

}  // namespace kvscope
