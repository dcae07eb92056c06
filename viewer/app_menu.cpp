// SPDX-License-Identifier: Apache-2.0
// The window around the panels: menu bar, keys, undo, export and the line at the bottom.
#include <imgui.h>
#include <imgui_internal.h>

#include <algorithm>
#include <cfloat>
#include <filesystem>

#include "core/error.h"
#include "core/units.h"
#include "viewer/app.h"
#include "viewer/export.h"
#include "viewer/preferences.h"
#include "viewer/start_frame.h"
#include "viewer/theme.h"

namespace kvscope {
namespace {

constexpr double kWheelSecs = 0.4;  // notches closer than that are one step of undo

// One further or back among `count`, staying in.
void MoveIn(int& index, int by, int count) {
  index = std::clamp(index + by, 0, std::max(0, count - 1));
}

bool MenuItem(const char* label, Command command, bool is_enabled = true) {
  return ImGui::MenuItem(label, KeysOf(command).c_str(), false, is_enabled);
}

}  // namespace

void App::DrawWindow() {
  ImGuiIO& io = ImGui::GetIO();
  // Menus and dialogs are walked through with the arrows; outside them the arrows choose heads and steps.
  const bool has_popup = ImGui::IsPopupOpen("", ImGuiPopupFlags_AnyPopupId | ImGuiPopupFlags_AnyPopupLevel);
  io.ConfigFlags &= ~ImGuiConfigFlags_NavEnableKeyboard;
  if (has_popup) io.ConfigFlags |= ImGuiConfigFlags_NavEnableKeyboard;
  // A picture shows the panel, not what hovers over it.
  const ImVec2 mouse = io.MousePos;
  const bool is_for_picture = frames_to_picture_ == 1;
  if (is_for_picture) io.MousePos = {-FLT_MAX, -FLT_MAX};

  command_ = PressedCommand();
  if (command_) Do(*command_);
  DrawMenu();
  DrawStatus();
  if (IsEmpty()) {
    DrawStart({recent_.files(), [this] { open_dialog_.Open(); }, [this](const std::string& path) { Open({path}); }});
  } else {
    DrawDocked();
  }
  if (const std::vector<std::string> paths = open_dialog_.Draw(); !paths.empty()) Open(paths);
  DrawShortcuts(shows_shortcuts_);
  RememberFiles();
  RememberView();
  if (frames_to_picture_ > 0 && --frames_to_picture_ == 0) AskForPicture();
  io.MousePos = mouse;
}

void App::Do(Command command) {
  switch (command) {
    case Command::kOpen:
      return open_dialog_.Open();
    case Command::kSavePicture:
      if (IsEmpty()) return Say("Nothing is open, so there is no picture of a panel.");
      ShowPanel(panels_[focused_].name);
      frames_to_picture_ = 3;
      return;
    case Command::kSaveTable:
      return SaveTable();
    case Command::kCopyTable:
      return CopyTable();
    case Command::kQuit:
      wants_quit_ = true;
      return;
    case Command::kUndo:
      return ShowView(history_.Undo());
    case Command::kRedo:
      return ShowView(history_.Redo());
    case Command::kLogScale:
      view_.is_log = !view_.is_log;
      return;
    case Command::kMaskSinks:
      view_.masks_sinks = !view_.masks_sinks;
      return;
    case Command::kWholeHeatmap:
      view_.window = {};
      return;
    case Command::kTheme:
      wants_dark_ = !CurrentTheme().is_dark;
      return SavePreferences();
    case Command::kShortcuts:
      shows_shortcuts_ = !shows_shortcuts_;
      return;
    case Command::kPlay:
      return ShowPanel("timeline");  // it gets the command too
    case Command::kSearch:
      return ShowPanel("text");
    default:
      return Move(command);
  }
}

void App::ShowPanel(const std::string& name) {
  for (NamedPanel& panel : panels_) {
    if (panel.name != name) continue;
    panel.is_shown = true;
    ImGui::SetWindowFocus(panel.title.c_str());
  }
}

// To another layer, head or step.
void App::Move(Command command) {
  if (!current() || current()->state() != TraceDocument::State::kReady) return;
  const std::vector<LayerInfo>& layers = current()->reader().info().layers;
  const int num_steps = static_cast<int>(current()->reader().steps().size());
  const bool is_back =
      command == Command::kPreviousLayer || command == Command::kPreviousHead || command == Command::kPreviousStep;
  const int by = is_back ? -1 : 1;
  if (command == Command::kPreviousStep || command == Command::kNextStep) {
    MoveIn(view_.step, by, num_steps);
  } else if (layers.empty()) {
    return;
  } else if (command == Command::kPreviousLayer || command == Command::kNextLayer) {
    MoveIn(view_.layer_index, by, static_cast<int>(layers.size()));
  } else {
    MoveIn(view_.layer_index, 0, static_cast<int>(layers.size()));
    MoveIn(view_.head_index, by, static_cast<int>(layers[view_.layer_index].heads.size()));
  }
}

void App::DrawMenu() {
  if (!ImGui::BeginMainMenuBar()) return;
  std::optional<Command> chosen;
  const auto item = [&](const char* label, Command command, bool is_enabled = true) {
    if (MenuItem(label, command, is_enabled)) chosen = command;
  };
  const bool has_panels = !IsEmpty();
  if (ImGui::BeginMenu("File")) {
    item("Open ...", Command::kOpen);
    if (ImGui::BeginMenu("Recent", !recent_.files().empty())) {
      DrawRecent();
      ImGui::EndMenu();
    }
    ImGui::Separator();
    item("Save picture", Command::kSavePicture, has_panels);
    item("Save table", Command::kSaveTable, has_panels);
    item("Copy table", Command::kCopyTable, has_panels);
    ImGui::Separator();
    item("Quit", Command::kQuit);
    ImGui::EndMenu();
  }
  if (ImGui::BeginMenu("View")) {
    item("Undo", Command::kUndo, history_.can_undo());
    item("Redo", Command::kRedo, history_.can_redo());
    ImGui::Separator();
    item(CurrentTheme().is_dark ? "Light" : "Dark", Command::kTheme);
    if (ImGui::MenuItem("Reset layout")) {
      resets_layout_ = true;
      for (NamedPanel& panel : panels_) panel.is_shown = true;
      SavePreferences();
    }
    ImGui::Separator();
    for (NamedPanel& panel : panels_) {
      if (ImGui::MenuItem(panel.title.c_str(), nullptr, &panel.is_shown)) SavePreferences();
    }
    ImGui::EndMenu();
  }
  if (ImGui::BeginMenu("Help")) {
    item("Shortcuts", Command::kShortcuts);
    ImGui::EndMenu();
  }
  ImGui::EndMainMenuBar();
  if (chosen) Do(*chosen);
}

void App::DrawRecent() {
  const std::vector<std::string> files = recent_.files();  // opening changes it
  for (const std::string& path : files) {
    if (RecentFileItem(path)) Open({path});
  }
}

void App::DrawTabMenu(size_t panel) {
  if (!ImGui::BeginPopupContextItem()) return;
  std::optional<Command> chosen;
  if (MenuItem("Save picture", Command::kSavePicture)) chosen = Command::kSavePicture;
  if (MenuItem("Save table", Command::kSaveTable)) chosen = Command::kSaveTable;
  if (MenuItem("Copy table", Command::kCopyTable)) chosen = Command::kCopyTable;
  ImGui::EndPopup();
  if (!chosen) return;
  focused_ = panel;
  Do(*chosen);
}

// What was written or why not; what is looked at.
void App::DrawStatus() {
  const float height = ImGui::GetFrameHeight();
  constexpr ImGuiWindowFlags kFlags =
      ImGuiWindowFlags_NoScrollbar | ImGuiWindowFlags_NoSavedSettings | ImGuiWindowFlags_MenuBar;
  if (ImGui::BeginViewportSideBar("##status", ImGui::GetMainViewport(), ImGuiDir_Down, height, kFlags) &&
      ImGui::BeginMenuBar()) {
    std::string right = KeysOf(Command::kShortcuts) + "  shortcuts";
    if (current() && current()->state() == TraceDocument::State::kReady && !current()->reader().info().layers.empty()) {
      const std::vector<LayerInfo>& layers = current()->reader().info().layers;
      const LayerInfo& layer = layers[std::clamp<size_t>(view_.layer_index, 0, layers.size() - 1)];
      right = StrCat("layer ", layer.layer, ", head ",
                     layer.heads[std::clamp<size_t>(view_.head_index, 0, layer.heads.size() - 1)], "     ", right);
    }
    const float right_width = ImGui::CalcTextSize(right.c_str()).x + ImGui::GetFontSize();
    ImGui::TextUnformatted(status_.c_str());
    ImGui::SetCursorPosX(ImGui::GetWindowWidth() - right_width);
    ImGui::TextDisabled("%s", right.c_str());
    ImGui::EndMenuBar();
  }
  ImGui::End();
}

std::string App::CsvOfFocused() {
  try {
    return Csv(panels_[focused_].name);
  } catch (const Error& error) {
    Say(error.what());
    return "";
  }
}

void App::SaveTable() {
  const std::string csv = CsvOfFocused();
  if (csv.empty()) return;
  const std::string path = FreePath("", "kvscope_" + panels_[focused_].name, "csv");
  try {
    WriteTable(path, csv);
    Say(StrCat("Table saved as ", AbsolutePath(path)));
  } catch (const Error& error) {
    Say(error.what());
  }
}

void App::CopyTable() {
  const std::string csv = CsvOfFocused();
  if (csv.empty()) return;
  ImGui::SetClipboardText(csv.c_str());
  Say(StrCat("Copied the table of ", panels_[focused_].title, ", ", FormatCount(std::ranges::count(csv, '\n') - 1),
             " rows"));
}

// What is inside the panel's frame, once this frame is drawn.
void App::AskForPicture() {
  const NamedPanel& panel = panels_[focused_];
  const ImGuiWindow* const window = ImGui::FindWindowByName(panel.title.c_str());
  if (!window || window->Hidden) return Say(panel.title + " is not seen, so there is no picture of it");
  const ImRect& inside = window->InnerRect;
  const auto take = [this, name = panel.name](const Image& picture) {
    const std::string path = FreePath("", "kvscope_" + name, "png");
    try {
      if (picture.rgba.empty()) throw Error(path + ": the panel is too small for a picture");
      WritePng(path, picture);
      Say(StrCat("Picture saved as ", AbsolutePath(path)));
    } catch (const Error& error) {
      Say(error.what());
    }
  };
  picture_request_ = PictureRequest{inside.Min.x, inside.Min.y, inside.Max.x, inside.Max.y, take};
}

void App::SavePreferences() {
  if (options_.state_folder.empty()) return;
  Preferences preferences{wants_dark_, {}};
  for (const NamedPanel& panel : panels_) {
    if (!panel.is_shown) preferences.hidden_panels.push_back(panel.name);
  }
  const std::string path = options_.state_folder + "/preferences";
  if (!WritePreferences(path, preferences)) Say(path + ": cannot be written, so the next run will not know this");
}

// A file that could be opened is a recent one.
void App::RememberFiles() {
  const auto remember = [this](const std::string& path, bool is_ready) {
    if (!is_ready || !remembered_.insert(path).second) return;
    if (!recent_.Add(path)) Say("The list of recent files cannot be written");
  };
  for (const auto& one : documents_) remember(one->path(), one->state() == TraceDocument::State::kReady);
  for (const auto& one : results_) remember(one->path(), one->state() == ResultsDocument::State::kReady);
}

void App::RememberView() {
  const double now = ImGui::GetTime();
  if (ImGui::GetIO().MouseWheel != 0) settles_at_ = now + kWheelSecs;
  const bool is_other_file = view_.document_index != history_.now().document_index;
  const bool is_loading = current() ? current()->state() == TraceDocument::State::kLoading : results_.empty();
  if (std::exchange(was_restored_, false) || (is_loading && !is_other_file)) return history_.Amend(view_);
  const bool is_held = ImGui::IsAnyItemActive() || IsCommandHeld() || is_moving_ || now < settles_at_;
  if (!is_held) history_.Record(view_);
}

void App::ShowView(const std::optional<ViewState>& view) {
  if (!view) return;
  view_ = *view;
  was_restored_ = true;
}

}  // namespace kvscope
