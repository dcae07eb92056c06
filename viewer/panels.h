// SPDX-License-Identifier: Apache-2.0
// What every panel gets, and the panels: one file each. A panel draws into the window that is open and never reads
// HDF5.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "viewer/curves_model.h"
#include "viewer/grid_model.h"
#include "viewer/heatmap_model.h"
#include "viewer/jobs.h"
#include "viewer/kept_map.h"
#include "viewer/overview_model.h"
#include "viewer/policy_model.h"
#include "viewer/results_document.h"
#include "viewer/shortcuts.h"
#include "viewer/text_layout.h"
#include "viewer/texture.h"
#include "viewer/token_map_model.h"
#include "viewer/token_weights.h"
#include "viewer/trace_document.h"
#include "viewer/view_state.h"

namespace kvscope {

struct PanelContext {
  TraceDocument* document = nullptr;  // null: no file is open
  ViewState& view;
  Jobs& jobs;
  PolicyModel& policies;
  bool is_dark = true;
  bool* wants_frames = nullptr;                            // set by a panel that moves by itself
  std::function<void(const std::string& path)> open = {};  // opens or goes to a file
  std::span<const std::string> traces = {};                // paths of all, open or only listed
  std::span<const std::unique_ptr<ResultsDocument>> results = {};
  bool is_opening = false;  // files that it is not known what they are
  // Those that were read.
  std::vector<std::shared_ptr<const Results>> ReadyResults() const;
  bool IsLoadingResults() const;
  std::optional<Command> command = {};  // asked for in this frame
};

// One panel. It draws into the window that is open.
class Panel {
 public:
  virtual ~Panel() = default;
  virtual void Draw(PanelContext& context) = 0;
  virtual bool NeedsTrace() const { return true; }  // without one that is ready it has no table
  // What it shows, as a table under a line of column names; empty: it shows nothing now.
  virtual std::string Csv(PanelContext& context) const {
    (void)context;
    return "";
  }
};

class RunPanel final : public Panel {
 public:
  void Draw(PanelContext& context) override;
  std::string Csv(PanelContext& context) const override;

 private:
  void DrawIntegrity(PanelContext& context);

  std::map<const TraceDocument*, std::string> integrity_;  // of those that were checked; empty: being checked
};

class OverviewPanel final : public Panel {
 public:
  void Draw(PanelContext& context) override;
  std::string Csv(PanelContext& context) const override;

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
  std::string Csv(PanelContext& context) const override;

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
  std::string Csv(PanelContext& context) const override;

 private:
  void Play(PanelContext& context, int num_steps);
  void DrawStep(const PanelContext& context, const StepInfo& step, int query);
  void DrawRow(PanelContext& context, int query, float height);
  void DrawActions(const PanelContext& context, int query);
  void DrawPolicies(PanelContext& context);

  TokenWeights row_{"timeline"};  // of the step's token
  bool is_playing_ = false;
  float steps_per_sec_ = 4;
  double due_ = 0;    // when the next step is shown
  int quantity_ = 0;  // of the policies, over steps
};

class HeatmapPanel final : public Panel {
 public:
  void Draw(PanelContext& context) override;
  std::string Csv(PanelContext& context) const override;

 private:
  std::string CsvOfLines(const PanelContext& context) const;
  void DrawControls(PanelContext& context);
  void DrawMap(PanelContext& context);
  void DrawHover(const PanelContext& context, int query, int token);
  // Token x layer and token x step (panel_heatmap_lines.cpp).
  void DrawKind(PanelContext& context);
  void DrawLines(PanelContext& context);
  void DrawLineHover(const PanelContext& context, int line, int token);

  HeatmapModel model_;
  TokenWeights relevance_{"heatmap relevance"};
  MapWindow in_plot_;  // what its axes show
  Texture texture_;
  int shown_generation_ = 0;
  TokenMapModel lines_;
  Texture lines_texture_;
  int shown_lines_ = 0;     // generation
  MapWindow lines_window_;  // what the axes of the plot of lines show
};

class PoliciesPanel final : public Panel {
 public:
  void Draw(PanelContext& context) override;
  std::string Csv(PanelContext& context) const override;

 private:
  // What is drawn of one policy: computed beside the frames from its outcome, after a query.
  struct Shown {
    const TraceDocument* document = nullptr;
    std::shared_ptr<const PolicyOutcome> outcome;
    int query_token = 0;
    KeptMap map;
    std::vector<float> retention;  // [layer, kv_head] of the needle
    LossCount losses;              // of the needle
  };
  struct Column {
    std::shared_ptr<const Shown> shown;
    std::shared_ptr<const PolicyOutcome> asked_outcome;
    int asked_query = -1;
    bool is_busy = false;
    Texture map, retention;
    std::vector<const void*> drawn_from;  // what the textures show
    KeptMapKind drawn_kind{};
    bool is_drawn_dark = false;
    std::string edited_spec;
  };
  // Null: nothing yet of this trace and policy.
  const Shown* ShownOf(const PanelContext& context, int index) const;
  void Follow(PanelContext& context, int index, int query_token);
  void DrawToolbar(PanelContext& context);
  bool DrawColumn(PanelContext& context, int index);
  void DrawChoice(PanelContext& context, int index);
  void DrawParameters(PolicyChoice& choice, const PolicySpec& spec);
  void DrawFigures(const PanelContext& context, int index);
  void Paint(const PanelContext& context, int index);
  void DrawMap(PanelContext& context, int index, float height);
  void DrawRetention(PanelContext& context, int index, float height);
  void DrawLosses(PanelContext& context);
  struct ParsedSpec {
    std::optional<PolicySpec> spec;  // absent: wrong
    bool is_fixed_rate = false;
  };
  const ParsedSpec& SpecOf(const std::string& text);

  Column columns_[kMostPolicies];
  std::map<std::string, ParsedSpec> specs_;  // parsed once: that makes a policy's objects
  const TraceDocument* checked_ = nullptr;
  std::string refusal_;                     // why checked_ cannot be replayed
  double token_begin_ = 0, token_end_ = 0;  // of all maps
};

class CurvesPanel final : public Panel {
 public:
  void Draw(PanelContext& context) override;
  bool NeedsTrace() const override { return false; }
  std::string Csv(PanelContext& context) const override;

 private:
  const ReportData* Group() const;  // the one chosen, of those there are
  bool HasMode(std::string_view mode) const;
  void Refresh(const std::string& column);
  void DrawNothing(PanelContext& context);
  void DrawMeasuring(PanelContext& context);
  void DrawControls(PanelContext& context);
  void DrawCurves(PanelContext& context, float height);
  void DrawHover(PanelContext& context);
  void DrawRelevance();

  CurvesModel model_;
  int group_ = 0;
  // Made of the data, the group and the metric that are shown.
  std::shared_ptr<const CurvesData> shown_;
  int shown_group_ = 0;
  std::string shown_column_;
  std::vector<CurveMetric> metrics_;
  CurveMetric metric_{};
  std::vector<Curve> curves_;
  std::optional<RelevanceHistogram> histogram_;
  bool fits_ = false;  // the axes have their limits
};

class GridPanel final : public Panel {
 public:
  void Draw(PanelContext& context) override;
  bool NeedsTrace() const override { return false; }
  std::string Csv(PanelContext& context) const override;

 private:
  void DrawControls(PanelContext& context);
  void DrawCells(PanelContext& context, float height);
  void DrawHover(const GridCell& cell, GridFigure figure) const;
  void DrawFailures() const;

  GridModel model_;
};

}  // namespace kvscope
