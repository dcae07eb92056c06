// SPDX-License-Identifier: Apache-2.0
// Needle runs by context length across and depth down: did the model answer, and what did the chosen policy keep of the
// needle? Low is alarming. A click opens a cell's worst run.
#include <imgui.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "core/error.h"
#include "core/units.h"
#include "viewer/panel_parts.h"
#include "viewer/panels.h"
#include "viewer/theme.h"

namespace kvscope {
namespace {

constexpr size_t kMostRunsInHover = 8;

// From vermilion, which alarms, over grey to a quiet blue; its lightness goes one way, for the colour-blind and for
// paper. value in [0, 1].
ImVec4 AlarmColor(double value, bool is_dark) {
  const ImVec4 dark[] = {{0.945f, 0.435f, 0.235f, 1}, {0.47f, 0.41f, 0.40f, 1}, {0.155f, 0.275f, 0.395f, 1}};
  const ImVec4 light[] = {{0.835f, 0.330f, 0.020f, 1}, {0.90f, 0.80f, 0.72f, 1}, {0.80f, 0.90f, 0.97f, 1}};
  const ImVec4* const stops = is_dark ? dark : light;
  const auto place = static_cast<float>(std::clamp(value, 0.0, 1.0) * 2);
  const int stop = std::min(1, static_cast<int>(place));
  const float part = place - static_cast<float>(stop);
  const ImVec4 &a = stops[stop], &b = stops[stop + 1];
  return {a.x + (b.x - a.x) * part, a.y + (b.y - a.y) * part, a.z + (b.z - a.z) * part, 1};
}

// Ink that can be read on it.
ImU32 InkOn(const ImVec4& color) {
  return 0.3f * color.x + 0.59f * color.y + 0.11f * color.z > 0.47f ? 0xff16181c : 0xffffffff;
}

std::string PercentText(double share) {
  return StrCat(std::lround(100 * std::clamp(share, -9.0, 9.0)), " %");
}

std::string NameOf(const PolicyChoice& choice) {
  return StrCat(Escape(choice.spec), " at ", PercentText(choice.keep_fraction));
}

GridFigure FigureOf(const ViewState& view) {
  return view.grid_shows_retention ? GridFigure::kRetention : GridFigure::kAnswer;
}

std::string Plural(size_t count, const char* thing) {
  return StrCat(count, " ", thing, count == 1 ? "" : "s");
}

// What a colour means, as a strip with its ends.
void DrawLegend(bool is_dark) {
  ImGui::TextDisabled("0");
  ImGui::SameLine();
  DrawColorStrip([is_dark](double share) { return ImGui::ColorConvertFloat4ToU32(AlarmColor(share, is_dark)); });
  ImGui::SameLine();
  ImGui::TextDisabled("100 %%");
}

}  // namespace

std::string GridPanel::Csv(PanelContext&) const {
  return GridCsv(model_.runs());
}

void GridPanel::Draw(PanelContext& context) {
  model_.Update({context.traces.begin(), context.traces.end()}, context.ReadyResults(), context.view,
                FigureOf(context.view), context.jobs);
  if (model_.runs().empty() && model_.failures().empty()) {
    if (model_.reading().done < model_.reading().all || context.IsLoadingResults() || context.is_opening)
      return CentredText("Reading what the runs say of themselves ...");
    return CentredText(context.traces.empty() && context.results.empty()
                           ? "Open a folder of needle runs here: kvscope view runs/"
                           : "Nothing that is open says how deep its needle lies: open a folder of needle runs, "
                             "made by kvscope capture --task niah.");
  }
  DrawControls(context);
  // A sentence takes two lines, as a rule.
  const size_t lines = model_.failures().empty() ? 0 : 1 + 2 * std::min<size_t>(model_.failures().size(), 3);
  const float below = static_cast<float>(lines) * ImGui::GetTextLineHeightWithSpacing();
  DrawCells(context, std::max(ImGui::GetFontSize() * 8, ImGui::GetContentRegionAvail().y - below));
  DrawFailures();
}

void GridPanel::DrawControls(PanelContext& context) {
  ViewState& view = context.view;
  const float em = ImGui::GetFontSize();
  view.policy_index = std::clamp(view.policy_index, 0, std::max(0, static_cast<int>(view.policies.size()) - 1));
  if (ImGui::RadioButton("recorded answer", !view.grid_shows_retention)) view.grid_shows_retention = false;
  ImGui::SameLine();
  if (ImGui::RadioButton("needle kept by", view.grid_shows_retention)) view.grid_shows_retention = true;
  ImGui::SameLine();
  ImGui::SetNextItemWidth(em * 12);
  if (!view.policies.empty() && ImGui::BeginCombo("##policy", NameOf(view.policies[view.policy_index]).c_str())) {
    for (int i = 0; i < static_cast<int>(view.policies.size()); ++i) {
      if (!ImGui::Selectable(StrCat(NameOf(view.policies[i]), "##", i).c_str(), i == view.policy_index)) continue;
      view.policy_index = i;
      view.grid_shows_retention = true;
    }
    ImGui::EndCombo();
  }
  ImGui::SameLine(0, em * 1.5f);
  DrawLegend(context.is_dark);
  ImGui::SameLine(0, em * 1.5f);
  const GridModel::Progress reading = model_.reading(), replaying = model_.replaying();
  std::string text = Plural(model_.runs().size(), "run");
  if (reading.done < reading.all) text = StrCat("reading ", reading.done, " of ", reading.all);
  if (replaying.done < replaying.all) text = StrCat("replaying ", replaying.done, " of ", replaying.all);
  if (model_.num_without_needle() > 0) text += StrCat(", ", model_.num_without_needle(), " without a needle left out");
  ImGui::TextDisabled("%s", text.c_str());
}

void GridPanel::DrawCells(PanelContext& context, float height) {
  const Grid& grid = model_.grid();
  const float em = ImGui::GetFontSize(), line = ImGui::GetTextLineHeight();
  const Palette& palette = CurrentTheme().palette;
  if (!ImGui::BeginChild("cells", {0, height}) || grid.cells.empty()) return ImGui::EndChild();
  ImDrawList* const draw = ImGui::GetWindowDrawList();
  const ImVec2 start = ImGui::GetCursorScreenPos(), room = ImGui::GetContentRegionAvail();
  const float left = em * 5, top = line * 2 + em;
  const auto columns = static_cast<float>(grid.contexts.size()), rows = static_cast<float>(grid.depths.size());
  const float cell_width = std::clamp((room.x - left) / columns, em * 3.2f, em * 16),
              cell_height = std::clamp((room.y - top) / rows, em * 2.2f, em * 7), gap = std::round(em * 0.15f);
  draw->AddText({start.x + left, start.y}, palette.soft_ink, "context, tokens");
  draw->AddText({start.x, start.y + line + em * 0.3f}, palette.soft_ink, "depth");
  for (size_t context_index = 0; context_index < grid.contexts.size(); ++context_index) {
    const std::string text = FormatCount(static_cast<int64_t>(std::clamp(grid.contexts[context_index], 0.0, 1e15)));
    const float x = start.x + left + (static_cast<float>(context_index) + 0.5f) * cell_width;
    draw->AddText({x - ImGui::CalcTextSize(text.c_str()).x / 2, start.y + line + em * 0.3f}, palette.ink, text.c_str());
  }
  for (size_t depth = 0; depth < grid.depths.size(); ++depth) {
    const float y = start.y + top + static_cast<float>(depth) * cell_height;
    draw->AddText({start.x, y + (cell_height - line) / 2}, palette.ink, PercentText(grid.depths[depth]).c_str());
    for (size_t context_index = 0; context_index < grid.contexts.size(); ++context_index) {
      const GridCell& cell = grid.At(depth, context_index);
      const float x = start.x + left + static_cast<float>(context_index) * cell_width;
      const ImVec2 from{x + gap, y + gap}, to{x + cell_width - gap, y + cell_height - gap};
      if (cell.num_values == 0) {
        draw->AddRect(from, to, palette.faint_ink, em * 0.2f, 1.0f);
        draw->AddLine({from.x, to.y}, {to.x, from.y}, palette.faint_ink);
      } else {
        const ImVec4 color = AlarmColor(cell.value, context.is_dark);
        draw->AddRectFilled(from, to, ImGui::ColorConvertFloat4ToU32(color), em * 0.2f);
        const std::string text = PercentText(cell.value);
        const bool has_several = cell.num_values > 1;
        const float text_y = (from.y + to.y) / 2 - (has_several && cell_height > em * 3 ? line * 0.95f : line * 0.5f);
        draw->AddText({(from.x + to.x - ImGui::CalcTextSize(text.c_str()).x) / 2, text_y}, InkOn(color), text.c_str());
        if (has_several && cell_height > em * 3) {
          const std::string count = Plural(static_cast<size_t>(cell.num_values), "run");
          const float size = em * 0.85f;
          const float width = ImGui::CalcTextSize(count.c_str()).x * 0.85f;
          draw->AddText(nullptr, size, {(from.x + to.x - width) / 2, text_y + line},
                        (InkOn(color) & 0xffffff) | 0xb0000000, count.c_str());
        }
      }
      const auto is_current = [&](const GridRun* run) {
        return context.document && !run->path.empty() && run->path == context.document->path();
      };
      if (std::ranges::any_of(cell.runs, is_current)) draw->AddRect(from, to, palette.accent, em * 0.2f, 2.0f);
      if (cell.runs.empty()) continue;
      ImGui::SetCursorScreenPos(from);
      ImGui::PushID(static_cast<int>(depth * grid.contexts.size() + context_index));
      const bool is_clicked = ImGui::InvisibleButton("cell", {to.x - from.x, to.y - from.y});
      if (ImGui::IsItemHovered()) {
        draw->AddRect(from, to, palette.ink, em * 0.2f, 1.5f);
        DrawHover(cell, FigureOf(context.view));
      }
      ImGui::PopID();
      const auto first = std::ranges::find_if(cell.runs, [](const GridRun* run) { return !run->path.empty(); });
      if (is_clicked && first != cell.runs.end() && context.open) context.open((*first)->path);
    }
  }
  ImGui::SetCursorScreenPos({start.x, start.y + top + rows * cell_height});
  ImGui::Dummy({left + columns * cell_width, 1});
  ImGui::EndChild();
}

void GridPanel::DrawHover(const GridCell& cell, GridFigure figure) const {
  ImGui::BeginTooltip();
  ImGui::Text("%s tokens, needle at %s",
              FormatCount(static_cast<int64_t>(std::clamp(cell.runs[0]->context, 0.0, 1e15))).c_str(),
              PercentText(cell.runs[0]->depth).c_str());
  for (size_t i = 0; i < std::min(cell.runs.size(), kMostRunsInHover); ++i) {
    const GridRun& run = *cell.runs[i];
    const double value = ValueOf(run, figure);
    const std::string name =
        run.path.empty() ? "run " + run.run_id.substr(0, 8) : std::filesystem::path(run.path).filename().string();
    ImGui::TextDisabled("%6s  %s", std::isnan(value) ? "-" : PercentText(value).c_str(), Escape(name).c_str());
  }
  if (cell.runs.size() > kMostRunsInHover) ImGui::TextDisabled("and %zu more", cell.runs.size() - kMostRunsInHover);
  const bool has_trace = std::ranges::any_of(cell.runs, [](const GridRun* run) { return !run->path.empty(); });
  ImGui::TextDisabled(!has_trace              ? "its trace is not here"
                      : cell.runs.size() == 1 ? "click: opens the trace"
                                              : "click: opens the worst");
  ImGui::EndTooltip();
}

void GridPanel::DrawFailures() const {
  if (model_.failures().empty()) return;
  ImGui::TextDisabled("%s", (Plural(model_.failures().size(), "trace") + " left out:").c_str());
  if (ImGui::BeginChild("failures")) {
    ImGui::PushTextWrapPos(0);
    for (const std::string& failure : model_.failures()) ImGui::TextDisabled("%s", Escape(failure).c_str());
    ImGui::PopTextWrapPos();
  }
  ImGui::EndChild();
}

}  // namespace kvscope
