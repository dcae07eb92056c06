// SPDX-License-Identifier: Apache-2.0
// Who lost the needle, in which layer and head, when; and whether relevance knew where it was.
#include <algorithm>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "replay/chart_matrix.h"
#include "replay/chart_strips.h"
#include "replay/report_sections.h"

namespace kvscope {
namespace {

constexpr double kNoValue = std::numeric_limits<double>::quiet_NaN();

// Figures of the needle come from replay where it ran, else from live.
std::string NeedleMode(const ReportData& data) {
  for (const char* mode : {"replay", "live"}) {
    for (const Cell& cell : data.cells) {
      if (cell.mode == mode && cell.MeanArray("needle_retention")) return mode;
    }
  }
  return "";
}

// [layer, kv_head] to a panel with heads down and layers across.
MatrixPanel RetentionPanel(const std::optional<NamedArray>& retention, int layers, int heads) {
  MatrixPanel panel;
  if (!retention) return panel;
  panel.rows = heads;
  panel.columns = layers;
  panel.values.assign(static_cast<size_t>(layers) * heads, kNoValue);
  if (retention->shape.size() != 2 || retention->shape[0] != layers || retention->shape[1] != heads) return panel;
  for (int layer = 0; layer < layers; ++layer) {
    for (int head = 0; head < heads; ++head) {
      panel.values[static_cast<size_t>(head) * layers + layer] =
          retention->values[static_cast<size_t>(layer) * heads + head];
    }
  }
  panel.note = PercentText(MeanOf(*retention));
  return panel;
}

std::vector<Budget> AskedBudgets(const ReportData& data) {
  std::vector<Budget> budgets;
  for (const Budget& budget : data.budgets) {
    if (!budget.label.empty()) budgets.push_back(budget);
  }
  return budgets.empty() ? data.budgets : budgets;
}

// Policies with a retention, from best to worst at the smallest budget; references first.
std::vector<PolicyName> ByRetention(const ReportData& data, const std::string& mode,
                                    const std::vector<Budget>& budgets) {
  std::vector<std::pair<double, PolicyName>> keyed;
  for (const PolicyName& name : data.policies) {
    for (auto budget = budgets.rbegin(); budget != budgets.rend(); ++budget) {
      const Cell* cell = data.Find(name.label, mode, *budget);
      const auto retention = cell ? cell->MeanArray("needle_retention") : std::nullopt;
      if (!retention) continue;
      keyed.emplace_back(data.IsReference(name.label) ? 2 : MeanOf(*retention), name);
      break;
    }
  }
  std::stable_sort(keyed.begin(), keyed.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
  std::vector<PolicyName> names;
  for (const auto& [key, name] : keyed) names.push_back(name);
  return names;
}

std::optional<Svg> RetentionChart(const ReportData& data, const std::string& mode) {
  const std::vector<Budget> budgets = AskedBudgets(data);
  MatrixChartSpec spec;
  spec.alt = "needle retention by layer and KV head, one strip per policy and budget";
  int layers = 0, heads = 0;
  for (const Cell& cell : data.cells) {
    const auto retention = cell.mode == mode ? cell.MeanArray("needle_retention") : std::nullopt;
    if (!retention || retention->shape.size() != 2) continue;
    layers = std::max(layers, static_cast<int>(retention->shape[0]));
    heads = std::max(heads, static_cast<int>(retention->shape[1]));
  }
  if (layers == 0 || heads == 0) return std::nullopt;
  for (const PolicyName& name : ByRetention(data, mode, budgets)) {
    for (const Budget& budget : budgets) {
      const Cell* cell = data.Find(name.label, mode, budget);
      spec.panels.push_back(RetentionPanel(cell ? cell->MeanArray("needle_retention") : std::nullopt, layers, heads));
      spec.panels.back().title = name.label;
    }
  }
  if (spec.panels.empty()) return std::nullopt;
  spec.panels_across = static_cast<int>(budgets.size());
  for (const Budget& budget : budgets) spec.headers.push_back(BudgetTitle(budget));
  spec.titles_left = true;
  NameAxes(data, HeadAxis::kKvHeads, 330, spec);
  spec.unit = Unit::kPercent;
  spec.scale_label = "share of the needle's entries kept";
  return MatrixChart(spec);
}

struct HeadCounts {
  double whole = 0, part = 0, lost = 0;              // heads, mean over traces
  std::vector<std::pair<double, int>> worst_layers;  // retention, layer
};

HeadCounts CountHeads(const Cell& cell) {
  HeadCounts counts;
  int rows = 0;
  for (const Results::Row* row : cell.rows) {
    const NamedArray* retention = row->Find("needle_retention");
    if (!retention) continue;
    ++rows;
    for (const float value : retention->values) {
      if (!std::isfinite(value)) continue;
      (value > 0.999f ? counts.whole : value < 0.001f ? counts.lost : counts.part) += 1;
    }
  }
  for (double* count : {&counts.whole, &counts.part, &counts.lost}) *count /= std::max(rows, 1);
  const auto mean = cell.MeanArray("needle_retention");
  if (!mean || mean->shape.size() != 2) return counts;
  for (int64_t layer = 0; layer < mean->shape[0]; ++layer) {
    double sum = 0;
    for (int64_t head = 0; head < mean->shape[1]; ++head)
      sum += mean->values[static_cast<size_t>(layer * mean->shape[1] + head)];
    if (std::isfinite(sum))
      counts.worst_layers.emplace_back(sum / static_cast<double>(mean->shape[1]), static_cast<int>(layer));
  }
  std::sort(counts.worst_layers.begin(), counts.worst_layers.end());
  return counts;
}

// "0, 7, 12 (0 to 12 %)": the three layers that keep least, when they keep less than everything.
std::string WorstLayers(const HeadCounts& counts, const std::vector<std::string>& layer_names) {
  std::vector<std::string> names;
  double highest = 0;
  const auto& layers = counts.worst_layers;
  if (layers.size() > 3 && layers.front().first < 0.999 && layers.back().first - layers.front().first < 0.02) {
    return StrCat("all alike (", PercentText(layers.front().first), ")");
  }
  for (const auto& [retention, layer] : layers) {
    if (names.size() == 3 || retention > 0.999) break;
    names.push_back(layer_names[static_cast<size_t>(layer)]);
    highest = retention;
  }
  if (names.empty()) return "none";
  return StrCat(Listed(names), " (", names.size() > 1 ? "at most " : "", PercentText(highest), ")");
}

void HeadTable(ReportPage& page, const ReportData& data, const std::string& mode) {
  std::vector<ReportPage::TableRow> rows;
  const std::vector<Budget> budgets = AskedBudgets(data);
  for (const Budget& budget : budgets) {
    bool first = true;
    for (const PolicyName& name : ByRetention(data, mode, budgets)) {
      const Cell* cell = data.Find(name.label, mode, budget);
      const auto mean = cell ? cell->MeanArray("needle_retention") : std::nullopt;
      if (!mean || mean->shape.size() != 2) continue;
      const HeadCounts counts = CountHeads(*cell);
      const double heads = counts.whole + counts.part + counts.lost;
      if (heads == 0) continue;  // every window has left it
      const auto lost_step = cell->Mean("needle_first_lost_step"), weight = cell->Mean("needle_weight_ratio");
      ReportPage::TableRow row;
      row.starts_block = first;
      row.quiet = data.IsReference(name.label);
      first = false;
      const auto layer_names = AxisNames(data, "layer_numbers", static_cast<size_t>(mean->shape[0]));
      row.cells = {name.label,
                   budget.label,
                   StrCat(CountText(counts.whole), " of ", CountText(heads)),
                   CountText(counts.part),
                   CountText(counts.lost),
                   lost_step ? NumberText(*lost_step, 2) : "–",
                   weight ? NumberText(*weight, 2) : "–",
                   WorstLayers(counts, layer_names)};
      rows.push_back(std::move(row));
    }
  }
  if (rows.empty()) return;
  page.Table(
      {}, {},
      {{"policy", "", true},
       {"keep", "asked share of the bytes", false},
       {"needle whole in", "KV heads that kept every needle entry, mean over traces", false},
       {"in part in", "", false},
       {"lost in", "KV heads that kept none", false},
       {"first lost at step", "first query after the decision with a needle entry gone, mean; 0: at once", false},
       {"weight ratio", "weight on the needle, of the full cache's", false},
       {"layers that keep least", "", true}},
      rows,
      "Counts are KV heads over all layers whose window holds some of the needle, means over traces. Step 0 means lost "
      "at the decision itself. A dash: never "
      "lost, or "
      "not measured.");
}

// The trace whose needle lies nearest the middle.
const Results::Row* MiddleRow(const Cell& cell) {
  const Results::Row* best = nullptr;
  double best_distance = 1e9;
  for (const Results::Row* row : cell.rows) {
    const double distance = std::fabs(row->figures.Number("depth").value_or(0.5) - 0.5);
    if (row->Find("kept") && distance < best_distance - 1e-9) {
      best = row;
      best_distance = distance;
    }
  }
  return best;
}

KeptChartSpec::Panel KeptPanel(const NamedArray& kept, const std::string& label, int bins) {
  KeptChartSpec::Panel panel{label, "", {}};
  const int64_t layers = kept.shape[0], heads = kept.shape[1], tokens = kept.shape[2];
  double all = 0;
  for (int64_t layer = 0; layer < layers; ++layer) {
    for (int64_t bin = 0; bin < bins; ++bin) {
      const int64_t begin = bin * tokens / bins, end = std::max(begin + 1, (bin + 1) * tokens / bins);
      double sum = 0;
      for (int64_t head = 0; head < heads; ++head) {
        for (int64_t token = begin; token < end; ++token)
          sum += kept.values[static_cast<size_t>((layer * heads + head) * tokens + token)];
      }
      panel.share.push_back(sum / static_cast<double>(heads * (end - begin)));
      all += panel.share.back();
    }
  }
  panel.note = PercentText(all / static_cast<double>(panel.share.size()));
  return panel;
}

void KeptMap(ReportPage& page, const SectionContext& context, const std::string& mode) {
  const ReportData& data = context.data;
  const std::vector<Budget> budgets = AskedBudgets(data);
  const Budget& budget = budgets.back();
  KeptChartSpec spec;
  std::string run_id, trace_name;
  std::vector<std::string> dropless;
  std::vector<int64_t> shape;
  for (const PolicyName& name : ByRetention(data, mode, {budget})) {
    const Cell* cell = data.Find(name.label, mode, budget);
    const Results::Row* row = cell ? MiddleRow(*cell) : nullptr;
    const NamedArray* kept = row ? row->Find("kept") : nullptr;
    if (!kept || kept->shape.size() != 3 || kept->values.empty()) continue;
    if (shape.empty()) {
      shape = kept->shape;
      run_id = row->figures.Text("run_id");
      trace_name = row->figures.Text("trace");
      trace_name = trace_name.substr(trace_name.find_last_of('/') + 1);
      spec.layers = static_cast<int>(shape[0]);
      spec.num_tokens = static_cast<int>(shape[2]);
      spec.bins = std::min(spec.num_tokens, 320);
    }
    if (kept->shape != shape) continue;
    if (std::all_of(kept->values.begin(), kept->values.end(), [](float value) { return value > 0.5f; })) {
      dropless.push_back(name.label);
    } else {
      spec.panels.push_back(KeptPanel(*kept, name.label, spec.bins));
    }
  }
  if (spec.panels.empty()) return;
  for (const Results::Trace* trace : data.traces) {
    if (trace->run_id != run_id) continue;
    spec.needle_begin = NumberAttribute(*trace, "needle_begin");
    spec.needle_end = NumberAttribute(*trace, "needle_end");
  }
  if (spec.needle_begin && (*spec.needle_begin < 0 || *spec.needle_begin > spec.num_tokens)) spec.needle_begin.reset();
  if (spec.needle_end && (*spec.needle_end < 0 || *spec.needle_end > spec.num_tokens)) spec.needle_end.reset();
  page.Figure(context.slug_prefix + "kept_map", KeptChart(spec),
              StrCat("What is left at ", BudgetTitle(budget), " in ", trace_name.empty() ? run_id : trace_name,
                     ": one strip per policy, one line of pixels per layer, tokens from left to right, darker where "
                     "more KV heads kept "
                     "them. The share kept stands at the right; the needle lies between the orange lines.",
                     dropless.empty() ? "" : StrCat(" Not drawn, since nothing is dropped: ", Listed(dropless), ".")));
}

}  // namespace

void WriteNeedle(ReportPage& page, const SectionContext& context) {
  const ReportData& data = context.data;
  const std::string mode = NeedleMode(data);
  if (mode.empty()) {
    page.Paragraph("No needle was marked in these runs.");
    return;
  }
  page.Paragraph(StrCat(
      "The model can only answer from what is left. Each strip shows, for one policy, which KV heads still hold the "
      "needle "
      "when the answer is written (",
      mode,
      ", mean over traces): pale cells have lost it. A policy may lose it in most heads and still answer, if the heads "
      "that retrieve are among the dark ones."));
  if (const auto chart = RetentionChart(data, mode)) {
    page.Figure(context.slug_prefix + "needle_retention", *chart,
                "Needle entries kept by layer (across) and KV head (down); the mean stands beside each strip. Policies "
                "are sorted by it, "
                "references first.");
  }
  HeadTable(page, data, mode);
  KeptMap(page, context, mode);
}

}  // namespace kvscope
