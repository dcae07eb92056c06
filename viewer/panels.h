// SPDX-License-Identifier: Apache-2.0
// What every panel gets, and the panels: one file each. A panel draws into the window that is open and never reads
// HDF5.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "viewer/heatmap_model.h"
#include "viewer/jobs.h"
#include "viewer/overview_model.h"
#include "viewer/text_layout.h"
#include "viewer/texture.h"
#include "viewer/token_map_model.h"
#include "viewer/token_weights.h"
#include "viewer/trace_document.h"
#include "viewer/view_state.h"

namespace kvscope {

// One colour a kind of band, the same in every panel; 0xAABBGGRR.
uint32_t BandColor(const std::string& kind);

struct PanelContext {
  TraceDocument* document = nullptr;  // null: no file is open
  ViewState& view;
  Jobs& jobs;
  bool is_dark = true;
  bool* wants_frames = nullptr;                            // set by a panel that moves by itself
  std::function<void(const std::string& path)> open = {};  // opens or goes to a file
};

// One panel. It draws into the window that is open.
class Panel {
 public:
  virtual ~Panel() = default;
  virtual void Draw(PanelContext& context) = 0;
  // What it shows, as a table under a line of column names; empty: it shows nothing now.
  virtual std::string Csv(PanelContext& context) const {
    (void)context;
    return "";
  }
};

// For a panel that needs a trace: draws why there is none to show and returns false.
bool HasTrace(const PanelContext& context);
void CentredText(const char* text);

class RunPanel final : public Panel {
 public:
  void Draw(PanelContext& context) override;
};

class OverviewPanel final : public Panel {
 public:
  void Draw(PanelContext& context) override;

 private:
  void DrawThumbs(PanelContext& context);

  OverviewModel model_;
  Texture texture_;
  int shown_generation_ = 0;
};
// A head's name is marked when question and answer give the needle at least so much of their weight.
inline constexpr float kFindsNeedle = 0.1f;

class TextPanel final : public Panel {
 public:
  void Draw(PanelContext& context) override;

 private:
  void DrawTokens(PanelContext& context);
  bool DrawHeader(int header, float height) const;

  TokenWeights relevance_{"text"};  // what question and answer give
  TextLayout layout_;
  std::string search_;
  int scroll_to_ = -1;  // token
};

class TimelinePanel final : public Panel {
 public:
  void Draw(PanelContext& context) override;

 private:
  void Play(PanelContext& context, int num_steps);
  void DrawStep(const PanelContext& context, const StepInfo& step, int query);
  void DrawRow(PanelContext& context, int query);

  TokenWeights row_{"timeline"};  // of the step's token
  bool is_playing_ = false;
  float steps_per_sec_ = 4;
  double due_ = 0;  // when the next step is shown
};

// Goes on beside the last item, or on a new line where `width` more does not fit.
void SameLineIfFits(float width);
// What an ink means, as a strip with its ends.
void DrawLegend(const WeightScale& scale, bool is_dark);

class HeatmapPanel final : public Panel {
 public:
  void Draw(PanelContext& context) override;

 private:
  void DrawControls(PanelContext& context);
  void DrawMap(PanelContext& context);
  void DrawBands(const std::vector<LabelledBand>& bands, bool on_both_axes = true);
  void DrawHover(const PanelContext& context, int query, int token);
  // Token x layer and token x step (panel_heatmap_lines.cpp).
  void DrawKind(PanelContext& context);
  void DrawLines(PanelContext& context);
  void DrawLineHover(const PanelContext& context, int line, int token);

  HeatmapModel model_;
  Texture texture_;
  int shown_generation_ = 0;
  TokenMapModel lines_;
  Texture lines_texture_;
  int shown_lines_ = 0;         // generation
  MapWindow lines_window_{-1};  // that the plot of lines was set to
};

}  // namespace kvscope
