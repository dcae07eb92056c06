// SPDX-License-Identifier: Apache-2.0
// Policies under trial, side by side: what each keeps, what that costs, and why it lost the needle. Sliders re-run the
// replay beside the frames; every panel follows the policy that is chosen here.
#include <imgui.h>
#include <implot.h>
#include <misc/cpp/imgui_stdlib.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "core/error.h"
#include "core/units.h"
#include "replay/chart_axis.h"
#include "replay/evidence.h"
#include "viewer/panel_parts.h"
#include "viewer/panels.h"
#include "viewer/theme.h"

namespace kvscope {
namespace {

constexpr int kMapColumns = 1024;
constexpr double kWideRange = 100;  // sliders over more are logarithmic

const char* const kMapNames[] = {"kept or not", "bits", "difference to the first"};

void ChooseKvHead(PanelContext& context, int layer_index, int kv_head) {
  context.view.layer_index = layer_index;
  context.view.head_index = kv_head * context.document->reader().info().layers[layer_index].HeadsPerKvHead();
}

// All names that a spec may begin with.
const std::vector<std::string>& PolicyNames() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> found;
    for (const auto& [name, info] : Scorers()) found.push_back(name);
    for (const auto& [name, info] : Combinations()) found.push_back(name);
    std::ranges::sort(found);
    return found;
  }();
  return names;
}

std::string SummaryOf(const std::string& name) {
  if (const auto found = Scorers().find(name); found != Scorers().end()) return found->second.summary;
  if (const auto found = Combinations().find(name); found != Combinations().end()) return found->second.summary;
  return "";
}

// Returns true when a name was chosen.
bool ChooseName(std::string& name) {
  bool is_chosen = false;
  for (const std::string& known : PolicyNames()) {
    if (ImGui::Selectable(known.c_str(), known == name)) name = known, is_chosen = true;
    if (ImGui::IsItemHovered()) ImGui::SetTooltip("%s", SummaryOf(known).c_str());
  }
  return is_chosen;
}

void Swatch(uint32_t color, const char* text) {
  const float side = ImGui::GetFontSize() * 0.8f, top = (ImGui::GetFrameHeight() - side) / 2;
  const ImVec2 at = ImGui::GetCursorScreenPos();
  const ImVec2 from{at.x, at.y + top}, to{at.x + side, at.y + top + side};
  ImGui::GetWindowDrawList()->AddRectFilled(from, to, color);
  ImGui::GetWindowDrawList()->AddRect(from, to, CurrentTheme().palette.hairline);
  ImGui::Dummy({side, ImGui::GetFrameHeight()});
  ImGui::SameLine(0, ImGui::GetStyle().ItemInnerSpacing.x);
  ImGui::TextDisabled("%s", text);
  ImGui::SameLine(0, ImGui::GetFontSize() * 0.8f);
}

// What the colours of the maps mean.
void DrawLegend(KeptMapKind kind, bool has_windows, bool is_dark) {
  const HeatmapColors colors{is_dark, CurrentTheme().palette.surface};
  if (kind == KeptMapKind::kKept) {
    Swatch(InkColor(1, is_dark), "kept");
  } else if (kind == KeptMapKind::kBits) {
    for (const int bits : {16, 8, 4, 2}) Swatch(InkColor(BitsInk(bits), is_dark), StrCat(bits).c_str());
    ImGui::TextDisabled("bits");
    ImGui::SameLine();
  } else {
    Swatch(DifferenceColor(-1, colors), "fewer bits");
    Swatch(DifferenceColor(1, colors), "more bits than the first");
  }
  if (has_windows) Swatch(OutsideColor(1, colors), "outside the layer's window");
  ImGui::NewLine();
}

// Numbers of the layers along an axis on which each takes `height`; of many, some.
void LayerTicks(ImAxis axis, const std::vector<LayerInfo>& layers, double height) {
  std::vector<double> places;
  std::vector<std::string> names;
  std::vector<const char*> labels;
  const size_t each = std::max<size_t>(1, layers.size() / 8);
  for (size_t i = 0; i < layers.size(); i += each) {
    places.push_back((static_cast<double>(i) + 0.5) * height);
    names.push_back(StrCat(layers[i].layer));
  }
  for (const std::string& name : names) labels.push_back(name.c_str());
  ImPlot::SetupAxisTicks(axis, places.data(), static_cast<int>(places.size()), labels.data());
}

}  // namespace

