// SPDX-License-Identifier: Apache-2.0
// Query by token for one head. Down: the token that looks; across: the token that is looked at. Needle, question and
// answer are bands on both axes; wheel and drag zoom and move, a double click shows all.
#include <imgui.h>
#include <implot.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "core/error.h"
#include "core/units.h"
#include "viewer/panels.h"

namespace kvscope {
namespace {

// One colour a kind, the same on both axes and in every panel.
ImVec4 BandColor(const std::string& kind) {
  if (kind == "needle") return {0.90f, 0.38f, 0.10f, 1};
  if (kind == "distractor") return {0.55f, 0.55f, 0.55f, 1};
  if (kind == "question") return {0.20f, 0.55f, 0.90f, 1};
  return {0.15f, 0.65f, 0.45f, 1};  // answer and others
}

int NumHeads(const PanelContext& context) {
  return static_cast<int>(context.document->reader().info().layers[context.view.layer_index].heads.size());
}

// A slider over the stored layers or heads that shows their absolute numbers.
bool StoredSlider(const char* label, int& index, const std::vector<int>& numbers) {
  ImGui::SetNextItemWidth(ImGui::GetFontSize() * 9);
  const std::string text = StrCat(label, " ", numbers[index]);
  return ImGui::SliderInt(StrCat("##", label).c_str(), &index, 0, static_cast<int>(numbers.size()) - 1, text.c_str(),
                          ImGuiSliderFlags_AlwaysClamp);
}

}  // namespace

void HeatmapPanel::Draw(PanelContext& context) {
  if (!HasTrace(context)) return;
  if (context.document->reader().info().layers.empty()) return CentredText("This trace holds no layer.");
  DrawControls(context);
  DrawMap(context);
}

void HeatmapPanel::DrawControls(PanelContext& context) {
  ViewState& view = context.view;
  std::vector<int> layers;
  for (const LayerInfo& layer : context.document->reader().info().layers) layers.push_back(layer.layer);
  view.layer_index = std::clamp(view.layer_index, 0, static_cast<int>(layers.size()) - 1);
  StoredSlider("layer", view.layer_index, layers);
  view.head_index = std::clamp(view.head_index, 0, NumHeads(context) - 1);
  ImGui::SameLine();
  StoredSlider("head", view.head_index, context.document->reader().info().layers[view.layer_index].heads);
  ImGui::SameLine();
  ImGui::Checkbox("log", &view.is_log);
  ImGui::SameLine();
  ImGui::Checkbox("mask the sinks", &view.masks_sinks);
  if (ImGui::IsItemHovered())
    ImGui::SetTooltip("leaves the first %d tokens out, which often take most weight", kSinkTokens);
  ImGui::SameLine();
  if (model_.progress() < 1 && model_.image()) {
    ImGui::TextDisabled("%.0f %% exact, hatched: at least this", 100 * model_.progress());
  } else {
    ImGui::TextDisabled("weight up to %.3g", model_.scale().highest);
  }
}

void HeatmapPanel::DrawMap(PanelContext& context) {
  TraceDocument& document = *context.document;
  const MapWindow window = WindowOf(document, context.view);
  const ImPlotAxisFlags axis = ImPlotAxisFlags_NoGridLines | ImPlotAxisFlags_NoHighlight;
  if (!ImPlot::BeginPlot("##map", {-1, -1}, ImPlotFlags_CanvasOnly)) return;
  ImPlot::SetupAxes("token looked at", "token that looks", axis, axis | ImPlotAxisFlags_Invert);
  const double tokens = std::max(1, document.num_tokens());
  ImPlot::SetupAxisLimitsConstraints(ImAxis_X1, 0, tokens);
  ImPlot::SetupAxisLimitsConstraints(ImAxis_Y1, 0, tokens);
  const bool is_chosen = context.view.window != MapWindow{};
  ImPlot::SetupAxesLimits(window.token_begin, window.token_end, window.query_begin, window.query_end,
                          is_chosen ? ImPlotCond_Once : ImPlotCond_Always);
  ImPlot::SetupFinish();

  const ImVec2 size = ImPlot::GetPlotSize();
  const ImVec4 ground = ImGui::GetStyleColorVec4(ImGuiCol_WindowBg);
  model_.Update(document, context.view, std::max(1, static_cast<int>(size.x)), std::max(1, static_cast<int>(size.y)),
                {context.is_dark, ImGui::ColorConvertFloat4ToU32({ground.x, ground.y, ground.z, 1})}, context.jobs);
  if (model_.image() && model_.generation() != shown_generation_) {
    texture_.Set(*model_.image());
    shown_generation_ = model_.generation();
  }
  if (!texture_.IsEmpty() && model_.failure().empty()) {
    const MapWindow& shown = model_.window();
    ImPlot::PlotImage("##weights", texture_.Ref(), {double(shown.token_begin), double(shown.query_end)},
                      {double(shown.token_end), double(shown.query_begin)});
  }
  for (const LabelledBand& band : document.bands()) {
    const ImVec4 color = BandColor(band.kind);
    const ImU32 line = ImGui::ColorConvertFloat4ToU32({color.x, color.y, color.z, 0.9f});
    const ImU32 fill = ImGui::ColorConvertFloat4ToU32({color.x, color.y, color.z, 0.10f});
    const ImVec2 left = ImPlot::PlotToPixels(band.token_begin, 0), right = ImPlot::PlotToPixels(band.token_end, 0);
    const ImVec2 top = ImPlot::PlotToPixels(0, band.token_begin), bottom = ImPlot::PlotToPixels(0, band.token_end);
    const ImVec2 corner = ImPlot::GetPlotPos(), end{corner.x + size.x, corner.y + size.y};
    ImPlot::PushPlotClipRect();
    ImDrawList* const draw = ImPlot::GetPlotDrawList();
    draw->AddRectFilled({left.x, corner.y}, {std::max(right.x, left.x + 1), end.y}, fill);
    draw->AddRectFilled({corner.x, top.y}, {end.x, std::max(bottom.y, top.y + 1)}, fill);
    draw->AddLine({left.x, corner.y}, {left.x, end.y}, line);
    draw->AddLine({corner.x, top.y}, {end.x, top.y}, line);
    draw->AddText({left.x + 4, corner.y + 4}, line, band.kind.c_str());
    draw->AddText({end.x - ImGui::CalcTextSize(band.kind.c_str()).x - 4, top.y + 2}, line, band.kind.c_str());
    ImPlot::PopPlotClipRect();
  }
  if (!model_.failure().empty()) {
    const ImVec2 at = ImPlot::GetPlotPos();
    ImPlot::GetPlotDrawList()->AddText({at.x + 12, at.y + 12}, ImGui::GetColorU32(ImGuiCol_TextDisabled),
                                       model_.failure().c_str());
  }
  if (ImPlot::IsPlotHovered()) {
    const ImPlotPoint mouse = ImPlot::GetPlotMousePos();
    DrawHover(context, static_cast<int>(std::floor(mouse.y)), static_cast<int>(std::floor(mouse.x)));
    if (ImGui::IsMouseDoubleClicked(ImGuiMouseButton_Left)) {
      context.view.window = {};
    } else if (ImGui::GetIO().MouseWheel != 0 || ImGui::IsMouseDragging(ImGuiMouseButton_Left)) {
      const ImPlotRect limits = ImPlot::GetPlotLimits();
      context.view.window = {static_cast<int>(limits.Y.Min), static_cast<int>(std::ceil(limits.Y.Max)),
                             static_cast<int>(limits.X.Min), static_cast<int>(std::ceil(limits.X.Max))};
    }
  }
  ImPlot::EndPlot();
}

// The pair under the mouse, exactly.
void HeatmapPanel::DrawHover(const PanelContext& context, int query, int token) {
  const TraceDocument& document = *context.document;
  if (query < 0 || token < 0 || query >= document.num_tokens() || token >= document.num_tokens()) return;
  const auto& pieces = document.reader().tokens().pieces;
  ImGui::BeginTooltip();
  ImGui::Text("%d  \"%s\"", query, Escape(pieces[query]).c_str());
  ImGui::TextDisabled("looks at");
  ImGui::Text("%d  \"%s\"", token, Escape(pieces[token]).c_str());
  if (token > query) {
    ImGui::TextDisabled("which comes later");
  } else if (const std::optional<float> weight = model_.WeightOf(query, token)) {
    ImGui::Text("weight %.4g", *weight);
  }
  ImGui::EndTooltip();
}

}  // namespace kvscope
