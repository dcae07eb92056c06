// SPDX-License-Identifier: Apache-2.0
// The Policies panel's answer to "why was it lost": when each needle token (and the marked one) was dropped in the
// chosen KV head, where the policy ranked it then, and what the last entry that stayed was worth.
#include <imgui.h>

#include <algorithm>
#include <cmath>
#include <sstream>

#include "core/error.h"
#include "core/units.h"
#include "viewer/panels.h"
#include "viewer/theme.h"

namespace kvscope {
namespace {

std::string Number(double value) {
  std::ostringstream text;
  text.precision(4);
  text << value;
  return text.str();
}

std::string PriorityText(float priority) {
  if (priority >= kProtectedPriority) return "protected";
  if (priority == kAbsentPriority) return "not there";
  return Number(priority);
}

// "at the decision", "after step 3", "after token 2040" while the question was read.
std::string When(const TokenLoss& loss, int prompt_tokens) {
  if (loss.is_at_decision) return "at the decision";
  if (loss.query_token >= prompt_tokens) return StrCat("after step ", loss.query_token - prompt_tokens);
  return StrCat("after token ", loss.query_token);
}

void TableCell(const std::string& text) {
  ImGui::TableNextColumn();
  ImGui::TextUnformatted(text.c_str());
}

}  // namespace

void PoliciesPanel::DrawLosses(PanelContext& context) {
  ViewState& view = context.view;
  const Shown* const shown = ShownOf(context, view.policy_index);
  if (!shown) return;
  const PolicyOutcome& outcome = *shown->outcome;
  const CacheHistory& history = *outcome.history;
  const TraceReader& reader = context.document->reader();
  const std::vector<LayerInfo>& layers = reader.info().layers;
  view.layer_index = std::clamp(view.layer_index, 0, static_cast<int>(layers.size()) - 1);
  const LayerInfo& layer = layers[view.layer_index];
  const int group = layer.HeadsPerKvHead();
  const int kv_head = std::clamp(view.head_index / group, 0, static_cast<int>(layer.kv_heads.size()) - 1);

  ImGui::PushFont(CurrentTheme().bold, 0);
  ImGui::TextUnformatted("Why was it lost?");
  ImGui::PopFont();
  if (outcome.watched.empty())
    return ImGui::TextDisabled("This trace marks no needle. Click a token in a map or in Text to follow it here.");
  ImGui::SameLine();
  const LossCount& losses = shown->losses;
  if (outcome.needle.empty()) {
    ImGui::TextDisabled("This trace marks no needle; what became of token %d:", view.marked_token);
  } else if (losses.num_heads == 0) {
    ImGui::TextUnformatted("Every layer's window had left the needle at the decision.");
  } else if (losses.at_decision + losses.later == 0) {
    const auto num_heads = static_cast<int>(shown->retention.size());
    ImGui::Text("%s %s what %s held of the needle%s.", outcome.choice.spec.c_str(), outcome.trial ? "kept" : "keeps",
                losses.num_heads == num_heads ? "the KV heads"
                                              : StrCat("the windows of ", losses.num_heads, " KV heads").c_str(),
                outcome.trial ? "" : " at the decision; later queries are being measured");
  } else {
    ImGui::Text(
        "%s dropped %d of the needle's %d entries: %d at the decision, %d later. %d of %d KV heads lost all of it so.",
        outcome.choice.spec.c_str(), losses.at_decision + losses.later, losses.num_entries, losses.at_decision,
        losses.later, losses.heads_without, losses.num_heads);
  }
  // From one KV head that lost some of it to the next.
  ImGui::AlignTextToFramePadding();
  ImGui::Text("Layer %d, KV head %d (query heads %d to %d)", layer.layer, layer.kv_heads[kv_head],
              layer.heads[kv_head * group], layer.heads[kv_head * group + group - 1]);
  if (losses.at_decision + losses.later > 0) {
    ImGui::SameLine();
    if (ImGui::Button("next head that lost some")) {
      const auto count = static_cast<int>(shown->retention.size());
      const int num_kv_heads = count / static_cast<int>(layers.size());
      const int here = view.layer_index * num_kv_heads + kv_head;
      for (int i = 1; i <= count; ++i) {
        const int next = (here + i) % count;
        if (!(shown->retention[next] < 1)) continue;
        view.layer_index = next / num_kv_heads;
        view.head_index = next % num_kv_heads * layers[view.layer_index].HeadsPerKvHead();
        break;
      }
    }
  }
  const HeadPlan& head = history.plan().layers[view.layer_index][kv_head];
  const Granularity& granularity = history.plan().request.spec.granularity;
  ImGui::SameLine();
  ImGui::TextDisabled(
      "kept %zu of %d entries at the decision%s", head.keep.size(), history.plan().AskedOf(view.layer_index).num_tokens,
      granularity.chunk_tokens > 1 ? StrCat(", ranked in blocks of ", granularity.chunk_tokens).c_str() : "");
  const std::vector<TokenLoss> lost =
      history.LossesUntil(view.layer_index, kv_head, outcome.watched, shown->query_token);
  const std::vector<uint8_t> bits = history.BitsAfter(view.layer_index, kv_head, shown->query_token);
  if (!ImGui::BeginTable("losses", 7,
                         ImGuiTableFlags_SizingFixedFit | ImGuiTableFlags_RowBg | ImGuiTableFlags_ScrollY |
                             ImGuiTableFlags_BordersInnerV))
    return;
  ImGui::TableSetupScrollFreeze(0, 1);
  for (const char* name : {"token", "text", "now", "dropped", "ranked", "priority", "lowest that stayed"})
    ImGui::TableSetupColumn(name);
  ImGui::TableHeadersRow();
  const Palette& palette = CurrentTheme().palette;
  const int in_window = history.FirstInWindow(view.layer_index, shown->query_token);
  for (const int token : outcome.watched) {
    const auto loss = std::ranges::find(lost, token, &TokenLoss::token);
    const bool is_lost = loss != lost.end();
    ImGui::TableNextRow();
    ImGui::TableNextColumn();
    if (ImGui::Selectable(StrCat(token).c_str(), token == view.marked_token, ImGuiSelectableFlags_SpanAllColumns))
      view.marked_token = view.marked_token == token ? -1 : token;
    TableCell("\"" + Escape(reader.tokens().pieces[token]) + "\"");
    ImGui::PushStyleColor(ImGuiCol_Text, is_lost ? palette.needle : palette.ink);
    TableCell(is_lost ? "dropped" : token < in_window ? "left the window" : StrCat(int{bits[token]}, " bits"));
    TableCell(is_lost ? When(*loss, reader.info().prompt_tokens) : "");
    ImGui::PopStyleColor();
    if (is_lost && !loss->rank) {
      TableCell("this policy ranks nothing");
    } else if (is_lost) {
      TableCell(StrCat("after ", loss->rank->num_before, " others"));
      TableCell(PriorityText(loss->rank->priority));
      TableCell(PriorityText(loss->rank->lowest_kept));
    }
  }
  ImGui::EndTable();
}

std::string PoliciesPanel::Csv(PanelContext& context) const {
  std::ostringstream csv;
  csv << "policy,keep_fraction,after_step,layer,kv_head,entries,mean_bits,needle_retention\n";
  const std::vector<LayerInfo>& layers = context.document->reader().info().layers;
  for (size_t index = 0; index < context.view.policies.size(); ++index) {
    const Shown* const shown = ShownOf(context, static_cast<int>(index));
    if (!shown) continue;
    const CacheHistory& history = *shown->outcome->history;
    const int num_kv_heads = history.plan().shape.num_kv_heads;
    for (int layer = 0; layer < std::ssize(layers); ++layer) {
      for (int kv_head = 0; kv_head < num_kv_heads; ++kv_head) {
        int entries = 0;
        double bits = 0;
        for (const uint8_t one : history.BitsAfter(layer, kv_head, shown->query_token)) entries += one > 0, bits += one;
        csv << CsvField(shown->outcome->choice.spec) << ',' << shown->outcome->choice.keep_fraction << ','
            << shown->query_token - context.document->reader().info().prompt_tokens << ',' << layers[layer].layer << ','
            << layers[layer].kv_heads[kv_head] << ',' << entries << ',' << bits / std::max(1, entries) << ',';
        const float retention = shown->retention[layer * num_kv_heads + kv_head];
        if (!shown->outcome->needle.empty() && !std::isnan(retention)) csv << retention;
        csv << '\n';
      }
    }
  }
  return csv.str();
}

}  // namespace kvscope