void PoliciesPanel::Draw(PanelContext& context) {
  if (!HasTrace(context)) return;
  const TraceDocument& document = *context.document;
  if (checked_ != &document || document.is_growing() || !refusal_.empty()) {
    if (checked_ != &document) token_begin_ = 0, token_end_ = document.num_tokens();
    checked_ = &document;
    refusal_ = WhyNotReplayable(document.reader());
  }
  if (!refusal_.empty()) return CentredText(("Policies cannot be replayed on this trace: " + refusal_).c_str());
  ViewState& view = context.view;
  // What would take long is asked for.
  if (!context.policies.MayReplay(document)) {
    CentredText(
        StrCat("Policies read the whole trace, ", BytesText(static_cast<double>(document.reader().file_bytes())), ".")
            .c_str());
    if (ImGui::Button("Replay it")) context.policies.Allow(document);
    return;
  }
  // Dear ImGui draws every tab once before it knows which is in front: that is no wish to see policies.
  if (!ImGui::IsWindowAppearing()) view.follows_policies = true;
  DrawToolbar(context);
  if (view.policies.empty()) return CentredText("No policy is under trial. Add one above.");
  view.policy_index = std::clamp(view.policy_index, 0, static_cast<int>(view.policies.size()) - 1);
  const auto count = static_cast<int>(view.policies.size());
  const float em = ImGui::GetFontSize(), below = std::max(em * 9, ImGui::GetContentRegionAvail().y * 0.27f);
  if (ImGui::BeginChild("columns", {0, -below})) {
    int removed = -1;
    if (ImGui::BeginTable("policies", count, ImGuiTableFlags_SizingStretchSame | ImGuiTableFlags_BordersInnerV)) {
      for (int index = 0; index < count; ++index) {
        ImGui::TableNextColumn();
        ImGui::PushID(index);
        Follow(context, index, ShownQuery(context));
        if (!DrawColumn(context, index)) removed = index;
        ImGui::PopID();
      }
      const float retention = em * 6, map = ImGui::GetContentRegionAvail().y;
      for (int index = 0; index < count; ++index) {
        ImGui::TableNextColumn();
        ImGui::PushID(index);
        DrawMap(context, index, std::max(em * 8, map - retention - em));
        DrawRetention(context, index, retention);
        ImGui::PopID();
      }
      ImGui::EndTable();
    }
    if (removed >= 0) view.policies.erase(view.policies.begin() + removed);
  }
  ImGui::EndChild();
  if (ImGui::BeginChild("losses")) DrawLosses(context);
  ImGui::EndChild();
}

void PoliciesPanel::DrawToolbar(PanelContext& context) {
  ViewState& view = context.view;
  const float em = ImGui::GetFontSize();
  ImGui::AlignTextToFramePadding();
  ImGui::TextUnformatted("decides after");
  ImGui::SameLine();
  ImGui::SetNextItemWidth(em * 13);
  int protocol = static_cast<int>(view.protocol);
  if (ImGui::Combo("##protocol", &protocol, "prompt and question\0context, no question\0"))
    view.protocol = static_cast<Protocol>(protocol);
  ImGui::SameLine();
  ImGui::TextUnformatted("show");
  ImGui::SameLine();
  ImGui::SetNextItemWidth(em * 13);
  int kind = static_cast<int>(view.kept_map);
  if (ImGui::Combo("##kind", &kind, kMapNames, IM_ARRAYSIZE(kMapNames))) view.kept_map = static_cast<KeptMapKind>(kind);
  ImGui::SameLine();
  ImGui::BeginDisabled(view.policies.size() >= kMostPolicies);
  if (ImGui::Button("Add a policy")) ImGui::OpenPopup("add");
  ImGui::EndDisabled();
  if (ImGui::BeginPopup("add")) {
    std::string name;
    if (ChooseName(name)) view.policies.push_back({name});
    ImGui::EndPopup();
  }
  ImGui::SameLine();
  const int step = ShownQuery(context) - context.document->reader().info().prompt_tokens;
  ImGui::TextDisabled("%s", step < 0 ? "after the prompt" : StrCat("after decode step ", step).c_str());
  SameLineIfFits(em * 14);
  const bool has_windows = std::ranges::any_of(context.document->reader().info().layers,
                                               [](const LayerInfo& layer) { return layer.window > 0; });
  DrawLegend(view.kept_map, has_windows, context.is_dark);
}

