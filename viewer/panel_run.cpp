// SPDX-License-Identifier: Apache-2.0
// What was run, on what, and what came out.
#include <imgui.h>

#include <algorithm>
#include <cstdio>

#include "core/error.h"
#include "core/units.h"
#include "viewer/export.h"
#include "viewer/panel_parts.h"
#include "viewer/panels.h"
#include "viewer/theme.h"

namespace kvscope {

namespace {

// What `kvscope verify` finds, in a sentence.
std::string IntegrityOf(const TraceReader& reader) {
  try {
    const VerifyResult found = VerifyTrace(reader);
    if (found.rows_checked == 0) return "nothing to check: neither decode rows nor q, k, lse are recorded";
    char figures[160];
    std::snprintf(
        figures, sizeof figures, "recorded rows differ from rebuilt ones by at most %.2g, sums from 1 by %.2g",
        found.largest_row_difference, std::max(found.largest_rebuilt_sum_error, found.largest_recorded_sum_error));
    return StrCat(found.ok ? "intact" : "damaged near " + found.worst_place, ": ", FormatCount(found.rows_checked),
                  " rows checked, ", figures);
  } catch (const Error& error) {
    return error.what();
  }
}

}  // namespace

void RunPanel::DrawIntegrity(PanelContext& context) {
  const TraceDocument* const document = context.document;
  ImGui::TableNextRow();
  ImGui::TableNextColumn();
  ImGui::AlignTextToFramePadding();
  ImGui::TextDisabled("integrity");
  ImGui::TableNextColumn();
  if (const auto checked = integrity_.find(document); checked != integrity_.end())
    return ImGui::TextWrapped("%s", checked->second.empty() ? "checking ..." : checked->second.c_str());
  const bool is_asked = ImGui::Button("Check");
  ImGui::SameLine();
  ImGui::TextDisabled("recorded rows against rows rebuilt from q, k and lse");
  if (!is_asked) return;
  integrity_[document] = "";
  context.jobs.Start(StrCat("verify ", reinterpret_cast<uintptr_t>(document)),
                     [this, document](const std::atomic<bool>&) -> Jobs::Finish {
                       const std::string found = IntegrityOf(document->reader());
                       return [this, document, found] { integrity_[document] = found; };
                     });
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
    // Under the file's own line, where it is seen.
    if (&line == &context.document->facts().front() && !context.document->is_growing()) DrawIntegrity(context);
  }
  ImGui::EndTable();
}

std::string RunPanel::Csv(PanelContext& context) const {
  std::string csv = "heading,text\n";
  for (const SummaryLine& line : context.document->facts())
    csv += CsvText(line.heading) + "," + CsvText(line.text) + "\n";
  if (const auto checked = integrity_.find(context.document); checked != integrity_.end())
    csv += "integrity," + CsvText(checked->second) + "\n";
  return csv;
}

}  // namespace kvscope
