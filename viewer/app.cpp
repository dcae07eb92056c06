// SPDX-License-Identifier: Apache-2.0
#include "viewer/app.h"

#include <imgui.h>
#include <imgui_internal.h>

#include <algorithm>
#include <filesystem>

#include "core/error.h"
#include "core/units.h"
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

App::App(const AppOptions& options) : options_(options), view_(options.view) {
  DroppedFiles(options.paths);
}

void App::DroppedFiles(std::vector<std::string> paths) {
  for (std::string& path : paths) documents_.push_back(std::make_unique<TraceDocument>(std::move(path), jobs_));
  if (!paths.empty()) current_ = documents_.size() - paths.size();
}

bool App::IsBusy() const {
  if (is_moving_ || jobs_.IsBusy()) return true;
  return options_.follows && std::any_of(documents_.begin(), documents_.end(), [](const auto& document) {
           return document->state() == TraceDocument::State::kReady && document->is_growing();
         });
}

std::string App::failure() const {
  if (!failure_.empty() || documents_.empty()) return failure_;
  return documents_[current_]->failure();
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

void App::Draw() {
  is_moving_ = false;
  jobs_.Deliver();
  ChooseAskedFor();
  if (ImGui::GetTime() >= next_follow_) {
    for (const auto& document : documents_) document->Follow();
    next_follow_ = ImGui::GetTime() + kFollowSecs;
  }
  if (documents_.empty()) return start_.Draw();
  if (options_.only_panel.empty()) return DrawDocked();
  const ImGuiViewport* const viewport = ImGui::GetMainViewport();
  ImGui::SetNextWindowPos(viewport->WorkPos);
  ImGui::SetNextWindowSize(viewport->WorkSize);
  ImGui::PushStyleVar(ImGuiStyleVar_WindowRounding, 0);
  ImGui::Begin("panel", nullptr,
               ImGuiWindowFlags_NoDecoration | ImGuiWindowFlags_NoMove | ImGuiWindowFlags_NoSavedSettings);
  DrawPanel(options_.only_panel);
  ImGui::End();
  ImGui::PopStyleVar();
}

void App::DrawPanel(const std::string& name) {
  PanelContext context{documents_[current_].get(), view_, jobs_, CurrentTheme().is_dark, &is_moving_};
  if (name == "run") {
    DrawRunPanel(context);
  } else if (name == "overview") {
    overview_.Draw(context);
  } else if (name == "text") {
    text_.Draw(context);
  } else if (name == "timeline") {
    timeline_.Draw(context);
  } else {
    heatmap_.Draw(context);
  }
}

void App::DrawDocked() {
  const ImGuiID dock = ImGui::DockSpaceOverViewport();
  // The first time: what was run and its heads on the left, the heatmap beside it.
  if (const ImGuiDockNode* const node = ImGui::DockBuilderGetNode(dock); !node || node->IsEmpty()) {
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
  if (ImGui::Begin("Run")) {
    if (documents_.size() > 1) {
      ImGui::SetNextItemWidth(-1);
      const auto name = [&](size_t i) {
        return Escape(std::filesystem::path(documents_[i]->path()).filename().string());
      };
      if (ImGui::BeginCombo("##file", name(current_).c_str())) {
        for (size_t i = 0; i < documents_.size(); ++i) {
          if (ImGui::Selectable(StrCat(name(i), "##", i).c_str(), i == current_)) current_ = i;
        }
        ImGui::EndCombo();
      }
    }
    DrawPanel("run");
  }
  ImGui::End();
  if (ImGui::Begin("Overview")) DrawPanel("overview");
  ImGui::End();
  if (ImGui::Begin("Timeline")) DrawPanel("timeline");
  ImGui::End();
  if (ImGui::Begin("Text")) DrawPanel("text");
  ImGui::End();
  if (ImGui::Begin("Heatmap")) DrawPanel("heatmap");
  ImGui::End();
}

}  // namespace kvscope