const PoliciesPanel::ParsedSpec& PoliciesPanel::SpecOf(const std::string& text) {
  constexpr size_t kMostSpecs = 256;
  if (specs_.size() > kMostSpecs) specs_.clear();
  const auto [found, is_new] = specs_.try_emplace(text);
  if (is_new) {
    try {
      found->second.spec = PolicySpec::Parse(text);
      found->second.is_fixed_rate = found->second.spec->Needs({1, 1, 1, 16, 16}).fixed_rate;
    } catch (const Error&) {  // the outcome says why
    }
  }
  return found->second;
}

const PoliciesPanel::Shown* PoliciesPanel::ShownOf(const PanelContext& context, int index) const {
  const Shown* const shown = columns_[index].shown.get();
  const bool fits = shown && shown->document == context.document &&
                    IsSamePolicy(shown->outcome->choice, context.view.policies[index]);
  return fits ? shown : nullptr;
}

void PoliciesPanel::Follow(PanelContext& context, int index, int query_token) {
  Column& column = columns_[index];
  const auto outcome = OutcomeOf(context, index);
  if (!outcome || !outcome->history || column.is_busy) return;
  const int query = std::max(query_token, outcome->history->plan().request.FirstDecision() - 1);
  if (column.asked_outcome == outcome && column.asked_query == query) return;
  column.asked_outcome = outcome, column.asked_query = query;
  column.is_busy = true;
  context.jobs.Start(StrCat("kept map ", index),
                     [&column, outcome, query, document = context.document](const std::atomic<bool>&) -> Jobs::Finish {
                       const auto shown = std::make_shared<Shown>();
                       shown->document = document;
                       shown->outcome = outcome;
                       shown->query_token = query;
                       shown->map = MakeKeptMap(*outcome->history, query, kMapColumns);
                       shown->retention = RetentionAfter(*outcome->history, outcome->needle, query);
                       shown->losses = CountLosses(*outcome->history, outcome->needle, query);
                       return [&column, shown] { column.shown = shown, column.is_busy = false; };
                     });
}

// Returns false when the policy is to go.
bool PoliciesPanel::DrawColumn(PanelContext& context, int index) {
  ViewState& view = context.view;
  const bool is_chosen = index == view.policy_index;
  const Palette& palette = CurrentTheme().palette;
  ImGui::PushStyleColor(ImGuiCol_Text, is_chosen ? palette.accent : palette.soft_ink);
  if (ImGui::RadioButton(is_chosen ? "followed by all panels" : "follow this one", is_chosen))
    view.policy_index = index;
  ImGui::PopStyleColor();
  ImGui::SameLine(ImGui::GetContentRegionAvail().x - ImGui::GetFontSize() * 1.2f);
  const bool goes = ImGui::SmallButton("x");
  if (ImGui::IsItemHovered()) ImGui::SetTooltip("take this policy away");
  DrawChoice(context, index);
  DrawFigures(context, index);
  return !goes;
}

