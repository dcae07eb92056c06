// SPDX-License-Identifier: Apache-2.0
#include "viewer/panel_parts.h"

#include <imgui.h>
#include <implot.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "viewer/theme.h"

namespace kvscope {

void DrawTokenBands(const std::vector<LabelledBand>& bands, bool has_names) {
  const ImVec2 from = ImPlot::GetPlotPos(), size = ImPlot::GetPlotSize();
  ImDrawList* const draw = ImPlot::GetPlotDrawList();
  ImPlot::PushPlotClipRect();
  float free_from = from.x;
  for (const LabelledBand& band : bands) {
    const float left = ImPlot::PlotToPixels(band.token_begin, 0).x, right = ImPlot::PlotToPixels(band.token_end, 0).x;
    const ImU32 color = BandColor(band.kind) & 0x00ffffff;
    draw->AddRectFilled({left, from.y}, {std::max(right, left + 1), from.y + size.y}, color | 0x30000000);
    draw->AddLine({left, from.y}, {left, from.y + size.y}, color | 0xb0000000);
    const float width = ImGui::CalcTextSize(band.kind.c_str()).x;
    const float at = std::min(left + 3, from.x + size.x - width - 3);
    if (!has_names || right < from.x || left > from.x + size.x || at < free_from) continue;
    draw->AddText({at, from.y + 2}, color | 0xff000000, band.kind.c_str());
    free_from = at + width + 6;
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

std::shared_ptr<const PolicyOutcome> FollowedOutcome(const PanelContext& context) {
  if (!context.view.follows_policies) return nullptr;
  auto outcome = context.policies.Outcome(context.view.policy_index);
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
  if (bits[token] == 0) {
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

}  // namespace kvscope
