// SPDX-License-Identifier: Apache-2.0
// The heatmap's other kinds: what each token receives layer by layer, or step by step of decoding. Across: tokens, with
// the same bands, colours and window as query by token; down: layers or steps, all of them.
#include <imgui.h>
#include <implot.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/units.h"
#include "viewer/export.h"
#include "viewer/panel_parts.h"
#include "viewer/panels.h"
#include "viewer/theme.h"

namespace kvscope {
namespace {

constexpr int kMostLabelledLines = 40;  // beyond: every second, third ... line has its number

template <typename Choice>
void ChoiceBox(const char* id, const char* const* names, int num_names, float width, Choice& choice) {
  ImGui::SetNextItemWidth(ImGui::GetFontSize() * width);
  int chosen = static_cast<int>(choice);
  if (ImGui::Combo(id, &chosen, names, num_names)) choice = static_cast<Choice>(chosen);
}

// What stands beside line `line`: a layer's number or a step's.
int NumberOf(const TraceReader& reader, const TokenMapModel& lines, HeatmapKind kind, int line) {
  return kind == HeatmapKind::kLayer ? reader.info().layers[line].layer : line * lines.steps_per_line();
}

}  // namespace

void HeatmapPanel::DrawKind(PanelContext& context) {
  static constexpr const char* kKinds[] = {"query x token", "token x layer", "token x step"};
  static constexpr const char* kHeads[] = {"max of heads", "mean of heads", "one head"};
  ViewState& view = context.view;
  ChoiceBox("##kind", kKinds, IM_ARRAYSIZE(kKinds), 8.5f, view.heatmap_kind);
  ImGui::SameLine();
  if (view.heatmap_kind == HeatmapKind::kQuery) return;
  const bool is_layer = view.heatmap_kind == HeatmapKind::kLayer;
  if (is_layer && view.reduction == RowReduction::kNone) view.reduction = RowReduction::kMax;
  // "none", each step's own row, comes last.
  const int num_names = IM_ARRAYSIZE(kRowReductionNames) - (is_layer ? 1 : 0);
  ChoiceBox("##reduce", kRowReductionNames, num_names, 5, view.reduction);
  if (ImGui::IsItemHovered()) {
    ImGui::SetTooltip("%s", is_layer ? "how the queries' weights become one"
                                     : "how the weights of the steps so far become one; none: each step's own");
  }
  ImGui::SameLine();
  if (!is_layer) return;
  ChoiceBox("##heads", kHeads, IM_ARRAYSIZE(kHeads), 8.5f, view.layer_heads);
  ImGui::SameLine();
}

void HeatmapPanel::DrawLines(PanelContext& context) {
  TraceDocument& document = *context.document;
  ViewState& view = context.view;
  if (document.num_tokens() == 0) return CentredText("No tokens yet.");
  if (lines_.image()) DrawLegend(lines_.scale(), context.is_dark);
  const std::string progress = lines_.progress() < 1 ? StrCat(static_cast<int>(100 * lines_.progress()), " %, ") : "";
  if (const std::string text = progress + lines_.source(); !text.empty()) {
    SameLineIfFits(ImGui::CalcTextSize(text.c_str()).x);
    ImGui::TextDisabled("%s", text.c_str());
  }
  // The size of the plot's inside is known a frame later; a pixel more or less does no harm.
  const ImVec2 room = ImGui::GetContentRegionAvail();
  lines_.Update(document, view, std::max(1, static_cast<int>(room.x)), std::max(1, static_cast<int>(room.y)),
                {context.is_dark, CurrentTheme().palette.surface}, context.jobs);
  if (!lines_.failure().empty()) return CentredText(lines_.failure().c_str());
  if (lines_.num_lines() == 0) return;
  if (lines_.image() && lines_.generation() != shown_lines_) {
    lines_texture_.Set(*lines_.image());
    shown_lines_ = lines_.generation();
  }

  const int num_lines = lines_.num_lines();
  const bool is_layer = view.heatmap_kind == HeatmapKind::kLayer;
  std::vector<double> places;
  std::vector<std::string> labels;
  std::vector<const char*> texts;
  const int stride = (num_lines + kMostLabelledLines - 1) / kMostLabelledLines;
  for (int line = 0; line < num_lines; line += stride) {
    places.push_back(line + 0.5);
    labels.push_back(StrCat(NumberOf(document.reader(), lines_, view.heatmap_kind, line)));
  }
  for (const std::string& label : labels) texts.push_back(label.c_str());

  const MapWindow window = WindowOf(document, view);
  if (!ImPlot::BeginPlot("##lines", {-1, -1}, ImPlotFlags_CanvasOnly)) return;
  const ImPlotAxisFlags axis = ImPlotAxisFlags_NoGridLines | ImPlotAxisFlags_NoHighlight;
  ImPlot::SetupAxes("token looked at", is_layer ? "layer" : "decode step", axis,
                    axis | ImPlotAxisFlags_Invert | ImPlotAxisFlags_Lock | ImPlotAxisFlags_NoTickMarks);
  const double tokens = std::max(1, document.num_tokens());
  ImPlot::SetupAxisLimitsConstraints(ImAxis_X1, 0, tokens);
  ImPlot::SetupAxisZoomConstraints(ImAxis_X1, std::min(tokens, kFewestTokens), tokens);
  const bool is_set = window != lines_window_;
  ImPlot::SetupAxisLimits(ImAxis_X1, window.token_begin, window.token_end,
                          is_set ? ImPlotCond_Always : ImPlotCond_Once);
  ImPlot::SetupAxisLimits(ImAxis_Y1, 0, num_lines, ImPlotCond_Always);
  ImPlot::SetupAxisTicks(ImAxis_Y1, places.data(), static_cast<int>(places.size()), texts.data());
  ImPlot::SetupFinish();
  // All queries stay in the window, which query by token shares.
  lines_window_ = is_set ? window : FollowMouse(document, window, /*has_queries=*/false, view);
  ImDrawList& draw = *ImPlot::GetPlotDrawList();
  const ImVec2 from = ImPlot::GetPlotPos(), size = ImPlot::GetPlotSize();
  ImPlot::PushPlotClipRect();
  if (lines_.image()) {
    lines_texture_.Draw(draw, ImPlot::PlotToPixels(lines_.range().begin, 0),
                        ImPlot::PlotToPixels(lines_.range().end, num_lines));
  }
  if (const int marked = view.marked_token; marked >= 0) {
    const float x = ImPlot::PlotToPixels(marked + 0.5, 0).x;
    draw.AddLine({x, from.y}, {x, from.y + size.y}, CurrentTheme().palette.accent);
  }
  ImPlot::PopPlotClipRect();
  DrawBands(document.bands(), BandAxes::kTokens);
  if (!is_layer) DrawKeptStrip(FollowedBits(context), context.is_dark);
  if (ImPlot::IsPlotHovered()) {
    const ImPlotPoint mouse = ImPlot::GetPlotMousePos();
    DrawLineHover(context, static_cast<int>(std::floor(mouse.y)), static_cast<int>(std::floor(mouse.x)));
    if (WasClicked()) MarkToken(view, static_cast<int>(std::floor(mouse.x)), document.num_tokens());
    if (ImGui::IsMouseDoubleClicked(ImGuiMouseButton_Left)) view.window = {};
  }
  ImPlot::EndPlot();
}

std::string HeatmapPanel::CsvOfLines(const PanelContext& context) const {
  const TraceReader& reader = context.document->reader();
  const HeatmapKind kind = context.view.heatmap_kind;
  if (!lines_.image() || !lines_.failure().empty() || !lines_.IsOf(*context.document)) return "";
  const int masked_tokens = context.view.masks_sinks ? kSinkTokens : 0;
  std::string csv = StrCat(kind == HeatmapKind::kLayer ? "layer" : "step", ",token,weight\n");
  for (int line = 0; line < lines_.num_lines(); ++line) {
    for (int token = std::max(masked_tokens, lines_.range().begin); token < lines_.range().end; ++token) {
      if (const std::optional<float> value = lines_.ValueOf(line, token))
        csv += StrCat(NumberOf(reader, lines_, kind, line), ",", token, ",", CsvNumber(*value), "\n");
    }
  }
  return csv;
}

void HeatmapPanel::DrawLineHover(const PanelContext& context, int line, int token) {
  const TraceDocument& document = *context.document;
  if (line < 0 || line >= lines_.num_lines() || token < 0 || token >= document.num_tokens()) return;
  const TraceTokens& tokens = document.reader().tokens();
  ImGui::BeginTooltip();
  ImGui::Text("%d  \"%s\"", token, Escape(tokens.pieces[token]).c_str());
  const int number = NumberOf(document.reader(), lines_, context.view.heatmap_kind, line);
  if (context.view.heatmap_kind == HeatmapKind::kLayer) {
    ImGui::TextDisabled("in layer %d", number);
  } else if (lines_.steps_per_line() > 1) {
    ImGui::TextDisabled("in steps %d to %d", number, number + lines_.steps_per_line() - 1);
  } else if (const int query = document.reader().info().prompt_tokens + number; query < document.num_tokens()) {
    ImGui::TextDisabled("in step %d, which fed back %d  \"%s\"", number, query, Escape(tokens.pieces[query]).c_str());
  }
  if (const std::optional<float> value = lines_.ValueOf(line, token)) {
    ImGui::Text("%s %.4g",
                context.view.reduction == RowReduction::kNone
                    ? "weight"
                    : StrCat(kRowReductionNames[static_cast<int>(context.view.reduction)], " of weights").c_str(),
                *value);
  } else {
    ImGui::TextDisabled("not seen");
  }
  DrawKeptText(context, token);
  ImGui::EndTooltip();
}

}  // namespace kvscope
