// SPDX-License-Identifier: Apache-2.0
#include "viewer/start_frame.h"

#include <imgui.h>
#include <imgui_internal.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "core/error.h"
#include "core/units.h"
#include "replay/chart_color.h"
#include "viewer/theme.h"

namespace kvscope {
namespace {

ImU32 FromRgb(uint32_t rgb) {
  return IM_COL32(rgb >> 16 & 255, rgb >> 8 & 255, rgb & 255, 255);
}

// The emblem: a causal attention matrix, a needle's column in it.
constexpr int kEmblemRows = 11, kNeedleColumn = 3;

// Weight of row's query on column's token, in [0, 1]: a sink, a recent window, a needle found again at the end.
double EmblemWeight(int row, int column) {
  const double recent = std::exp(-0.55 * (row - column)), sink = column == 0 ? 0.62 : 0;
  const double ripple = 0.10 * (1 + std::sin(2.1 * row + 3.7 * column));
  return std::clamp(std::max(recent, sink) + ripple, 0.0, 1.0);
}

void DrawEmblem(ImVec2 corner, float pitch) {
  const Theme& theme = CurrentTheme();
  ImDrawList& draw = *ImGui::GetWindowDrawList();
  const float side = std::round(pitch * 0.82f);
  for (int row = 0; row < kEmblemRows; ++row) {
    for (int column = 0; column <= row; ++column) {
      const double weight = 0.12 + 0.72 * EmblemWeight(row, column);
      ImU32 color = FromRgb(SequentialRgb(theme.is_dark ? 1 - 0.75 * weight : weight));
      if (column == kNeedleColumn && row >= kEmblemRows - 3) color = theme.palette.needle;
      const ImVec2 from(corner.x + static_cast<float>(column) * pitch, corner.y + static_cast<float>(row) * pitch);
      draw.AddRectFilled(from, {from.x + side, from.y + side}, color, side * 0.22f);
    }
  }
}

// One centred line; advances the cursor below it.
void CenteredText(const std::string& text, ImFont* font, float size, ImU32 color) {
  ImGui::PushFont(font, size);
  ImGui::PushStyleColor(ImGuiCol_Text, color);
  const float width = ImGui::CalcTextSize(text.c_str()).x;
  ImGui::SetCursorPosX(std::floor((ImGui::GetWindowWidth() - width) / 2));
  ImGui::TextUnformatted(text.c_str());
  ImGui::PopStyleColor();
  ImGui::PopFont();
}

// A command on a pale plate.
void CenteredCommand(const std::string& text) {
  const Theme& theme = CurrentTheme();
  ImGui::PushFont(theme.mono, 0);
  const ImVec2 size = ImGui::CalcTextSize(text.c_str());
  const float x_padding = ImGui::GetFontSize() * 0.95f, y_padding = ImGui::GetFontSize() * 0.55f;
  ImGui::SetCursorPosX(std::floor((ImGui::GetWindowWidth() - size.x) / 2 - x_padding));
  const ImVec2 from = ImGui::GetCursorScreenPos();
  const ImVec2 to(from.x + size.x + 2 * x_padding, from.y + size.y + 2 * y_padding);
  ImDrawList& draw = *ImGui::GetWindowDrawList();
  draw.AddRectFilled(from, to, theme.palette.raised, ImGui::GetStyle().WindowRounding);
  draw.AddRect(from, to, theme.palette.hairline, ImGui::GetStyle().WindowRounding);
  draw.AddText({from.x + x_padding, from.y + y_padding}, theme.palette.ink, text.c_str());
  ImGui::Dummy({to.x - from.x, to.y - from.y});
  ImGui::PopFont();
}

bool IsThere(const std::string& path) {
  std::error_code failure;
  return std::filesystem::is_regular_file(path, failure);
}

std::string RecentLabel(const std::string& path) {
  const std::filesystem::path file = path;
  const std::string folder = Shorten(Escape(file.parent_path().string()), 50);
  return StrCat(Escape(file.filename().string()), "   ", IsThere(path) ? folder : "(gone from " + folder + ")");
}

// Room left of something so wide that it stands in the middle.
void CenterNext(float width) {
  ImGui::SetCursorPosX(std::floor((ImGui::GetWindowWidth() - width) / 2));
}

}  // namespace

bool RecentFileItem(const std::string& path) {
  const std::string label = RecentLabel(path) + "###" + path;
  return ImGui::Selectable(label.c_str(), false, IsThere(path) ? 0 : ImGuiSelectableFlags_Disabled);
}

void DrawStart(const StartActions& actions) {
  const Theme& theme = CurrentTheme();
  const Palette& palette = theme.palette;
  const ImGuiViewport* const viewport = ImGui::GetMainViewport();
  ImGui::SetNextWindowPos(viewport->WorkPos);
  ImGui::SetNextWindowSize(viewport->WorkSize);
  ImGui::PushStyleVar(ImGuiStyleVar_WindowRounding, 0);
  ImGui::PushStyleVar(ImGuiStyleVar_WindowBorderSize, 0);
  ImGui::Begin("Start", nullptr,
               ImGuiWindowFlags_NoDecoration | ImGuiWindowFlags_NoMove | ImGuiWindowFlags_NoDocking |
                   ImGuiWindowFlags_NoSavedSettings | ImGuiWindowFlags_NoBringToFrontOnFocus);
  ImGui::PopStyleVar(2);

  const float em = ImGui::GetFontSize();  // pixels
  const float pitch = std::round(em * 0.92f), emblem = pitch * kEmblemRows;
  const auto num_recent = static_cast<float>(actions.recent_files.size());
  const float text_height =
      em * 13 + (num_recent > 0 ? num_recent * ImGui::GetTextLineHeightWithSpacing() + em * 2 : 0);
  // A little above the middle looks like the middle.
  const float top = std::max(em, (ImGui::GetWindowHeight() - emblem - text_height) * 0.46f);

  ImGui::SetCursorPosY(top);
  const ImVec2 corner = ImGui::GetCursorScreenPos();
  DrawEmblem({std::floor(ImGui::GetWindowPos().x + (ImGui::GetWindowWidth() - emblem) / 2), std::floor(corner.y)},
             pitch);
  ImGui::SetCursorPosY(top + emblem + em * 1.6f);
  CenteredText("kvscope", theme.bold, 27, palette.ink);
  ImGui::Dummy({0, em * 0.15f});
  CenteredText("Drop a trace here, or type:", theme.regular, 16, palette.soft_ink);
  ImGui::Dummy({0, em * 0.35f});
  CenteredCommand("kvscope view run.kvtrace.h5");
  ImGui::Dummy({0, em * 0.35f});
  CenterNext(em * 9);
  if (ImGui::Button("Open ...", {em * 9, 0})) actions.browse();
  if (!actions.recent_files.empty()) {
    ImGui::Dummy({0, em * 0.6f});
    float width = 0;
    for (const std::string& path : actions.recent_files)
      width = std::max(width, ImGui::CalcTextSize(RecentLabel(path).c_str()).x);
    width = std::min(ImGui::GetWindowWidth() - em * 2, width + em);
    CenterNext(width);
    if (ImGui::BeginChild("recent", {width, 0})) {
      ImGui::TextDisabled("Recent");
      for (const std::string& path : actions.recent_files) {
        if (RecentFileItem(path)) actions.open(path);
      }
    }
    ImGui::EndChild();
  }
  ImGui::End();
  // The panels' layout waits; windows that stay at the back lie below those that came before.
  ImGui::DockSpaceOverViewport(0, nullptr, ImGuiDockNodeFlags_KeepAliveOnly);
}

}  // namespace kvscope
