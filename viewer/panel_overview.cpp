// SPDX-License-Identifier: Apache-2.0
// Every head as a thumbnail: which one looks at the needle, which only at the sinks, which only nearby. A click opens
// it in the heatmap.
#include <imgui.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "viewer/export.h"
#include "viewer/panel_parts.h"
#include "viewer/panels.h"
#include "viewer/theme.h"

namespace kvscope {

void OverviewPanel::Draw(PanelContext& context) {
  if (!HasTrace(context)) return;
  model_.Update(*context.document, {context.is_dark, CurrentTheme().palette.surface}, context.jobs);
  if (!model_.failure().empty()) return CentredText(model_.failure().c_str());
  if (model_.image() && model_.generation() != shown_generation_) {
    texture_.Set(*model_.image());
    shown_generation_ = model_.generation();
  }
  ImGui::AlignTextToFramePadding();
  ImGui::TextUnformatted("sorted by");
  ImGui::SameLine();
  ImGui::SetNextItemWidth(ImGui::GetFontSize() * 10);
  int order = static_cast<int>(context.view.head_order);
  if (ImGui::Combo("##order", &order, kHeadOrderNames, IM_ARRAYSIZE(kHeadOrderNames)))
    context.view.head_order = static_cast<HeadOrder>(order);
  ImGui::SameLine();
  if (model_.progress() < 1) {
    ImGui::TextDisabled("%.0f %%", 100 * model_.progress());
  } else {
    ImGui::TextDisabled("%zu heads, from a sample of their queries", model_.entries().size());
  }
  if (model_.progress() == 1 && model_.entries().empty()) return CentredText("No queries were written yet.");
  if (!texture_.is_set() || model_.entries().empty()) return;
  if (ImGui::BeginChild("heads")) DrawThumbs(context);
  ImGui::EndChild();
}

void OverviewPanel::DrawThumbs(PanelContext& context) {
  const std::vector<HeadEntry>& entries = model_.entries();
  const std::vector<LayerInfo>& layers = context.document->reader().info().layers;
  const std::vector<int> order = OrderOf(entries, context.view.head_order);
  const float em = ImGui::GetFontSize(), gap = em * 0.5f, label = ImGui::GetTextLineHeight();
  // By layer a row is a layer where it fits; thumbnails keep a size at which something can be seen.
  const float width = ImGui::GetContentRegionAvail().x;
  const int per_layer = static_cast<int>(layers[0].heads.size());
  const float fitting = width / static_cast<float>(per_layer) - gap;
  const bool is_grid = context.view.head_order == HeadOrder::kLayer && fitting > em * 2.5f;
  const float side = std::clamp(is_grid ? fitting : em * 5, em * 2.5f, em * 7);
  const int columns = is_grid ? per_layer : std::max(1, static_cast<int>(width / (side + gap)));
  const float pitch_x = side + gap, pitch_y = side + gap + label;
  const int rows = (static_cast<int>(order.size()) + columns - 1) / columns;
  const float thumb_u = 1.0f / OverviewModel::kThumbColumns,
              thumb_v = static_cast<float>(OverviewModel::kThumbPixels) / static_cast<float>(texture_.height());
  ImDrawList* const draw = ImGui::GetWindowDrawList();
  ImGuiListClipper clipper;
  clipper.Begin(rows, pitch_y);
  while (clipper.Step()) {
    for (int row = clipper.DisplayStart; row < clipper.DisplayEnd; ++row) {
      const ImVec2 start = ImGui::GetCursorScreenPos();
      for (int column = 0; column < columns; ++column) {
        const int place = row * columns + column;
        if (place >= static_cast<int>(order.size())) break;
        const int index = order[place];
        const HeadEntry& entry = entries[index];
        const ImVec2 from{start.x + static_cast<float>(column) * pitch_x, start.y}, to{from.x + side, from.y + side};
        const int atlas_x = index % OverviewModel::kThumbColumns, atlas_y = index / OverviewModel::kThumbColumns;
        draw->AddImage(texture_.Ref(), from, to,
                       {static_cast<float>(atlas_x) * thumb_u, static_cast<float>(atlas_y) * thumb_v},
                       {static_cast<float>(atlas_x + 1) * thumb_u, static_cast<float>(atlas_y + 1) * thumb_v});
        const bool is_chosen =
            entry.layer_index == context.view.layer_index && entry.head_index == context.view.head_index;
        const Palette& palette = CurrentTheme().palette;
        draw->AddRect(from, to, is_chosen ? palette.accent : palette.hairline, 0.0f, is_chosen ? 2.0f : 1.0f);
        const LayerInfo& layer = layers[entry.layer_index];
        const std::string name = StrCat(layer.layer, ".", layer.heads[entry.head_index]);
        const bool finds_needle = entry.overview.needle >= kFindsNeedle;
        draw->AddText({from.x, to.y}, finds_needle ? palette.needle : palette.faint_ink, name.c_str());
        ImGui::SetCursorScreenPos(from);
        ImGui::PushID(index);
        if (ImGui::InvisibleButton("thumb", {side, side + label})) {
          context.view.layer_index = entry.layer_index;
          context.view.head_index = entry.head_index;
          ImGui::SetWindowFocus("Heatmap");
        }
        if (ImGui::IsItemHovered()) {
          const HeadOverview& head = entry.overview;
          ImGui::BeginTooltip();
          ImGui::Text("layer %d, head %d", layer.layer, layer.heads[entry.head_index]);
          if (!std::isnan(head.needle)) ImGui::Text("needle   %.3f of what question and answer look at", head.needle);
          ImGui::Text("sinks    %.3f on the first %d tokens", head.sink, kOverviewSinks);
          ImGui::Text("local    %.3f on the last %d tokens", head.local, kOverviewLocal);
          ImGui::Text("entropy  %.2f nats", head.entropy);
          ImGui::EndTooltip();
        }
        ImGui::PopID();
      }
      ImGui::SetCursorScreenPos(start);
      ImGui::Dummy({1, pitch_y - ImGui::GetStyle().ItemSpacing.y});
    }
  }
}

std::string OverviewPanel::Csv(PanelContext& context) const {
  if (model_.progress() < 1) return "";
  const std::vector<LayerInfo>& layers = context.document->reader().info().layers;
  std::string csv = "layer,head,needle,sink,local,entropy\n";
  for (const int index : OrderOf(model_.entries(), context.view.head_order)) {
    const HeadEntry& entry = model_.entries()[index];
    csv += StrCat(layers[entry.layer_index].layer, ",", layers[entry.layer_index].heads[entry.head_index]);
    for (const double value :
         {entry.overview.needle, entry.overview.sink, entry.overview.local, entry.overview.entropy})
      csv += "," + CsvNumber(value);
    csv += "\n";
  }
  return csv;
}

}  // namespace kvscope
