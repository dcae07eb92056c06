// SPDX-License-Identifier: Apache-2.0
// Dear ImGui and ImPlot set up and torn down; what both shells share.
#pragma once

#include "viewer/shell.h"

struct ImGuiContext;
struct ImPlotContext;

namespace kvscope {

class GuiContext {
 public:
  GuiContext(const ShellOptions& options, float scale);
  ~GuiContext();
  GuiContext(const GuiContext&) = delete;
  GuiContext& operator=(const GuiContext&) = delete;

 private:
  std::string ini_path_;  // Dear ImGui keeps only a pointer
  ImGuiContext *gui_, *previous_gui_;
  ImPlotContext *plot_, *previous_plot_;
};

}  // namespace kvscope
