// SPDX-License-Identifier: Apache-2.0
// What was run, on what, and what came out.
#include <imgui.h>

#include "viewer/export.h"
#include "viewer/panels.h"
#include "viewer/theme.h"

namespace kvscope {

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

void RunPanel::Draw(PanelContext& context) {
  if (!HasTrace(context)) return;
  if (!ImGui::BeginTable("facts", 2, ImGuiTableFlags_SizingFixedFit | ImGuiTableFlags_ScrollY)) return;
  ImGui::TableSetupColumn("what", ImGuiTableColumnFlags_WidthFixed);
  ImGui::TableSetupColumn("value", ImGuiTableColumnFlags_WidthStretch);
  const std::string* last = nullptr;
  for (const SummaryLine& line : context.document->facts()) {
    ImGui::TableNextRow();
    ImGui::TableNextColumn();
    if (!last || *last != line.heading) ImGui::TextDisabled("%s", line.heading.c_str());
    last = &line.heading;
    ImGui::TableNextColumn();
    ImGui::TextWrapped("%s", line.text.c_str());
  }
  ImGui::EndTable();
}

std::string RunPanel::Csv(PanelContext& context) const {
  std::string csv = "heading,text\n";
  for (const SummaryLine& line : context.document->facts())
    csv += CsvText(line.heading) + "," + CsvText(line.text) + "\n";
  return csv;
}

}  // namespace kvscope