void PoliciesPanel::DrawChoice(PanelContext& context, int index) {
  PolicyChoice& choice = context.view.policies[index];
  Column& column = columns_[index];
  const float em = ImGui::GetFontSize();
  // The spec as text: whatever replay takes.
  if (!ImGui::IsAnyItemActive()) column.edited_spec = choice.spec;
  ImGui::SetNextItemWidth(-ImGui::GetFrameHeight() - ImGui::GetStyle().ItemInnerSpacing.x);
  ImGui::InputText("##spec", &column.edited_spec);
  if (ImGui::IsItemDeactivatedAfterEdit() && !column.edited_spec.empty()) choice.spec = column.edited_spec;
  if (ImGui::IsItemHovered()) {
    ImGui::SetTooltip("%s\nname[+allocator][/chunk=N][@store][:key=value], Enter to run it",
                      SummaryOf(choice.spec.substr(0, choice.spec.find_first_of("+/@&:"))).c_str());
  }
  ImGui::SameLine(0, ImGui::GetStyle().ItemInnerSpacing.x);
  if (ImGui::BeginCombo("##name", "", ImGuiComboFlags_NoPreview | ImGuiComboFlags_HeightLarge)) {
    if (ChooseName(choice.spec)) column.edited_spec = choice.spec;
    ImGui::EndCombo();
  }
  const auto& [spec, is_fixed] = SpecOf(choice.spec);
  ImGui::BeginDisabled(is_fixed);
  auto percent = static_cast<float>(choice.keep_fraction * 100);
  ImGui::SetNextItemWidth(-1);
  if (ImGui::SliderFloat("##keep", &percent, 1, 100, is_fixed ? "of its own size" : "keep %.1f %% of the bytes",
                         ImGuiSliderFlags_Logarithmic | ImGuiSliderFlags_AlwaysClamp)) {
    choice.keep_fraction = std::round(percent * 10) / 1000;
  }
  ImGui::EndDisabled();
  if (!spec || spec->choices.empty()) return;
  if (ImGui::TreeNodeEx("parameters", ImGuiTreeNodeFlags_NoTreePushOnOpen)) {
    if (ImGui::BeginChild("parameters", {0, em * 9})) DrawParameters(choice, *spec);
    ImGui::EndChild();
  }
}

void PoliciesPanel::DrawParameters(PolicyChoice& choice, const PolicySpec& spec) {
  std::optional<std::pair<std::string, std::string>> changed;
  for (const Params::Description& parameter : spec.choices) {
    ImGui::PushID(parameter.name.c_str());
    ImGui::SetNextItemWidth(ImGui::GetContentRegionAvail().x * 0.55f);
    const bool is_wide = parameter.max - parameter.min > kWideRange;
    const ImGuiSliderFlags flags =
        ImGuiSliderFlags_AlwaysClamp | (is_wide ? ImGuiSliderFlags_Logarithmic : ImGuiSliderFlags_None);
    if (!parameter.choices.empty()) {
      if (ImGui::BeginCombo(parameter.name.c_str(), parameter.value.c_str())) {
        for (const std::string& value : parameter.choices) {
          if (ImGui::Selectable(value.c_str(), value == parameter.value)) changed = {parameter.name, value};
        }
        ImGui::EndCombo();
      }
    } else if (parameter.is_integer) {
      int value = std::atoi(parameter.value.c_str());
      if (ImGui::SliderInt(parameter.name.c_str(), &value, static_cast<int>(parameter.min),
                           static_cast<int>(parameter.max), "%d", flags))
        changed = {parameter.name, StrCat(value)};
    } else {
      double value = std::atof(parameter.value.c_str());
      if (ImGui::SliderScalar(parameter.name.c_str(), ImGuiDataType_Double, &value, &parameter.min, &parameter.max,
                              "%.4g", flags))
        changed = {parameter.name, StrCat(static_cast<float>(value))};
    }
    if (ImGui::IsItemHovered()) ImGui::SetTooltip("%s\n%s", parameter.help.c_str(), parameter.range.c_str());
    ImGui::PopID();
  }
  if (!changed) return;
  SpecPieces pieces = SplitSpec(choice.spec);
  pieces.values[changed->first] = changed->second;
  choice.spec = JoinSpec(pieces);
}

void PoliciesPanel::DrawFigures(const PanelContext& context, int index) {
  const auto outcome = OutcomeOf(context, index);
  if (outcome && !outcome->failure.empty()) {
    ImGui::PushTextWrapPos(0);
    ImGui::TextColored(ImGui::ColorConvertU32ToFloat4(CurrentTheme().palette.needle), "%s", outcome->failure.c_str());
    ImGui::PopTextWrapPos();
    return;
  }
  if (!outcome || !outcome->trial) {
    ImGui::TextDisabled("%s", outcome ? "measuring ..." : "deciding ...");
    ImGui::TextDisabled(" ");
    ImGui::TextDisabled(" ");
    return;
  }
  const auto figure = [&](const char* name) { return outcome->trial->figures.Number(name); };
  ImGui::TextDisabled("kept %.1f %% of %s in %.3g bits", 100 * figure("kept_fraction").value_or(0),
                      BytesText(outcome->history->plan().FullBytes()).c_str(), figure("bits").value_or(0));
  if (const auto loss = figure("attention_loss")) {
    ImGui::Text("attention loss %.3g   output error %.3g", *loss, figure("output_error").value_or(0));
  } else {
    ImGui::TextDisabled("no query after the decision");
  }
  if (const auto needle = figure("needle_retention")) {
    ImGui::Text("needle kept %.0f %%", 100 * *needle);
    if (ImGui::IsItemHovered())
      ImGui::SetTooltip("mean over layers whose window holds some of it, KV heads and answer queries");
  } else {
    ImGui::TextDisabled(outcome->needle.empty() ? "no needle is marked before the decision"
                                                : "every window has left the needle");
  }
}

