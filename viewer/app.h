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
  std::string only_panel{};            // one of PanelNames(); empty: all, docked
  std::optional<int> layer{}, head{};  // absolute numbers, for the first trace
  ViewState view{};
  bool follows = true;  // files that are still being written; a picture shows what is there
};

std::vector<std::string> PanelNames();

class App final : public Frame {
 public:
  explicit App(const AppOptions& options);
  void Draw() override;
  bool IsBusy() const override;
  void DroppedFiles(std::vector<std::string> paths) override;

  // Empty, or why what was asked for cannot be shown.
  std::string failure() const;
  const ViewState& view() const { return view_; }
  const PolicyModel& policies() const { return policies_; }
  // The one that is looked at; null: none is open.
  TraceDocument* current() const;

 private:
  void ChooseAskedFor();
  PanelContext Context();
  // Sorts files and folders into traces and results beside the frames, then opens them.
  void Open(std::vector<std::string> paths);
  void OpenTrace(const std::string& path);
  void ListTrace(const std::string& path);
  bool IsOpening() const { return num_opening_ > 0; }
  void DrawFailure();
  void DrawDocked();
  void DrawFiles();

  AppOptions options_;
  std::string failure_;
  ViewState view_;
  std::vector<std::unique_ptr<TraceDocument>> documents_;
  std::vector<std::unique_ptr<ResultsDocument>> results_;
  std::vector<std::string> traces_;       // paths of all, open or only listed
  int num_opened_ = 0, num_opening_ = 0;  // calls of Open, and those whose files are not sorted yet
  double next_follow_ = 0;
  bool is_moving_ = false;  // a panel plays
  std::string focus_;       // title of the panel whose tab comes to the front in the next frame
  StartFrame start_;
  struct NamedPanel {
    std::string name, title;  // on the command line, on its tab
    std::unique_ptr<Panel> panel;
  };
  static std::vector<NamedPanel> MakePanels();
  friend std::vector<std::string> PanelNames();
  PolicyModel policies_;
  std::vector<NamedPanel> panels_ = MakePanels();
  Jobs jobs_;  // last: its threads end before what they work on
};

}  // namespace kvscope
