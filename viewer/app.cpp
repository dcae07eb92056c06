// SPDX-License-Identifier: Apache-2.0
#include "viewer/app.h"

#include <imgui.h>
#include <imgui_internal.h>

#include <algorithm>
#include <filesystem>

#include "core/error.h"
#include "core/units.h"
#include "viewer/preferences.h"
#include "viewer/theme.h"

namespace kvscope {
namespace {

constexpr double kFollowSecs = 0.5;  // between two looks at a file that grows

// Where `number` stands among those stored, or why it does not.
int IndexOf(int number, const std::vector<int>& stored, const char* what) {
  const auto found = std::find(stored.begin(), stored.end(), number);
  if (found == stored.end()) {
    std::string all;
    for (const int one : stored) all += StrCat(all.empty() ? "" : ", ", one);
    throw Error(StrCat("--", what, " ", number, ": this trace does not hold it; expected one of ", Shorten(all, 60)));
  }
  return static_cast<int>(found - stored.begin());
}

}  // namespace

std::vector<App::NamedPanel> App::MakePanels() {
  std::vector<NamedPanel> panels;
  panels.push_back({"run", "Run", std::make_unique<RunPanel>()});
  panels.push_back({"overview", "Overview", std::make_unique<OverviewPanel>()});
  panels.push_back({"timeline", "Timeline", std::make_unique<TimelinePanel>()});
  panels.push_back({"text", "Text", std::make_unique<TextPanel>()});
  panels.push_back({"heatmap", "Heatmap", std::make_unique<HeatmapPanel>()});
  return panels;
}

std::vector<std::string> PanelNames() {
  std::vector<std::string> names;
  for (const App::NamedPanel& panel : App::MakePanels()) names.push_back(panel.name);
  return names;
}

App::App(const AppOptions& options) : options_(options), view_(options.view) {
  if (!options.state_folder.empty()) {
    recent_ = RecentFiles(options.state_folder + "/recent_files");
    const Preferences kept = ReadPreferences(options.state_folder + "/preferences");
    wants_dark_ = kept.is_dark;
    for (NamedPanel& panel : panels_) panel.is_shown = !std::ranges::count(kept.hidden_panels, panel.name);
  }
  if (options.is_dark) wants_dark_ = options.is_dark;
  for (size_t i = 0; i < panels_.size(); ++i) {
    if (panels_[i].name == "heatmap") focused_ = i;
  }
  for (const std::string& path : options.paths) Open(path);
  view_.document_index = 0;
  history_ = History(view_);
}

void App::Open(const std::string& path) {
  const auto found = std::ranges::find(documents_, AbsolutePath(path),
                                       [](const auto& document) { return AbsolutePath(document->path()); });
  view_.document_index = static_cast<int>(found - documents_.begin());
  if (found == documents_.end()) documents_.push_back(std::make_unique<TraceDocument>(path, jobs_));
}

void App::DroppedFiles(std::vector<std::string> paths) {
  for (const std::string& path : paths) Open(path);
}

TraceDocument* App::current() const {
  if (documents_.empty()) return nullptr;
  return documents_[std::clamp<size_t>(view_.document_index, 0, documents_.size() - 1)].get();
}

bool App::IsBusy() const {
  if (is_moving_ || jobs_.IsBusy() || frames_to_picture_ > 0) return true;
  return options_.follows && std::any_of(documents_.begin(), documents_.end(), [](const auto& document) {
           return document->state() == TraceDocument::State::kReady && document->is_growing();
         });
}

std::string App::failure() const {
  if (!failure_.empty() || documents_.empty()) return failure_;
  return current()->failure();
}

// --layer and --head, once the trace is there.
void App::ChooseAskedFor() {
  if (documents_.empty() || documents_[0]->state() != TraceDocument::State::kReady) return;
  const std::vector<LayerInfo>& layers = documents_[0]->reader().info().layers;
  try {
    if (options_.layer) {
      std::vector<int> stored;
      for (const LayerInfo& layer : layers) stored.push_back(layer.layer);
      view_.layer_index = IndexOf(*options_.layer, stored, "layer");
    }
    if (options_.head && !layers.empty())
      view_.head_index = IndexOf(*options_.head, layers[view_.layer_index].heads, "head");
  } catch (const Error& error) {
    failure_ = error.what();
  }
  options_.layer.reset(), options_.head.reset();
}

std::string App::Csv(const std::string& panel_name) {
  const auto found = std::ranges::find(panels_, panel_name, &NamedPanel::name);
  KVSCOPE_CHECK(found != panels_.end());
  if (!current()) throw Error("no trace is open, so there is no table");
  if (current()->state() == TraceDocument::State::kFailed) throw Error(current()->failure());
  if (current()->state() == TraceDocument::State::kLoading || jobs_.IsBusy())
    throw Error(StrCat(found->title, " is still being computed; try again in a moment"));
  PanelContext context = Context();
  std::string csv = found->panel->Csv(context);
  if (csv.empty()) throw Error(StrCat(found->title, " shows nothing that could be a table"));
  return csv;
}

void App::Draw() {
  is_moving_ = false;
  jobs_.Deliver();
  ChooseAskedFor();
  if (ImGui::GetTime() >= next_follow_) {
    for (const auto& document : documents_) document->Follow();
    next_follow_ = ImGui::GetTime() + kFollowSecs;
  }
  if (options_.only_panel.empty() || documents_.empty()) return DrawWindow();
  const ImGuiViewport* const viewport = ImGui::GetMainViewport();
  ImGui::SetNextWindowPos(viewport->WorkPos);
  ImGui::SetNextWindowSize(viewport->WorkSize);
  ImGui::PushStyleVar(ImGuiStyleVar_WindowRounding, 0);
  ImGui::Begin("panel", nullptr,
               ImGuiWindowFlags_NoDecoration | ImGuiWindowFlags_NoMove | ImGuiWindowFlags_NoSavedSettings);
  PanelContext context = Context();
  for (const NamedPanel& panel : panels_) {
    if (panel.name == options_.only_panel) panel.panel->Draw(context);
  }
  ImGui::End();
  ImGui::PopStyleVar();
}

PanelContext App::Context() {
  return {.document = current(),
          .view = view_,
          .jobs = jobs_,
          .is_dark = CurrentTheme().is_dark,
          .wants_frames = &is_moving_,
          .open = [this](const std::string& path) { Open(path); },
          .command = command_};
}

void App::DrawDocked() {
  const ImGuiID dock = ImGui::DockSpaceOverViewport();
  // The first time: what was run and its heads on the left, the heatmap beside it.
  const ImGuiDockNode* const node = ImGui::DockBuilderGetNode(dock);
  if (!node || node->IsEmpty() || std::exchange(resets_layout_, false)) {
    ImGui::DockBuilderRemoveNode(dock);
    ImGui::DockBuilderAddNode(dock, ImGuiDockNodeFlags_DockSpace);
    ImGui::DockBuilderSetNodeSize(dock, ImGui::GetMainViewport()->WorkSize);
    ImGuiID right = 0;
    const ImGuiID left = ImGui::DockBuilderSplitNode(dock, ImGuiDir_Left, 0.34f, nullptr, &right);
    ImGui::DockBuilderDockWindow("Overview", left);
    ImGui::DockBuilderDockWindow("Run", left);
    const ImGuiID below = ImGui::DockBuilderSplitNode(right, ImGuiDir_Down, 0.30f, nullptr, &right);
    ImGui::DockBuilderDockWindow("Timeline", below);
    ImGui::DockBuilderDockWindow("Text", right);
    ImGui::DockBuilderDockWindow("Heatmap", right);
    ImGui::DockBuilderFinish(dock);
  }
  for (size_t i = 0; i < panels_.size(); ++i) {
    NamedPanel& panel = panels_[i];
    if (!panel.is_shown) continue;
    const bool is_seen = ImGui::Begin(panel.title.c_str(), &panel.is_shown);
    DrawTabMenu(i);
    if (ImGui::IsWindowFocused(ImGuiFocusedFlags_ChildWindows)) focused_ = i;
    if (is_seen) {
      if (panel.name == "run") DrawFiles();
      PanelContext context = Context();
      panel.panel->Draw(context);
    }
    ImGui::End();
    if (!panel.is_shown) SavePreferences();
  }
}

// Which of several is looked at.
void App::DrawFiles() {
  if (documents_.size() < 2) return;
  const auto name = [&](size_t i) { return Escape(std::filesystem::path(documents_[i]->path()).filename().string()); };
  ImGui::SetNextItemWidth(-1);
  if (!ImGui::BeginCombo("##file", name(view_.document_index).c_str())) return;
  for (size_t i = 0; i < documents_.size(); ++i) {
    const bool is_current = static_cast<int>(i) == view_.document_index;
    if (ImGui::Selectable(StrCat(name(i), "##", i).c_str(), is_current)) view_.document_index = static_cast<int>(i);
  }
  ImGui::EndCombo();
}

}  // namespace kvscope