// Brings the textures up to what is shown.
void PoliciesPanel::Paint(const PanelContext& context, int index) {
  Column& column = columns_[index];
  const Shown* const first = ShownOf(context, 0);
  const std::vector<const void*> from = {column.shown.get(), first};
  const KeptMapKind kind =
      index == 0 && context.view.kept_map == KeptMapKind::kDifference ? KeptMapKind::kBits : context.view.kept_map;
  if (column.drawn_from == from && column.drawn_kind == kind && column.is_drawn_dark == context.is_dark) return;
  column.drawn_from = from, column.drawn_kind = kind, column.is_drawn_dark = context.is_dark;
  const Palette& palette = CurrentTheme().palette;
  const HeatmapColors colors{context.is_dark, palette.surface};
  column.map.Set(MakeKeptImage(column.shown->map, kind, first ? first->map : KeptMap{}, colors));
  const ModelShape& shape = column.shown->outcome->history->plan().shape;
  Image image{shape.num_layers, shape.num_kv_heads, {}};
  for (int kv_head = 0; kv_head < shape.num_kv_heads; ++kv_head) {
    for (int layer = 0; layer < shape.num_layers; ++layer) {
      const float kept = column.shown->retention[static_cast<size_t>(layer) * shape.num_kv_heads + kv_head];
      image.rgba.push_back(std::isnan(kept) ? palette.hairline : Blend(palette.surface, palette.needle, kept));
    }
  }
  column.retention.Set(image);
}

void PoliciesPanel::DrawMap(PanelContext& context, int index, float height) {
  Column& column = columns_[index];
  if (!ShownOf(context, index)) return ImGui::Dummy({1, height});
  Paint(context, index);
  const std::vector<LayerInfo>& layers = context.document->reader().info().layers;
  const KeptMap& map = column.shown->map;
  const int num_kv_heads = map.rows / static_cast<int>(layers.size());
  if (!ImPlot::BeginPlot("##map", {-1, height}, ImPlotFlags_CanvasOnly)) return;
  const ImPlotAxisFlags axis = ImPlotAxisFlags_NoGridLines | ImPlotAxisFlags_NoHighlight;
  ImPlot::SetupAxes("token", index == 0 ? "layer" : nullptr, axis,
                    axis | ImPlotAxisFlags_Invert | ImPlotAxisFlags_LockMin | ImPlotAxisFlags_LockMax);
  ImPlot::SetupAxisLimits(ImAxis_Y1, 0, map.rows, ImPlotCond_Always);
  ImPlot::SetupAxisLimitsConstraints(ImAxis_X1, 0, context.document->num_tokens());
  ImPlot::SetupAxisLinks(ImAxis_X1, &token_begin_, &token_end_);
  LayerTicks(ImAxis_Y1, layers, num_kv_heads);
  ImPlot::SetupFinish();
  ImPlot::PushPlotClipRect();
  column.map.Draw(*ImPlot::GetPlotDrawList(), ImPlot::PlotToPixels(0, 0),
                  ImPlot::PlotToPixels(map.num_tokens, map.rows));
  ImPlot::PopPlotClipRect();
  DrawBands(context.document->bands(), BandAxes::kTokens, index == 0 && height > ImGui::GetFontSize() * 12);
  DrawTokenMark(context.view.marked_token);
  if (ImPlot::IsPlotHovered()) {
    const ImPlotPoint mouse = ImPlot::GetPlotMousePos();
    const int token = static_cast<int>(std::floor(mouse.x)), row = static_cast<int>(std::floor(mouse.y));
    if (ImGui::IsMouseDoubleClicked(ImGuiMouseButton_Left))
      token_begin_ = 0, token_end_ = context.document->num_tokens();
    if (token >= 0 && token < map.num_tokens && row >= 0 && row < map.rows) {
      const int layer = row / num_kv_heads, kv_head = row % num_kv_heads;
      const size_t cell = static_cast<size_t>(row) * map.columns + map.ColumnOf(token);
      ImGui::SetTooltip("layer %d, KV head %d\ntoken %d  \"%s\"\n%s, %.3g bits", layers[layer].layer,
                        layers[layer].kv_heads[kv_head], token,
                        Escape(context.document->reader().tokens().pieces[token]).c_str(),
                        map.kept[cell] == 1      ? "kept"
                        : map.outside[cell] == 1 ? "outside the layer's window"
                        : map.kept[cell] == 0    ? "dropped"
                                                 : StrCat(std::lround(100 * map.kept[cell]), " % kept").c_str(),
                        map.bits[cell]);
      if (WasClicked()) {
        ChooseKvHead(context, layer, kv_head);
        context.view.marked_token = token;
        context.view.policy_index = index;
      }
    }
  }
  ImPlot::EndPlot();
}

