// SPDX-License-Identifier: Apache-2.0
// Decoding step by step: the token that was fed back, what else the model might have said, and what the chosen head
// looked at meanwhile.
#include <imgui.h>
#include <implot.h>

#include <algorithm>
#include <cmath>
#include <span>

#include "core/error.h"
#include "core/units.h"
#include "viewer/export.h"
#include "viewer/panel_parts.h"
#include "viewer/panels.h"
#include "viewer/theme.h"

namespace kvscope {
namespace {

constexpr float kLeastWeight = 1e-6f;  // the foot of the logarithmic axis

}  // namespace

void TimelinePanel::Draw(PanelContext& context) {
  if (!HasTrace(context)) return;
  const TraceReader& reader = context.document->reader();
  const int num_steps = static_cast<int>(reader.steps().size());
  if (num_steps == 0 || context.document->num_tokens() == 0)
    return CentredText("This run has no decode steps: it ended with the prompt.");
  Play(context, num_steps);
  const int query = std::min(reader.info().prompt_tokens + context.view.step, context.document->num_tokens() - 1);
  if (ImGui::BeginTable("step", 2, ImGuiTableFlags_Resizable)) {
    ImGui::TableSetupColumn("token", ImGuiTableColumnFlags_WidthFixed, ImGui::GetFontSize() * 17);
    ImGui::TableSetupColumn("row", ImGuiTableColumnFlags_WidthStretch);
    ImGui::TableNextRow();
    ImGui::TableNextColumn();
    DrawStep(context, reader.steps()[context.view.step], query);
    DrawActions(context, query);
    ImGui::TableNextColumn();
    const bool has_policies = FollowedOutcome(context) != nullptr;
    DrawRow(context, query, has_policies ? ImGui::GetContentRegionAvail().y * 0.5f : -1);
    if (has_policies) DrawPolicies(context);
    ImGui::EndTable();
  }
}

void TimelinePanel::Play(PanelContext& context, int num_steps) {
  int& step = context.view.step;
  step = std::clamp(step, 0, num_steps - 1);
  const char* const label = is_playing_ ? "Pause###play" : "Play###play";
  if (ImGui::Button(label, {ImGui::GetFontSize() * 4, 0}) || context.command == Command::kPlay) {
    is_playing_ = !is_playing_;
    if (is_playing_ && step == num_steps - 1) step = 0;
    due_ = ImGui::GetTime() + 1 / steps_per_sec_;
  }
  ImGui::SameLine();
  ImGui::SetNextItemWidth(ImGui::GetContentRegionAvail().x - ImGui::GetFontSize() * 11);
  const std::string text = StrCat("step ", step, " of ", num_steps);
  if (ImGui::SliderInt("##step", &step, 0, num_steps - 1, text.c_str(), ImGuiSliderFlags_AlwaysClamp))
    is_playing_ = false;
  ImGui::SameLine();
  ImGui::SetNextItemWidth(ImGui::GetFontSize() * 9);
  ImGui::SliderFloat("##speed", &steps_per_sec_, 0.5f, 60, "%.1f steps/s", ImGuiSliderFlags_Logarithmic);
  if (!is_playing_) return;
  if (ImGui::GetTime() >= due_) {
    due_ = std::max(due_ + 1 / steps_per_sec_, ImGui::GetTime());
    if (++step == num_steps) {
      step = num_steps - 1;
      is_playing_ = false;
    }
  }
  if (context.wants_frames) *context.wants_frames = true;
}

// The token fed back at this step and what the model gave it and others.
void TimelinePanel::DrawStep(const PanelContext& context, const StepInfo& step, int query) {
  const Palette& palette = CurrentTheme().palette;
  const TraceTokens& tokens = context.document->reader().tokens();
  ImGui::Text("token %d  \"%s\"", query, Escape(tokens.pieces[query]).c_str());
  for (size_t i = 0; i < step.top_ids.size(); ++i) {
    const float probability = std::exp(step.top_logprobs[i]);
    const ImVec2 at = ImGui::GetCursorScreenPos();
    const float width = ImGui::GetFontSize() * 8 * probability;
    ImGui::GetWindowDrawList()->AddRectFilled(
        at, {at.x + std::max(1.0f, width), at.y + ImGui::GetTextLineHeight()},
        step.top_ids[i] == tokens.ids[query] ? (palette.accent & 0x00ffffff) | 0x60000000 : palette.hairline);
    // The text of an id is known where the run itself used it.
    const auto used = std::find(tokens.ids.begin(), tokens.ids.end(), step.top_ids[i]);
    const std::string piece =
        used == tokens.ids.end()
            ? StrCat("id ", step.top_ids[i])
            : StrCat("\"", Escape(tokens.pieces[static_cast<size_t>(used - tokens.ids.begin())]), "\"");
    ImGui::Text(" %5.1f %%   %s", 100 * probability, piece.c_str());
  }
}

void TimelinePanel::DrawRow(PanelContext& context, int query, float height) {
  TraceDocument& document = *context.document;
  if (document.reader().info().layers.empty()) return CentredText("This trace holds no layer.");
  if (document.reader().HasColumns()) {
    return CentredText(
        "What a head looks at in a step needs that step's weights; this trace holds sums over all queries only (level "
        "relevance): record with --level rows, qkv or qkv+rows.");
  }
  row_.Update(document, context.view, {{query, query + 1}}, context.jobs);
  if (!row_.failure().empty()) return CentredText(row_.failure().c_str());
  // The row as it was, a frame long, when another step was chosen just now.
  const std::vector<float>& weights = row_.weights();
  const std::span<const float> row =
      std::span(weights).first(std::min<size_t>(weights.size(), static_cast<size_t>(query) + 1));
  const LayerInfo& layer = document.reader().info().layers[context.view.layer_index];
  const int64_t first_seen = RuleOf(layer).FirstSeen(query);
  if (static_cast<int64_t>(row.size()) <= first_seen) return;
  // A bar for each pixel, the largest weight of its tokens; none outside the layer's window.
  const int bars = std::clamp(static_cast<int>(ImGui::GetContentRegionAvail().x), 16,
                              static_cast<int>(std::max<size_t>(16, row.size())));
  std::vector<float> xs, ys;
  const int64_t count = static_cast<int64_t>(row.size()) - first_seen;
  for (int64_t bar = 0; bar < bars; ++bar) {
    const int64_t begin = count * bar / bars, end = std::max(begin + 1, count * (bar + 1) / bars);
    if (begin >= count) break;
    const auto from = row.begin() + first_seen;
    xs.push_back(static_cast<float>(first_seen) + static_cast<float>(begin + end) / 2);
    ys.push_back(std::max(kLeastWeight, *std::max_element(from + begin, from + std::min(end, count))));
  }
  const std::string label = StrCat("weight of layer ", layer.layer, ", head ", layer.heads[context.view.head_index]);
  if (!ImPlot::BeginPlot("##row", {-1, height}, ImPlotFlags_CanvasOnly)) return;
  ImPlot::SetupAxes("token looked at", label.c_str(), ImPlotAxisFlags_NoGridLines, ImPlotAxisFlags_NoGridLines);
  ImPlot::SetupAxisScale(ImAxis_Y1, ImPlotScale_Log10);
  ImPlot::SetupAxesLimits(0, document.num_tokens(), kLeastWeight, 1, ImPlotCond_Once);
  ImPlot::SetupFinish();
  DrawBands(document.bands(), BandAxes::kTokens, false);
  const double bar_width = static_cast<double>(count) / static_cast<double>(xs.size());
  ImPlotSpec spec;
  spec.FillColor = spec.LineColor = ImGui::ColorConvertU32ToFloat4(CurrentTheme().palette.accent);
  ImPlot::PlotBars("##weights", xs.data(), ys.data(), static_cast<int>(xs.size()), bar_width, spec);
  DrawTokenMark(context.view.marked_token);
  DrawKeptStrip(FollowedBits(context), context.is_dark);
  if (ImPlot::IsPlotHovered()) {
    const int token = static_cast<int>(std::floor(ImPlot::GetPlotMousePos().x));
    if (token >= first_seen && token < static_cast<int>(row.size())) {
      ImGui::BeginTooltip();
      ImGui::Text("token %d  \"%s\"\nweight %.4g", token, Escape(document.reader().tokens().pieces[token]).c_str(),
                  row[token]);
      DrawKeptText(context, token);
      ImGui::EndTooltip();
      if (WasClicked()) MarkToken(context.view, token, document.num_tokens());
    }
  }
  ImPlot::EndPlot();
}

// The row of the step that is shown.
std::string TimelinePanel::Csv(PanelContext& context) const {
  const TraceReader& reader = context.document->reader();
  const int query = std::min(reader.info().prompt_tokens + context.view.step, context.document->num_tokens() - 1);
  if (!row_.IsOf(*context.document) || row_.weights().empty() || reader.steps().empty()) return "";
  std::string csv = "step,query_token,token,text,weight\n";
  const int first_seen = RuleOf(reader.info().layers[context.view.layer_index]).FirstSeen(query);
  for (int token = first_seen; token <= query && token < static_cast<int>(row_.weights().size()); ++token) {
    csv += StrCat(context.view.step, ",", query, ",", token, ",", CsvText(reader.tokens().pieces[token]), ",",
                  CsvNumber(row_.weights()[token]), "\n");
  }
  return csv;
}

}  // namespace kvscope
