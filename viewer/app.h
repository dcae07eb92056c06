// SPDX-License-Identifier: Apache-2.0
// The viewer: open traces, what is chosen, and the panels, docked or one alone.
#pragma once

#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "viewer/history.h"
#include "viewer/open_dialog.h"
#include "viewer/panels.h"
#include "viewer/recent_files.h"
#include "viewer/shell.h"
#include "viewer/shortcuts.h"

namespace kvscope {

struct AppOptions {
  std::vector<std::string> paths{};
  std::string only_panel{};            // one of PanelNames(); empty: all, docked
  std::optional<int> layer{}, head{};  // absolute numbers, for the first trace
  ViewState view{};
  std::optional<bool> is_dark{};  // for this run, whatever was kept; nothing: as it was kept
  std::string state_folder{};     // recent files and preferences between runs; empty: nowhere
  bool follows = true;            // files that are still being written; a picture shows what is there
};

std::vector<std::string> PanelNames();

class App final : public Frame {
 public:
  explicit App(const AppOptions& options);
  void Draw() override;
  bool IsBusy() const override;
  bool IsDone() const override { return wants_quit_; }
  void DroppedFiles(std::vector<std::string> paths) override;
  std::optional<PictureRequest> TakePictureRequest() override { return std::exchange(picture_request_, {}); }
  std::optional<bool> WantsDark() const override { return wants_dark_; }

  // Empty, or why what was asked for cannot be shown.
  std::string failure() const;
  const ViewState& view() const { return view_; }
  const PolicyModel& policies() const { return policies_; }
  // The one that is looked at; null: none is open.
  TraceDocument* current() const;
  // What a panel shows, as a table. Throws Error when there is none.
  std::string Csv(const std::string& panel_name);
  const std::string& status() const { return status_; }  // the line at the bottom

 private:
  void ChooseAskedFor();
  PanelContext Context();
  // Sorts files and folders into traces and results beside the frames, then opens them.
  void Open(std::vector<std::string> paths);
  void OpenTrace(const std::string& path);
  void ListTrace(const std::string& path);
  bool IsOpening() const { return num_opening_ > 0; }
  bool IsEmpty() const { return documents_.empty() && results_.empty() && !IsOpening(); }
  void DrawFailure();
  void DrawDocked();
  void DrawFiles();

  // app_menu.cpp: the window around the panels, and what menus, keys and tabs ask for.
  void DrawWindow();
  void Do(Command command);
  void Move(Command command);
  void ShowPanel(const std::string& name);
  void DrawMenu();
  void DrawRecent();
  // After Begin of a panel's window: what a right click on its tab offers.
  void DrawTabMenu(size_t panel);
  void DrawStatus();
  void Say(std::string text) { status_ = std::move(text); }
  std::string CsvOfFocused();  // empty when it said why there is none
  void SaveTable();
  void CopyTable();
  void AskForPicture();
  void SavePreferences();
  void RememberFiles();
  void RememberView();  // for undo
  void ShowView(const std::optional<ViewState>& view);

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
  struct NamedPanel {
    std::string name, title;  // on the command line, on its tab
    std::unique_ptr<Panel> panel;
    bool is_shown = true;
  };
  static std::vector<NamedPanel> MakePanels();
  friend std::vector<std::string> PanelNames();
  PolicyModel policies_;
  std::vector<NamedPanel> panels_ = MakePanels();
  size_t focused_ = 0;  // of panels_: the last that had the keys
  bool wants_quit_ = false, resets_layout_ = false, shows_shortcuts_ = false;
  std::optional<bool> wants_dark_;
  std::optional<Command> command_;  // of this frame, for the panels
  std::string status_;
  History history_;
  bool was_restored_ = false;  // the view, by undo or redo, in this frame
  double settles_at_ = 0;      // wheel notches until then are one step
  RecentFiles recent_;
  std::set<std::string> remembered_;  // paths that are in recent_
  OpenDialog open_dialog_;
  int frames_to_picture_ = 0;  // of panels_[focused_]: menus are gone by then
  std::optional<PictureRequest> picture_request_;
  Jobs jobs_;  // last: its threads end before what they work on
};

}  // namespace kvscope
