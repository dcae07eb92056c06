// SPDX-License-Identifier: Apache-2.0
// The run as text, each token on what question and answer give it: what did this head read? A click marks a token in
// every panel; the search goes from hit to hit; segments fold under their headers.
#include <imgui.h>
#include <misc/cpp/imgui_stdlib.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/units.h"
#include "viewer/export.h"
#include "viewer/panel_parts.h"
#include "viewer/panels.h"
#include "viewer/theme.h"

namespace kvscope {

void TextPanel::Draw(PanelContext& context) {
  if (!HasTrace(context)) return;
  TraceDocument& document = *context.document;
  if (document.num_tokens() == 0) return CentredText("No tokens yet.");
  const std::vector<LayerInfo>& layers = document.reader().info().layers;
  if (!layers.empty()) relevance_.Update(document, context.view, document.Askers(), context.jobs);

  ImGui::SetNextItemWidth(ImGui::GetFontSize() * 14);
  if (context.command == Command::kSearch) ImGui::SetKeyboardFocusHere();
  const bool wants_next = ImGui::InputTextWithHint("##search", "search, Enter for the next", &search_,
                                                   ImGuiInputTextFlags_EnterReturnsTrue);
  if (wants_next && !search_.empty()) {
    const auto& pieces = document.reader().tokens().pieces;
    const int count = document.num_tokens(), start = std::max(-1, context.view.marked_token);
    for (int i = 1; i <= count; ++i) {
      const int token = (start + i) % count;
      // A hit may begin in this token and end in others.
      std::string text;
      for (int next = token; next < count && text.size() < search_.size() + pieces[token].size(); ++next)
        text += pieces[next];
      const size_t at = text.find(search_);
      if (at == std::string::npos || at >= pieces[token].size()) continue;
      context.view.marked_token = scroll_to_ = token;
      break;
    }
    ImGui::SetKeyboardFocusHere(-1);
  }
  ImGui::SameLine();
  if (layers.empty()) {
    ImGui::TextDisabled("This trace holds no layer.");
  } else if (!relevance_.failure().empty()) {
    ImGui::TextDisabled("%s", relevance_.failure().c_str());
  } else {
    const LayerInfo& layer = layers[context.view.layer_index];
    ImGui::TextDisabled("what layer %d, head %d gives each token from %s, up to %.3g", layer.layer,
                        layer.heads[context.view.head_index],
                        relevance_.is_of_all_queries() ? "all queries" : document.AskersText().c_str(),
                        relevance_.highest());
  }
  if (ImGui::BeginChild("tokens")) DrawTokens(context);
  ImGui::EndChild();
}

// True when it was clicked.
bool TextPanel::DrawHeader(int header, float height) const {
  const Palette& palette = CurrentTheme().palette;
  const Segment& segment = layout_.segment(header);
  const bool is_folded = layout_.is_folded(header);
  const float em = ImGui::GetFontSize();
  const ImVec2 from = ImGui::GetCursorScreenPos();
  ImGui::PushID(header);
  const bool is_clicked =
      ImGui::InvisibleButton("fold", {std::max(em, ImGui::GetContentRegionAvail().x), height - em * 0.25f});
  ImDrawList* const draw = ImGui::GetWindowDrawList();
  const ImU32 ink = ImGui::IsItemHovered() ? palette.accent : palette.soft_ink;
  // A triangle: down where it is open, to the right where it is folded.
  const ImVec2 middle{from.x + em * 0.4f, from.y + em * 0.55f};
  const float side = em * 0.28f;
  if (is_folded) {
    draw->AddTriangleFilled({middle.x - side, middle.y - side}, {middle.x - side, middle.y + side},
                            {middle.x + side, middle.y}, ink);
  } else {
    draw->AddTriangleFilled({middle.x - side, middle.y - side}, {middle.x + side, middle.y - side},
                            {middle.x, middle.y + side}, ink);
  }
  const std::string role = Escape(Shorten(segment.role, 40));
  const int last = segment.token_end - 1;
  const std::string rest =
      StrCat("turn ", segment.turn, ", tokens ", FormatCount(segment.token_begin), " to ", FormatCount(last));
  float x = from.x + em;
  ImFont* const bold = CurrentTheme().bold;
  draw->AddText(bold, em, {x, from.y}, palette.ink, role.c_str());
  x += bold->CalcTextSizeA(em, 1e9f, 0, role.c_str()).x + em * 0.6f;
  draw->AddText({x, from.y}, palette.soft_ink, rest.c_str());
  x += ImGui::CalcTextSize(rest.c_str()).x + em * 0.6f;
  const float y = from.y + em * 0.6f, right = from.x + ImGui::GetContentRegionAvail().x;
  if (x < right) draw->AddLine({x, y}, {right, y}, palette.hairline);
  ImGui::PopID();
  return is_clicked;
}

void TextPanel::DrawTokens(PanelContext& context) {
  const TraceDocument& document = *context.document;
  layout_.Update(&document, document.reader().tokens().pieces, document.reader().info().segments,
                 ImGui::GetContentRegionAvail().x - ImGui::GetStyle().ScrollbarSize, ImGui::GetFontSize(),
                 [](const std::string& text) { return ImGui::CalcTextSize(text.c_str()).x; });
  const Palette& palette = CurrentTheme().palette;
  const float height = ImGui::GetTextLineHeight() * 1.45f, text_height = ImGui::GetTextLineHeight();
  if (scroll_to_ >= 0) {
    ImGui::SetScrollY(
        std::max(0.0f, static_cast<float>(layout_.LineOf(scroll_to_)) * height - ImGui::GetWindowHeight() / 3));
    scroll_to_ = -1;
  }
  const WeightScale scale{true, relevance_.highest()};
  const std::vector<uint8_t> bits = FollowedBits(context);
  ImDrawList* const draw = ImGui::GetWindowDrawList();
  ImGuiListClipper clipper;
  const std::vector<TextLayout::Line>& lines = layout_.lines();
  int clicked = -1;  // header
  clipper.Begin(static_cast<int>(lines.size()), height);
  while (clipper.Step()) {
    for (int line = clipper.DisplayStart; line < clipper.DisplayEnd; ++line) {
      const ImVec2 start = ImGui::GetCursorScreenPos();
      if (lines[line].header >= 0 && DrawHeader(lines[line].header, height)) clicked = lines[line].header;
      for (int token = lines[line].token_begin; token < lines[line].token_end; ++token) {
        const ImVec2 from{start.x + layout_.x(token), start.y}, to{from.x + layout_.width(token), from.y + text_height};
        ImU32 ink = palette.ink;
        if (token < static_cast<int>(relevance_.weights().size()) && relevance_.highest() > 0) {
          const double amount = scale.InkOf(relevance_.weights()[token]);
          draw->AddRectFilled({from.x, from.y - 1}, {to.x, to.y + 1}, InkColor(amount * 0.85, context.is_dark));
          // Ink that can be read on it.
          if (amount > 0.5) ink = context.is_dark ? 0xff16181c : 0xffffffff;
        }
        // What the followed policy dropped is struck out, what it holds in few bits faded.
        const int token_bits = token < std::ssize(bits) ? bits[token] : static_cast<int>(kFullBits);
        const bool is_dropped = token_bits == 0;
        const double strength = is_dropped ? 0.45 : 0.35 + 0.65 * BitsInk(token_bits);
        ink = (ink & 0x00ffffff) | static_cast<ImU32>(255 * strength) << 24;
        draw->AddText(from, ink, layout_.text(token).c_str());
        if (is_dropped && to.x > from.x) {
          const float middle = from.y + text_height * 0.55f;
          draw->AddLine({from.x, middle}, {to.x, middle}, palette.needle, std::max(1.0f, text_height * 0.07f));
        }
        for (const LabelledBand& band : document.bands()) {
          if (token < band.token_begin || token >= band.token_end || band.kind == "needle_value") continue;
          draw->AddRectFilled({from.x, to.y + 1}, {to.x, to.y + 3}, BandColor(band.kind));
        }
        if (token == context.view.marked_token)
          draw->AddRect({from.x - 1, from.y - 2}, {to.x + 1, to.y + 4}, palette.accent, 2.0f, 2.0f);
        if (ImGui::IsWindowHovered() && ImGui::IsMouseHoveringRect(from, to)) {
          ImGui::BeginTooltip();
          ImGui::Text("token %d  \"%s\"", token, Escape(document.reader().tokens().pieces[token]).c_str());
          if (token < static_cast<int>(relevance_.weights().size()))
            ImGui::Text("mean weight %.4g", relevance_.weights()[token]);
          DrawKeptText(context, token);
          ImGui::EndTooltip();
          if (ImGui::IsMouseClicked(ImGuiMouseButton_Left)) MarkToken(context.view, token, document.num_tokens());
        }
      }
      ImGui::SetCursorScreenPos(start);
      ImGui::Dummy({1, height - ImGui::GetStyle().ItemSpacing.y});
    }
  }
  if (clicked >= 0) layout_.Fold(clicked, !layout_.is_folded(clicked));
}

std::string TextPanel::Csv(PanelContext& context) const {
  const TraceDocument& document = *context.document;
  std::string csv = "token,text,mean_weight,bits,kinds\n";
  const std::vector<uint8_t> bits = FollowedBits(context);
  for (int token = 0; token < document.num_tokens(); ++token) {
    std::string kinds;
    for (const LabelledBand& band : document.bands()) {
      if (token >= band.token_begin && token < band.token_end) kinds += (kinds.empty() ? "" : " ") + band.kind;
    }
    const bool is_known = relevance_.IsOf(document) && token < std::ssize(relevance_.weights());
    csv += StrCat(token, ",", CsvText(document.reader().tokens().pieces[token]), ",",
                  is_known ? CsvNumber(relevance_.weights()[token]) : "", ",",
                  token < std::ssize(bits) ? StrCat(int{bits[token]}) : "", ",", CsvText(kinds), "\n");
  }
  return csv;
}

}  // namespace kvscope
