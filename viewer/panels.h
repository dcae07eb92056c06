// SPDX-License-Identifier: Apache-2.0
// What every panel gets, and the panels: one file each. A panel draws into the window that is open and never reads
// HDF5.
#pragma once

#include "viewer/heatmap_model.h"
#include "viewer/jobs.h"
#include "viewer/texture.h"
#include "viewer/trace_document.h"
#include "viewer/view_state.h"

namespace kvscope {

struct PanelContext {
  TraceDocument* document = nullptr;  // null: no file is open
  ViewState& view;
  Jobs& jobs;
  bool is_dark = true;
};

// For a panel that needs a trace: draws why there is none to show and returns false.
bool HasTrace(const PanelContext& context);
void CentredText(const char* text);

void DrawRunPanel(PanelContext& context);

class HeatmapPanel {
 public:
  void Draw(PanelContext& context);

 private:
  void DrawControls(PanelContext& context);
  void DrawMap(PanelContext& context);
  void DrawBands(const std::vector<LabelledBand>& bands);
  void DrawHover(const PanelContext& context, int query, int token);

  HeatmapModel model_;
  Texture texture_;
  int shown_generation_ = 0;
};

}  // namespace kvscope
