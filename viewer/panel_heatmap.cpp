// SPDX-License-Identifier: Apache-2.0
// Query by token for one head. Down: the token that looks; across: the token that is looked at. Needle, question and
// answer are bands on both axes; wheel and drag zoom and move, a double click shows all. The other kinds of map are in
// panel_heatmap_lines.cpp.
#include <imgui.h>
#include <implot.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "core/error.h"
#include "core/units.h"
#include "viewer/export.h"
#include "viewer/panel_parts.h"
#include "viewer/panels.h"
#include "viewer/theme.h"

namespace kvscope {
namespace {

int NumHeads(const PanelContext& context) {
  return static_cast<int>(context.document->reader().info().layers[context.view.layer_index].heads.size());
}

// A slider over the stored layers or heads that shows their absolute numbers.
void StoredSlider(const char* label, int& index, const std::vector<int>& numbers) {
  ImGui::AlignTextToFramePadding();
  ImGui::TextUnformatted(label);
  ImGui::SameLine();
  ImGui::SetNextItemWidth(ImGui::GetFontSize() * 8);
  ImGui::SliderInt(StrCat("##", label).c_str(), &index, 0, static_cast<int>(numbers.size()) - 1, "",
                   ImGuiSliderFlags_AlwaysClamp);
  ImGui::SameLine();
  ImGui::Text("%-3d", numbers[index]);
  ImGui::SameLine();
}

}  // namespace

void HeatmapPanel::Draw(PanelContext& context) {
  if (!HasTrace(context)) return;
  if (context.document->reader().info().layers.empty()) return CentredText("This trace holds no layer.");
  DrawControls(context);
  const TraceReader& reader = context.document->reader();
  if (context.view.heatmap_kind == HeatmapKind::kQuery && reader.info().level == TraceLevel::kRelevance) {
    CentredText(
        "Query x token needs queries and keys; this trace holds sums over all queries only (level relevance): "
        "choose token x layer above, or record with --level qkv.");
  } else if (context.view.heatmap_kind == HeatmapKind::kQuery && reader.info().level == TraceLevel::kRows) {
    CentredText(
        "Query x token needs queries and keys; this trace holds the rows of decode steps only (level rows): "
        "choose token x step above, or record with --level qkv.");
  } else if (context.view.heatmap_kind == HeatmapKind::kQuery) {
    DrawMap(context);
  } else {
    DrawLines(context);
  }
}

void HeatmapPanel::DrawControls(PanelContext& context) {
  ViewState& view = context.view;
  std::vector<int> layers;
  for (const LayerInfo& layer : context.document->reader().info().layers) layers.push_back(layer.layer);
  view.layer_index = std::clamp(view.layer_index, 0, static_cast<int>(layers.size()) - 1);
  DrawKind(context);
  const bool is_layer = view.heatmap_kind == HeatmapKind::kLayer;
  if (!is_layer) StoredSlider("layer", view.layer_index, layers);
  view.head_index = std::clamp(view.head_index, 0, NumHeads(context) - 1);
  if (!is_layer || view.layer_heads == LayerHeads::kOne)
    StoredSlider("head", view.head_index, context.document->reader().info().layers[view.layer_index].heads);
  ImGui::Checkbox("log", &view.is_log);
  ImGui::SameLine();
  ImGui::Checkbox("mask the sinks", &view.masks_sinks);
  if (ImGui::IsItemHovered())
    ImGui::SetTooltip("leaves out the first %d tokens, which often take most weight", kSinkTokens);
  if (view.heatmap_kind != HeatmapKind::kQuery || !model_.image()) return;
  DrawLegend(model_.scale(), context.is_dark);
  if (model_.progress() == 1) return;
  ImGui::SameLine(0, ImGui::GetFontSize() * 2);
  ImGui::TextDisabled("%.0f %% looked at; hatched: at least this", 100 * model_.progress());
}

void HeatmapPanel::DrawMap(PanelContext& context) {
  TraceDocument& document = *context.document;
  const LayerInfo& layer = document.reader().info().layers[context.view.layer_index];
  document.KvHead(context.view.layer_index, context.view.head_index / layer.HeadsPerKvHead());
  if (!document.kv_head_failure().empty()) return CentredText(document.kv_head_failure().c_str());
  if (document.num_tokens() == 0) return CentredText("No tokens yet.");
  if (document.reader().q_token(context.view.layer_index).empty()) return CentredText("No queries were written yet.");
  relevance_.Update(document, context.view, document.Askers(), context.jobs);
  const MapWindow window = WindowOf(document, context.view);
  const ImPlotAxisFlags axis = ImPlotAxisFlags_NoGridLines | ImPlotAxisFlags_NoHighlight;
  if (!ImPlot::BeginPlot("##map", {-1, -1}, ImPlotFlags_CanvasOnly)) return;
  ImPlot::SetupAxes("token looked at", "token that looks", axis, axis | ImPlotAxisFlags_Invert);
  const double tokens = std::max(1, document.num_tokens());
  ImPlot::SetupAxisLimitsConstraints(ImAxis_X1, 0, tokens);
  ImPlot::SetupAxisLimitsConstraints(ImAxis_Y1, 0, tokens);
  ImPlot::SetupAxisZoomConstraints(ImAxis_X1, std::min(tokens, kFewestTokens), tokens);
  ImPlot::SetupAxisZoomConstraints(ImAxis_Y1, std::min(tokens, kFewestTokens), tokens);
  // ImPlot locks axes whose limits are set: they are, when something else than the mouse on them changed the view.
  const bool is_set = window != in_plot_;
  ImPlot::SetupAxesLimits(window.token_begin, window.token_end, window.query_begin, window.query_end,
                          is_set ? ImPlotCond_Always : ImPlotCond_Once);
  ImPlot::SetupFinish();
  in_plot_ = is_set ? window : FollowMouse(document, window, /*has_queries=*/true, context.view);

  const ImVec2 size = ImPlot::GetPlotSize();
  model_.Update(document, context.view, std::max(1, static_cast<int>(size.x)), std::max(1, static_cast<int>(size.y)),
                {context.is_dark, CurrentTheme().palette.surface}, context.jobs);
  if (model_.image() && model_.generation() != shown_generation_) {
    texture_.Set(*model_.image());
    shown_generation_ = model_.generation();
  }
  if (texture_.is_set()) {
    const MapWindow& shown = model_.window();
    ImPlot::PushPlotClipRect();
    texture_.Draw(*ImPlot::GetPlotDrawList(), ImPlot::PlotToPixels(shown.token_begin, shown.query_begin),
                  ImPlot::PlotToPixels(shown.token_end, shown.query_end));
    ImPlot::PopPlotClipRect();
  }
  DrawBands(document.bands(), BandAxes::kBoth);
  if (const int marked = context.view.marked_token; marked >= 0) {
    ImPlot::PushPlotClipRect();
    const ImVec2 from = ImPlot::GetPlotPos(), at = ImPlot::PlotToPixels(marked + 0.5, marked + 0.5);
    const ImU32 color = CurrentTheme().palette.accent;
    ImPlot::GetPlotDrawList()->AddLine({at.x, from.y}, {at.x, from.y + size.y}, color);
    ImPlot::GetPlotDrawList()->AddLine({from.x, at.y}, {from.x + size.x, at.y}, color);
    ImPlot::PopPlotClipRect();
  }
  DrawKeptStrip(FollowedBits(context), context.is_dark);
  if (ImPlot::IsPlotHovered()) {
    const ImPlotPoint mouse = ImPlot::GetPlotMousePos();
    DrawHover(context, static_cast<int>(std::floor(mouse.y)), static_cast<int>(std::floor(mouse.x)));
    if (ImGui::IsMouseDoubleClicked(ImGuiMouseButton_Left)) context.view.window = {};
    if (WasClicked()) MarkToken(context.view, static_cast<int>(std::floor(mouse.x)), document.num_tokens());
  }
  ImPlot::EndPlot();
}

// The pair under the mouse, exactly.
void HeatmapPanel::DrawHover(const PanelContext& context, int query, int token) {
  const TraceDocument& document = *context.document;
  if (query < 0 || token < 0 || query >= document.num_tokens() || token >= document.num_tokens()) return;
  const auto& pieces = document.reader().tokens().pieces;
  const AttentionRule rule = RuleOf(document.reader().info().layers[context.view.layer_index]);
  ImGui::BeginTooltip();
  ImGui::Text("%d  \"%s\"", query, Escape(pieces[query]).c_str());
  ImGui::TextDisabled("looks at");
  ImGui::Text("%d  \"%s\"", token, Escape(pieces[token]).c_str());
  if (token > query) {
    ImGui::TextDisabled("which comes later");
  } else if (token < rule.FirstSeen(query)) {
    ImGui::TextDisabled("which has left the window of %d tokens", rule.window);
  } else if (const std::optional<float> weight = model_.WeightOf(query, token)) {
    ImGui::Text("weight %.4g", *weight);
    if (token < std::ssize(relevance_.weights()))
      ImGui::Text("relevance %.4g, the token's mean weight from %s", relevance_.weights()[token],
                  document.AskersText().c_str());
  }
  DrawKeptText(context, token);
  ImGui::EndTooltip();
}

// The cells that are drawn, at most one a pixel.
std::string HeatmapPanel::Csv(PanelContext& context) const {
  if (context.view.heatmap_kind != HeatmapKind::kQuery) return CsvOfLines(context);
  const std::shared_ptr<const WeightCells> map = model_.CellsOf(*context.document, context.view);
  if (!map) return "";
  const int masked_tokens = context.view.masks_sinks ? kSinkTokens : 0;
  std::string csv = "query_begin,query_end,token_begin,token_end,weight\n";
  for (int row = 0; row < map->rows; ++row) {
    const std::string queries = StrCat(map->QueryBegin(row), ",", map->QueryBegin(row + 1), ",");
    for (int column = 0; column < map->columns; ++column) {
      const float weight = map->cells[static_cast<size_t>(row) * map->columns + column];
      if (weight == WeightCells::kNoWeight || map->TokenBegin(column) < masked_tokens) continue;
      csv += StrCat(queries, map->TokenBegin(column), ",", map->TokenBegin(column + 1), ",", CsvNumber(weight), "\n");
    }
  }
  return csv;
}

}  // namespace kvscope
