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
  panels.push_back({"policies", "Policies", std::make_unique<PoliciesPanel>()});
  panels.push_back({"curves", "Curves", std::make_unique<CurvesPanel>()});
  panels.push_back({"grid", "Grid", std::make_unique<GridPanel>()});
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
  if (!options.paths.empty()) Open(options.paths);
  history_ = History(view_);
}

void App::Open(std::vector<std::string> paths) {
  ++num_opening_;
  const std::string slot = StrCat("sort ", num_opened_++);
  jobs_.Start(slot, [this, paths = std::move(paths)](const std::atomic<bool>& is_cancelled) -> Jobs::Finish {
    const auto sorted = std::make_shared<SortedFiles>(SortFiles(paths, is_cancelled));
    return [this, sorted] {
      --num_opening_;
      if (!sorted->failure.empty()) failure_ = sorted->failure;
      for (const std::string& path : sorted->listed_traces) ListTrace(path);
      for (const std::string& path : sorted->open_traces) OpenTrace(path);
      // Of several the first is looked at first.
      if (!sorted->open_traces.empty()) OpenTrace(sorted->open_traces[0]);
      if (documents_.empty() && !sorted->results.empty()) focus_ = "Curves";
      for (const std::string& path : sorted->results) {
        const auto is_open = [&](const auto& document) { return document->path() == path; };
        std::erase_if(results_,
                      [&](const auto& document) { return is_open(document) && !document->failure().empty(); });
        if (std::ranges::none_of(results_, is_open)) results_.push_back(std::make_unique<ResultsDocument>(path, jobs_));
      }
    };
  });
}

void App::OpenTrace(const std::string& path) {
  ListTrace(path);
  // One that failed may be there by now.
  const auto found = std::ranges::find_if(documents_, [&](const auto& document) {
    return document->state() != TraceDocument::State::kFailed && AbsolutePath(document->path()) == AbsolutePath(path);
  });
  view_.document_index = static_cast<int>(found - documents_.begin());
  if (found == documents_.end()) documents_.push_back(std::make_unique<TraceDocument>(path, jobs_));
}

void App::ListTrace(const std::string& path) {
  if (std::ranges::find(traces_, path) == traces_.end()) traces_.push_back(path);
}

void App::DroppedFiles(std::vector<std::string> paths) {
  Open(std::move(paths));
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
  if (!failure_.empty()) return failure_;
  if (current() && !current()->failure().empty()) return current()->failure();
  for (const auto& results : results_) {
    if (!results->failure().empty()) return results->failure();
  }
  return "";
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
    view_.layer_index = std::clamp(view_.layer_index, 0, std::max(0, static_cast<int>(layers.size()) - 1));
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
  if (jobs_.IsBusy()) throw Error(StrCat(found->title, " is still being computed; try again in a moment"));
  if (found->panel->NeedsTrace()) {
    if (!current()) throw Error("no trace is open, so there is no table");
    if (current()->state() == TraceDocument::State::kFailed) throw Error(current()->failure());
  }
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
  if (!failure_.empty()) DrawFailure();
  if (view_.follows_policies && current() && current()->state() == TraceDocument::State::kReady &&
      policies_.MayReplay(*current()))
    policies_.Update(*current(), view_, jobs_);
  if (options_.only_panel.empty()) return DrawWindow();
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
          .policies = policies_,
          .is_dark = CurrentTheme().is_dark,
          .wants_frames = &is_moving_,
          .open = [this](const std::string& path) { OpenTrace(path); },
          .traces = traces_,
          .results = results_,
          .is_opening = IsOpening(),
          .command = command_};
}

// What was asked for and cannot be shown, until it is closed.
void App::DrawFailure() {
  const ImGuiViewport* const viewport = ImGui::GetMainViewport();
  const float em = ImGui::GetFontSize();
  ImGui::SetNextWindowPos({viewport->GetCenter().x, viewport->WorkPos.y + viewport->WorkSize.y - em * 2}, 0, {0.5f, 1});
  ImGui::SetNextWindowSize({std::min(viewport->WorkSize.x * 0.9f, em * 44), 0});
  bool stays = true;
  if (ImGui::Begin("Cannot be shown", &stays,
                   ImGuiWindowFlags_NoCollapse | ImGuiWindowFlags_NoResize | ImGuiWindowFlags_NoSavedSettings |
                       ImGuiWindowFlags_NoDocking))
    ImGui::TextWrapped("%s", Escape(failure_).c_str());
  ImGui::End();
  if (!stays) failure_.clear();
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
    const ImGuiID below = ImGui::DockBuilderSplitNode(right, ImGuiDir_Down, 0.36f, nullptr, &right);
    ImGui::DockBuilderDockWindow("Timeline", below);
    ImGui::DockBuilderDockWindow("Text", right);
    ImGui::DockBuilderDockWindow("Policies", right);
    ImGui::DockBuilderDockWindow("Curves", right);
    ImGui::DockBuilderDockWindow("Grid", right);
    ImGui::DockBuilderDockWindow("Heatmap", right);
    ImGui::DockBuilderFinish(dock);
    if (focus_.empty()) focus_ = "Heatmap";
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
  if (!focus_.empty()) ImGui::SetWindowFocus(focus_.c_str());
  focus_.clear();
}

// Which of several is looked at; one that is only listed is opened.
void App::DrawFiles() {
  if (traces_.size() < 2) return;
  const auto name = [](const std::string& path) { return Escape(std::filesystem::path(path).filename().string()); };
  ImGui::SetNextItemWidth(-1);
  const std::string shown = current() ? current()->path() : "";
  if (!ImGui::BeginCombo("##file", name(shown).c_str())) return;
  for (size_t i = 0; i < traces_.size(); ++i) {
    if (ImGui::Selectable(StrCat(name(traces_[i]), "##", i).c_str(), traces_[i] == shown)) OpenTrace(traces_[i]);
  }
  ImGui::EndCombo();
}

}  // namespace kvscope
