// SPDX-License-Identifier: Apache-2.0
// What was run, on what, and what came out.
#include <imgui.h>

#include "viewer/export.h"
#include "viewer/panel_parts.h"
#include "viewer/panels.h"
#include "viewer/theme.h"

namespace kvscope {

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
