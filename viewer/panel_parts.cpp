// SPDX-License-Identifier: Apache-2.0
#include "viewer/panel_parts.h"

#include <imgui.h>
#include <implot.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "viewer/theme.h"

namespace kvscope {
namespace {

// Labels along an axis, each in the first line where it does not touch another.
class LabelLines {
 public:
  // The line for a label that takes [begin, end).
  int LineFor(float begin, float end) {
    size_t line = 0;
    while (line < ends_.size() && ends_[line] > begin) ++line;
    if (line == ends_.size()) ends_.push_back(0);
    ends_[line] = end;
    return static_cast<int>(line);
  }

 private:
  std::vector<float> ends_;
};

// A drag against the border of [0, tokens) would squeeze a run; it stays as long as it was.
void KeepLength(int tokens, int length, int& begin, int& end) {
  if (end - begin >= length - 1) return;  // rounding aside
  if (begin == 0) {
    end = std::min(tokens, length);
  } else if (end == tokens) {
    begin = std::max(0, tokens - length);
  }
}

}  // namespace

std::vector<std::shared_ptr<const Results>> PanelContext::ReadyResults() const {
  std::vector<std::shared_ptr<const Results>> ready;
  for (const auto& file : results) {
    if (file->results()) ready.push_back(file->results());
  }
  return ready;
}

bool PanelContext::IsLoadingResults() const {
  return std::ranges::any_of(results,
                             [](const auto& file) { return file->state() == ResultsDocument::State::kLoading; });
}

void CentredText(const char* text) {
  const float width = ImGui::GetContentRegionAvail().x, wrap = std::min(width * 0.9f, ImGui::GetFontSize() * 34);
  const ImVec2 size = ImGui::CalcTextSize(text, nullptr, false, wrap);
  ImGui::SetCursorPos({ImGui::GetCursorPosX() + std::max(0.0f, (width - size.x) / 2),
                       ImGui::GetCursorPosY() + std::max(0.0f, (ImGui::GetContentRegionAvail().y - size.y) / 2.4f)});
  ImGui::PushTextWrapPos(ImGui::GetCursorPosX() + wrap);
  ImGui::TextDisabled("%s", text);
  ImGui::PopTextWrapPos();
}

uint32_t BandColor(const std::string& kind) {
  const Palette& palette = CurrentTheme().palette;
  if (kind.starts_with("needle")) return palette.needle;
  if (kind == "distractor") return palette.faint_ink;
  return kind == "question" ? palette.series[0] : palette.series[2];
}

bool HasTrace(const PanelContext& context) {
  if (!context.document) {
    CentredText(context.is_opening ? "Opening ..."
                                   : "Drop a trace here, or start with one: kvscope view run.kvtrace.h5");
    return false;
  }
  switch (context.document->state()) {
    case TraceDocument::State::kLoading:
      CentredText(("Opening " + context.document->path() + " ...").c_str());
      return false;
    case TraceDocument::State::kFailed:
      CentredText(context.document->failure().c_str());
      return false;
    case TraceDocument::State::kReady:
      return true;
  }
  return false;
}

void SameLineIfFits(float width) {
  const float gap = ImGui::GetFontSize() * 2;
  const float room = ImGui::GetCursorScreenPos().x + ImGui::GetContentRegionAvail().x - ImGui::GetItemRectMax().x;
  if (room > gap + width) ImGui::SameLine(0, gap);
}

void DrawColorStrip(const std::function<uint32_t(double share)>& color_of) {
  constexpr int kSteps = 64;
  const float em = ImGui::GetFontSize(), width = em * 8, height = em * 0.8f;
  const ImVec2 at = ImGui::GetCursorScreenPos();
  const float top = at.y + (ImGui::GetFrameHeight() - height) / 2;
  for (int i = 0; i < kSteps; ++i) {
    ImGui::GetWindowDrawList()->AddRectFilled(
        {at.x + width * i / kSteps, top}, {at.x + width * (i + 1) / kSteps + (i + 1 < kSteps ? 1 : 0), top + height},
        color_of((i + 0.5) / kSteps));
  }
  ImGui::Dummy({width, ImGui::GetFrameHeight()});
}

void DrawLegend(const WeightScale& scale, bool is_dark) {
  SameLineIfFits(ImGui::GetFontSize() * 16);
  ImGui::AlignTextToFramePadding();
  ImGui::TextDisabled("%.2g", scale.is_log ? scale.WeightOf(0) : 0.0f);
  ImGui::SameLine();
  DrawColorStrip([is_dark](double ink) { return InkColor(ink, is_dark); });
  ImGui::SameLine();
  ImGui::TextDisabled("%.3g", scale.highest);
}

void DrawBands(const std::vector<LabelledBand>& bands, BandAxes axes, bool has_names) {
  const bool on_both_axes = axes == BandAxes::kBoth;
  const ImVec2 from = ImPlot::GetPlotPos(), size = ImPlot::GetPlotSize(), to{from.x + size.x, from.y + size.y};
  const float line_height = ImGui::GetTextLineHeight();
  ImDrawList* const draw = ImPlot::GetPlotDrawList();
  ImPlot::PushPlotClipRect();
  LabelLines top_lines, side_lines;
  for (const LabelledBand& band : bands) {
    const ImVec4 color = ImGui::ColorConvertU32ToFloat4(BandColor(band.kind));
    const ImU32 line = ImGui::ColorConvertFloat4ToU32({color.x, color.y, color.z, 0.9f});
    const ImU32 fill = ImGui::ColorConvertFloat4ToU32({color.x, color.y, color.z, 0.10f});
    const ImVec2 begin = ImPlot::PlotToPixels(band.token_begin, band.token_begin),
                 end = ImPlot::PlotToPixels(band.token_end, band.token_end);
    draw->AddRectFilled({begin.x, from.y}, {std::max(end.x, begin.x + 1), to.y}, fill);
    draw->AddLine({begin.x, from.y}, {begin.x, to.y}, line);
    const float width = ImGui::CalcTextSize(band.kind.c_str()).x, x = std::min(begin.x + 4, to.x - width - 4);
    if (has_names && begin.x < to.x && end.x > from.x) {
      const float top = from.y + 4 + top_lines.LineFor(x, x + width + 6) * line_height;
      if (!on_both_axes) {  // above the diagonal nothing disturbs a label; here it stands on the map
        draw->AddRectFilled({x - 2, top}, {x + width + 2, top + line_height},
                            (CurrentTheme().palette.surface & 0x00ffffff) | 0xd0000000);
      }
      draw->AddText({x, top}, line, band.kind.c_str());
    }
    if (!on_both_axes) continue;
    draw->AddRectFilled({from.x, begin.y}, {to.x, std::max(end.y, begin.y + 1)}, fill);
    draw->AddLine({from.x, begin.y}, {to.x, begin.y}, line);
    if (has_names && begin.y < to.y && end.y > from.y) {
      const int label_line = side_lines.LineFor(begin.y, begin.y + line_height);
      draw->AddText({to.x - (width + 8) - label_line * line_height * 7, begin.y + 1}, line, band.kind.c_str());
    }
  }
  ImPlot::PopPlotClipRect();
}

void DrawTokenMark(int token) {
  if (token < 0) return;
  const ImVec2 from = ImPlot::GetPlotPos(), size = ImPlot::GetPlotSize();
  const float x = ImPlot::PlotToPixels(token + 0.5, 0).x;
  ImPlot::PushPlotClipRect();
  ImPlot::GetPlotDrawList()->AddLine({x, from.y}, {x, from.y + size.y}, CurrentTheme().palette.accent);
  ImPlot::PopPlotClipRect();
}

void DrawKeptStrip(const std::vector<uint8_t>& bits, bool is_dark) {
  if (bits.empty()) return;
  const float height = ImGui::GetFontSize() * 0.4f, pixels = ImPlot::GetPlotSize().x;
  const ImVec2 from = ImPlot::GetPlotPos();
  const float top = from.y + ImPlot::GetPlotSize().y - height;
  const double left = ImPlot::GetPlotLimits().X.Min, per_pixel = ImPlot::GetPlotLimits().X.Size() / pixels;
  ImDrawList* const draw = ImPlot::GetPlotDrawList();
  draw->AddRectFilled({from.x, top - 1}, {from.x + pixels, top + height}, CurrentTheme().palette.surface);
  const auto most_bits = [&](int x) {  // a token that is kept stays visible among others
    const auto begin = std::clamp<int64_t>(std::llround(std::floor(left + x * per_pixel)), 0, std::ssize(bits)),
               end = std::clamp<int64_t>(std::llround(std::ceil(left + (x + 1) * per_pixel)), begin, std::ssize(bits));
    return begin == end ? 0 : *std::max_element(bits.begin() + begin, bits.begin() + end);
  };
  for (int x = 0, end = 0; x < static_cast<int>(pixels); x = end) {
    const int value = most_bits(x);
    while (end < static_cast<int>(pixels) && most_bits(end) == value) ++end;
    if (value > 0)
      draw->AddRectFilled({from.x + static_cast<float>(x), top}, {from.x + static_cast<float>(end), top + height},
                          InkColor(BitsInk(value), is_dark));
  }
}

int ShownQuery(const PanelContext& context) {
  return std::clamp(context.document->reader().info().prompt_tokens + context.view.step, 0,
                    std::max(0, context.document->num_tokens() - 1));
}

std::shared_ptr<const PolicyOutcome> OutcomeOf(const PanelContext& context, int policy_index) {
  if (context.policies.document() != context.document || policy_index >= std::ssize(context.view.policies))
    return nullptr;
  auto outcome = context.policies.Outcome(policy_index);
  return outcome && IsSamePolicy(outcome->choice, context.view.policies[policy_index]) ? outcome : nullptr;
}

std::shared_ptr<const PolicyOutcome> FollowedOutcome(const PanelContext& context) {
  if (!context.view.follows_policies) return nullptr;
  auto outcome = OutcomeOf(context, context.view.policy_index);
  return outcome && outcome->history ? outcome : nullptr;
}

std::vector<uint8_t> FollowedBits(const PanelContext& context) {
  const auto outcome = FollowedOutcome(context);
  if (!outcome) return {};
  const Plan& plan = outcome->history->plan();
  const int layer = std::clamp(context.view.layer_index, 0, plan.shape.num_layers - 1);
  const int head = std::clamp(context.view.head_index, 0, plan.shape.num_heads - 1);
  return outcome->history->BitsAfter(layer, head / plan.shape.HeadsPerKvHead(),
                                     std::max(ShownQuery(context), plan.request.FirstDecision() - 1));
}

void DrawKeptText(const PanelContext& context, int token) {
  const auto outcome = FollowedOutcome(context);
  const std::vector<uint8_t> bits = FollowedBits(context);
  if (token < 0 || token >= std::ssize(bits)) return;
  const int layer = std::clamp(context.view.layer_index, 0, outcome->history->plan().shape.num_layers - 1);
  if (token < outcome->history->FirstInWindow(layer, static_cast<int>(bits.size()) - 1)) {
    ImGui::TextDisabled("the layer's window has left it");
  } else if (bits[token] == 0) {
    ImGui::TextColored(ImGui::ColorConvertU32ToFloat4(CurrentTheme().palette.needle), "dropped by %s",
                       outcome->choice.spec.c_str());
  } else {
    ImGui::Text("kept in %d bits by %s", bits[token], outcome->choice.spec.c_str());
  }
}

void MarkToken(ViewState& view, int token, int num_tokens) {
  if (token >= 0 && token < num_tokens) view.marked_token = view.marked_token == token ? -1 : token;
}

bool WasClicked() {
  constexpr float kFarthest = 4;  // pixels
  return ImGui::IsMouseReleased(ImGuiMouseButton_Left) &&
         ImGui::GetIO().MouseDragMaxDistanceSqr[ImGuiMouseButton_Left] < kFarthest * kFarthest;
}

MapWindow FollowMouse(const TraceDocument& document, const MapWindow& before, bool has_queries, ViewState& view) {
  const ImPlotRect limits = ImPlot::GetPlotLimits();
  ViewState seen;
  seen.window = {static_cast<int>(std::floor(limits.Y.Min)), static_cast<int>(std::ceil(limits.Y.Max)),
                 static_cast<int>(std::floor(limits.X.Min)), static_cast<int>(std::ceil(limits.X.Max))};
  if (!has_queries) seen.window.query_begin = before.query_begin, seen.window.query_end = before.query_end;
  const MapWindow in_plot = WindowOf(document, seen);
  MapWindow window = in_plot;
  if (ImGui::IsMouseDown(ImGuiMouseButton_Left)) {
    const int tokens = document.num_tokens();
    KeepLength(tokens, before.query_end - before.query_begin, window.query_begin, window.query_end);
    KeepLength(tokens, before.token_end - before.token_begin, window.token_begin, window.token_end);
  }
  view.window = window == WindowOf(document, ViewState{}) ? MapWindow{} : window;
  return in_plot;
}

}  // namespace kvscope
