// SPDX-License-Identifier: Apache-2.0
#include "viewer/gui_context.h"

#include <imgui.h>
#include <implot.h>

#include "viewer/texture.h"
#include "viewer/theme.h"

namespace kvscope {

GuiContext::GuiContext(const ShellOptions& options, float scale)
    : ini_path_(options.ini_path),
      previous_gui_(ImGui::GetCurrentContext()),
      previous_plot_(ImPlot::GetCurrentContext()) {
  gui_ = ImGui::CreateContext();
  ImGui::SetCurrentContext(gui_);
  plot_ = ImPlot::CreateContext();
  ImPlot::SetCurrentContext(plot_);
  ImGuiIO& io = ImGui::GetIO();
  io.IniFilename = ini_path_.empty() ? nullptr : ini_path_.c_str();
  io.LogFilename = nullptr;
  io.ConfigFlags |= ImGuiConfigFlags_DockingEnable | ImGuiConfigFlags_NavEnableKeyboard;
  io.ConfigWindowsMoveFromTitleBarOnly = true;
  io.ConfigDockingAlwaysTabBar = true;
  ApplyTheme(options.is_dark, scale);
}

GuiContext::~GuiContext() {
  DetachTextures();
  ImPlot::DestroyContext(plot_);
  ImGui::DestroyContext(gui_);
  ImPlot::SetCurrentContext(previous_plot_);
  ImGui::SetCurrentContext(previous_gui_);
}

}  // namespace kvscope