void PoliciesPanel::DrawRetention(PanelContext& context, int index, float height) {
  Column& column = columns_[index];
  if (!ShownOf(context, index) || column.shown->outcome->needle.empty()) return ImGui::Dummy({1, height});
  const std::vector<LayerInfo>& layers = context.document->reader().info().layers;
  const auto num_layers = static_cast<int>(layers.size());
  const int num_kv_heads = column.shown->map.rows / num_layers;
  if (!ImPlot::BeginPlot("##retention", {-1, height}, ImPlotFlags_CanvasOnly | ImPlotFlags_NoInputs)) return;
  const ImPlotAxisFlags axis = ImPlotAxisFlags_NoGridLines | ImPlotAxisFlags_NoHighlight | ImPlotAxisFlags_NoTickMarks;
  ImPlot::SetupAxes("needle kept, by layer", index == 0 ? "KV head" : nullptr, axis,
                    axis | ImPlotAxisFlags_Invert | ImPlotAxisFlags_NoTickLabels);
  ImPlot::SetupAxesLimits(0, num_layers, 0, num_kv_heads, ImPlotCond_Always);
  LayerTicks(ImAxis_X1, layers, 1);
  ImPlot::SetupFinish();
  column.retention.Draw(*ImPlot::GetPlotDrawList(), ImPlot::PlotToPixels(0, 0),
                        ImPlot::PlotToPixels(num_layers, num_kv_heads));
  const LayerInfo& chosen = layers[std::clamp(context.view.layer_index, 0, num_layers - 1)];
  const double x = std::clamp(context.view.layer_index, 0, num_layers - 1),
               y = std::clamp(context.view.head_index / chosen.HeadsPerKvHead(), 0, num_kv_heads - 1);
  ImPlot::GetPlotDrawList()->AddRect(ImPlot::PlotToPixels(x, y), ImPlot::PlotToPixels(x + 1, y + 1),
                                     CurrentTheme().palette.accent, 0.0f, 2.0f);
  const ImPlotPoint mouse = ImPlot::GetPlotMousePos();
  const int layer = static_cast<int>(std::floor(mouse.x)), kv_head = static_cast<int>(std::floor(mouse.y));
  const bool is_inside =
      ImPlot::IsPlotHovered() ||
      ImGui::IsMouseHoveringRect(ImPlot::GetPlotPos(), {ImPlot::GetPlotPos().x + ImPlot::GetPlotSize().x,
                                                        ImPlot::GetPlotPos().y + ImPlot::GetPlotSize().y});
  if (is_inside && ImGui::IsWindowHovered(ImGuiHoveredFlags_ChildWindows) && layer >= 0 && layer < num_layers &&
      kv_head >= 0 && kv_head < num_kv_heads) {
    const float kept = column.shown->retention[static_cast<size_t>(layer) * num_kv_heads + kv_head];
    ImGui::SetTooltip("layer %d, KV head %d: %s", layers[layer].layer, layers[layer].kv_heads[kv_head],
                      std::isnan(kept) ? "its window has left the needle"
                                       : StrCat(std::lround(100 * kept), " % of the needle kept").c_str());
    if (WasClicked()) {
      ChooseKvHead(context, layer, kv_head);
      context.view.policy_index = index;
    }
  }
  ImPlot::EndPlot();
}

}  // namespace kvscope
