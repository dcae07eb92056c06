// SPDX-License-Identifier: Apache-2.0
// The policies in the timeline: what each held and lost step by step, and what the followed one did after this step.
#include <imgui.h>
#include <implot.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "core/error.h"
#include "core/units.h"
#include "replay/chart_axis.h"
#include "viewer/panel_parts.h"
#include "viewer/theme.h"

namespace kvscope {
namespace {

const char* const kQuantities[] = {"bytes held", "attention loss", "needle kept"};
constexpr size_t kMostNamed = 6;  // tokens

// [query since the decision]
std::vector<double> Series(const Trial& trial, int quantity) {
  if (quantity == 0) {
    std::vector<double> bytes(trial.metrics.num_queries);
    for (const LayerMetrics& layer : trial.metrics.layers) {
      for (size_t query = 0; query < bytes.size(); ++query) bytes[query] += layer.bytes_query[query];
    }
    return bytes;
  }
  const char* const name = quantity == 1 ? "attention_loss_step" : "needle_retention_step";
  const auto found = std::ranges::find(trial.arrays, name, &NamedArray::name);
  if (found == trial.arrays.end()) return {};
  return {found->values.begin(), found->values.end()};
}

}  // namespace

void TimelinePanel::DrawActions(const PanelContext& context, int query) {
  const auto outcome = FollowedOutcome(context);
  if (!outcome) return;
  ImGui::Separator();
  ImGui::TextUnformatted(outcome->choice.spec.c_str());
  if (!outcome->failure.empty()) return ImGui::TextWrapped("%s", outcome->failure.c_str());
  if (!outcome->trial) return ImGui::TextDisabled("measuring ...");
  const CacheHistory& history = *outcome->history;
  const ModelShape& shape = history.plan().shape;
  int dropped = 0, lowered = 0;
  std::vector<int> here;  // dropped from the chosen head's cache
  for (int layer = 0; layer < shape.num_layers; ++layer) {
    for (const CacheAction& action : history.ActionsOf(layer, query)) {
      (action.bits == 0 ? dropped : lowered) += 1;
      if (action.bits == 0 && layer == context.view.layer_index &&
          action.kv_head == context.view.head_index / shape.HeadsPerKvHead())
        here.push_back(action.token);
    }
  }
  if (dropped + lowered == 0) return ImGui::TextDisabled("changed nothing after this step");
  ImGui::Text("dropped %d entries, lowered %d", dropped, lowered);
  if (here.empty()) return;
  std::string text = "this head lost";
  for (size_t i = 0; i < std::min(here.size(), kMostNamed); ++i)
    text += StrCat(i ? ", " : " ", here[i], " \"", Escape(context.document->reader().tokens().pieces[here[i]]), "\"");
  if (here.size() > kMostNamed) text += StrCat(" and ", here.size() - kMostNamed, " more");
  ImGui::TextWrapped("%s", text.c_str());
}

void TimelinePanel::DrawPolicies(PanelContext& context) {
  ImGui::SetNextItemWidth(ImGui::GetFontSize() * 9);
  ImGui::Combo("##quantity", &quantity_, kQuantities, IM_ARRAYSIZE(kQuantities));
  if (ImGui::IsItemHovered())
    ImGui::SetTooltip("after each query since the decision; step 0 feeds back the first answer token");
  if (!ImPlot::BeginPlot("##policies", {-1, -1}, ImPlotFlags_NoTitle | ImPlotFlags_NoMenus | ImPlotFlags_NoBoxSelect))
    return;
  ImPlot::SetupAxes(nullptr, nullptr, ImPlotAxisFlags_NoGridLines, ImPlotAxisFlags_AutoFit);
  const int prompt_tokens = context.document->reader().info().prompt_tokens;
  const auto num_steps = static_cast<int>(context.document->reader().steps().size());
  int first_step = 0;
  for (int index = 0; index < std::ssize(context.view.policies); ++index) {
    if (const auto outcome = OutcomeOf(context, index); outcome && outcome->trial)
      first_step = std::min(first_step, outcome->history->plan().request.decision_token - prompt_tokens);
  }
  ImPlot::SetupAxisLimits(ImAxis_X1, first_step - 0.5, num_steps - 0.5, ImPlotCond_Always);
  if (quantity_ == 0) {
    ImPlot::SetupAxisFormat(ImAxis_Y1, [](double value, char* text, int size, void*) {
      return std::snprintf(text, size, "%s", BytesText(value).c_str());
    });
  }
  ImPlot::SetupLegend(ImPlotLocation_East, ImPlotLegendFlags_Outside);
  ImPlot::SetupFinish();
  for (int index = 0; index < std::ssize(context.view.policies); ++index) {
    const auto outcome = OutcomeOf(context, index);
    if (!outcome || !outcome->trial) continue;
    const std::vector<double> series = Series(*outcome->trial, quantity_);
    ImPlotSpec spec;
    spec.LineColor = ImGui::ColorConvertU32ToFloat4(CurrentTheme().palette.series[index]);
    spec.LineWeight = index == context.view.policy_index ? 2.5f : 1.2f;
    const double start = outcome->history->plan().request.decision_token - prompt_tokens;
    const std::string name =
        StrCat(outcome->choice.spec, " ", std::lround(1000 * outcome->choice.keep_fraction) / 10.0, " %##", index);
    ImPlot::PlotLine(name.c_str(), series.data(), static_cast<int>(series.size()), 1, start, spec);
  }
  const double step = context.view.step;
  ImPlotSpec here;
  here.LineColor = ImGui::ColorConvertU32ToFloat4(CurrentTheme().palette.accent);
  ImPlot::PlotInfLines("##step", &step, 1, here);
  if (ImPlot::IsPlotHovered() && WasClicked())
    context.view.step = std::clamp(static_cast<int>(std::lround(ImPlot::GetPlotMousePos().x)), 0, num_steps - 1);
  ImPlot::EndPlot();
}

}  // namespace kvscope
