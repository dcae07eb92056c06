// SPDX-License-Identifier: Apache-2.0
// What attention does in these traces, whatever the policy; and how far replay can be trusted.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>

#include "core/error.h"
#include "replay/chart_axis.h"
#include "replay/chart_lines.h"
#include "replay/chart_strips.h"
#include "replay/report_sections.h"

namespace kvscope {

std::vector<double> Doubles(const std::vector<float>& values) {
  return {values.begin(), values.end()};
}

std::vector<std::string> AxisNames(const ReportData& data, std::string_view attribute, size_t count) {
  for (const Results::Trace* trace : data.traces) {
    const auto found = trace->attributes.find(std::string(attribute));
    if (found == trace->attributes.end()) continue;
    std::vector<std::string> names(1);
    for (const char c : found->second) {
      if (c == ',')
        names.emplace_back();
      else if (c != ' ')
        names.back() += c;
    }
    if (names.size() == count) return names;
  }
  std::vector<std::string> names;
  for (size_t i = 0; i < count; ++i) names.push_back(std::to_string(i));
  return names;
}

std::optional<NamedArray> MeanTraceArray(const ReportData& data, std::string_view name) {
  std::optional<NamedArray> mean;
  std::vector<double> sums;
  std::vector<int> counts;
  for (const Results::Trace* trace : data.traces) {
    const NamedArray* array = trace->Find(name);
    if (!array || (mean && array->shape != mean->shape)) continue;
    if (!mean) {
      mean = *array;
      sums.assign(array->values.size(), 0);
      counts.assign(array->values.size(), 0);
    }
    for (size_t i = 0; i < sums.size(); ++i) {
      if (!std::isfinite(array->values[i])) continue;
      sums[i] += array->values[i];
      ++counts[i];
    }
  }
  if (!mean) return std::nullopt;
  for (size_t i = 0; i < sums.size(); ++i) mean->values[i] = counts[i] ? static_cast<float>(sums[i] / counts[i]) : NAN;
  return mean;
}

double MeanOf(const NamedArray& array) {
  double sum = 0;
  int count = 0;
  for (const float value : array.values) {
    if (!std::isfinite(value)) continue;
    sum += value;
    ++count;
  }
  return count ? sum / count : std::numeric_limits<double>::quiet_NaN();
}

std::optional<double> NumberAttribute(const Results::Trace& trace, const std::string& name) {
  const auto found = trace.attributes.find(name);
  if (found == trace.attributes.end()) return std::nullopt;
  char* end = nullptr;
  const double value = std::strtod(found->second.c_str(), &end);
  return end != found->second.c_str() && std::isfinite(value) ? std::optional<double>(value) : std::nullopt;
}

void WriteDynamics(ReportPage& page, const SectionContext& context) {
  const ReportData& data = context.data;
  const auto mass = MeanTraceArray(data, "mass_by_distance");
  if (!mass || mass->shape.size() != 2 || mass->values.empty()) {
    page.Paragraph("Attention by distance was not measured.");
    return;
  }
  // Shares of one query add up to 1; where they do not, the picture must not be believed.
  double farthest_sum = 1;
  for (int64_t layer = 0; layer < mass->shape[0]; ++layer) {
    double sum = 0;
    for (int64_t bin = 0; bin < mass->shape[1]; ++bin)
      sum += mass->values[static_cast<size_t>(layer * mass->shape[1] + bin)];
    if (std::fabs(sum - 1) > std::fabs(farthest_sum - 1)) farthest_sum = sum;
  }
  if (!(std::fabs(farthest_sum - 1) < 0.02)) {
    page.Paragraph(
        StrCat("Beware: shares of attention by distance should add up to 1 in every layer, but in one they add up to ",
               NumberText(farthest_sum), ". The figure below is not to be trusted."));
  }
  DynamicsSpec spec;
  spec.layer_names = AxisNames(data, "layer_numbers", static_cast<size_t>(mass->shape[0]));
  spec.distance_bins = static_cast<int>(mass->shape[1]);
  spec.mass = Doubles(mass->values);
  const auto sink = MeanTraceArray(data, "sink_mass");
  if (sink && sink->shape.size() == 2 && sink->shape[0] == mass->shape[0]) {
    spec.heads = static_cast<int>(sink->shape[1]);
    spec.sink = Doubles(sink->values);
    for (const Results::Trace* trace : data.traces) {
      const auto tokens = trace->attributes.find("sink_tokens");
      if (tokens != trace->attributes.end())
        spec.sink_tokens = std::clamp(std::atoi(tokens->second.c_str()), 1, 1 << 20);
    }
  }
  const auto similarity = MeanTraceArray(data, "adjacent_similarity");
  if (similarity && similarity->shape.size() == 1 && similarity->shape[0] == mass->shape[0] - 1) {
    spec.similarity = Doubles(similarity->values);
  }
  page.Figure(context.slug_prefix + "attention_dynamics", DynamicsChart(spec),
              StrCat("Above: how far back each layer looks; dark cells low down mean that a layer looks "
                     "mostly nearby. Middle: how much each "
                     "head rests on the first ",
                     spec.sink_tokens,
                     " tokens. Below: where neighbouring layers find the same tokens "
                     "relevant, one layer's "
                     "ranking can serve the next. Means over ",
                     data.traces.size(), data.traces.size() == 1 ? " trace." : " traces."));
}

namespace {

// Whether values spread over so many powers of ten that only a logarithmic axis shows them all.
struct Extent {
  double low = 1e300, high = -1e300;
  void Add(double value) {
    low = std::min(low, value);
    high = std::max(high, value);
  }
  bool IsWide() const { return low > 0 && high / low > 15; }
  double Floor() const { return low / 2; }  // where a zero is drawn on a logarithmic axis
};

Svg FidelityScatter(const ReportData& data, const Fidelity& fidelity, std::optional<double> FidelityPair::*figure,
                    const std::string& label) {
  ScatterSpec spec;
  spec.x_label = "replay attention loss";
  spec.y_label = label;
  Extent x, y;
  for (const PolicyName& name : data.policies) {
    const auto look = data.looks.find(name.label);
    ChartSeries series{name.label, look == data.looks.end() ? PolicyLook{} : look->second, {}};
    for (const FidelityPair& pair : fidelity.pairs) {
      if (pair.label != name.label || !pair.attention_loss || !(pair.*figure)) continue;
      if (pair.policy == "full") continue;  // nothing lost, nothing moved
      series.points.push_back({*pair.attention_loss, *(pair.*figure), {}, {}});
      if (*pair.attention_loss > 0) x.Add(*pair.attention_loss);
      if (*(pair.*figure) > 0) y.Add(*(pair.*figure));
    }
    if (!series.points.empty()) spec.series.push_back(std::move(series));
  }
  std::stable_sort(spec.series.begin(), spec.series.end(),
                   [](const auto& a, const auto& b) { return a.points[0].y > b.points[0].y; });
  for (ChartSeries& series : spec.series) {
    std::sort(series.points.begin(), series.points.end(), [](const auto& a, const auto& b) { return a.x > b.x; });
  }
  spec.x_log = x.IsWide();
  spec.y_log = y.IsWide();
  for (ChartSeries& series : spec.series) {
    bool has_zero = false;
    for (ChartPoint& point : series.points) {
      has_zero = has_zero || (spec.x_log && point.x <= 0) || (spec.y_log && point.y <= 0);
      if (spec.x_log && point.x <= 0) point.x = x.Floor();
      if (spec.y_log && point.y <= 0) point.y = y.Floor();
    }
    if (has_zero) series.name += " (0)";
  }
  if (spec.x_log) spec.x_label += " (logarithmic)";
  if (spec.y_log) spec.y_label += " (logarithmic)";
  return ScatterChart(spec);
}

bool Any(const Fidelity& fidelity, std::optional<double> FidelityPair::*figure) {
  int count = 0;
  for (const FidelityPair& pair : fidelity.pairs)
    count += pair.policy != "full" && pair.attention_loss && (pair.*figure);
  return count >= 2;
}

std::vector<std::string> FidelitySentences(const Fidelity& fidelity) {
  std::vector<std::string> sentences;
  std::vector<std::string> drifted;
  int exact = 0, measured = 0;
  for (const FidelityPair& pair : fidelity.pairs) {
    if (!pair.jaccard) continue;
    ++measured;
    if (*pair.jaccard_lowest >= 1)
      ++exact;
    else
      drifted.push_back(
          StrCat(pair.label, pair.budget.empty() ? "" : " at " + pair.budget, " (", NumberText(*pair.jaccard, 3), ")"));
  }
  if (measured > 0) {
    std::string text =
        StrCat("Replay and live kept exactly the same entries in ", exact, " of ", measured, " policy-budget pairs");
    text += drifted.empty() ? "." : "; not in " + Listed(drifted) + ".";
    sentences.push_back(text);
  }
  for (const FidelityCorrelation& correlation : fidelity.correlations) {
    const RankCorrelation& rank = correlation.rank;
    sentences.push_back(
        StrCat(correlation.budget.empty() ? "Over all budgets" : "At keep " + correlation.budget,
               ", the order of policies by replay's attention "
               "loss agrees with live ",
               correlation.live_figure == "kl" ? "KL" : "answer NLL", " to ρ = ", FixedText(rank.rho, 2),
               " (95 % interval ", FixedText(rank.low, 2), " to ", FixedText(rank.high, 2), ", n = ", rank.n, ").",
               rank.low <= 0 ? " The interval holds 0: this run does not show that replay predicts it." : ""));
  }
  if (fidelity.replay_without_live > 0) {
    sentences.push_back(StrCat(fidelity.replay_without_live, " replay rows have no live partner."));
  }
  return sentences;
}

void FidelityRows(ReportPage& page, const Fidelity& fidelity) {
  std::vector<ReportPage::TableRow> rows;
  const auto text = [](const std::optional<double>& value) { return value ? NumberText(*value) : std::string("–"); };
  for (const FidelityPair& pair : fidelity.pairs) {
    std::string accuracy = "–";
    if (pair.n && *pair.n > 0) {
      accuracy = StrCat(CountText(*pair.successes), " of ", CountText(*pair.n));
    }
    rows.push_back(
        {{pair.label, pair.budget.empty() ? "–" : pair.budget, StrCat(pair.runs), text(pair.jaccard),
          text(pair.jaccard_lowest), text(pair.attention_loss), text(pair.kl), text(pair.answer_nll), accuracy},
         {},
         false,
         false});
  }
  page.Table({"", "replay against live", "replay", "live"}, {3, 2, 1, 3},
             {{"policy", "", true},
              {"keep", "", false},
              {"runs", "traces replayed and run live", false},
              {"same entries", "Jaccard index of the entries kept right after the decision, mean", false},
              {"lowest", "lowest Jaccard index of any run", false},
              {"attention loss", "", false},
              {"KL", "nats per token", false},
              {"answer NLL", "nats per token", false},
              {"right answers", "", false}},
             rows, "Same entries: 1 means the very same cache entries were kept in every layer and KV head.");
}

}  // namespace

void WriteFidelity(ReportPage& page, const SectionContext& context, const Fidelity& fidelity) {
  if (fidelity.pairs.empty()) {
    page.Paragraph(
        "No policy was both replayed and run live on the same runs, so there is nothing to set side by side.");
    return;
  }
  page.Paragraph(
      "Replay evaluates every policy on the queries, keys and values of the full-cache run. It cannot see hidden-state "
      "drift: once an "
      "entry is gone, later layers and later tokens of the live model compute other queries, keys and values than "
      "those in the trace. "
      "Policies that decide once, from the same statistics, should keep the same entries in both; policies that decide "
      "at "
      "every step may part. "
      "What follows is how far replay and live agree here.");
  page.List(FidelitySentences(fidelity));
  page.BeginRow();
  if (Any(fidelity, &FidelityPair::kl)) {
    page.Figure(context.slug_prefix + "fidelity_kl",
                FidelityScatter(context.data, fidelity, &FidelityPair::kl, "live KL, nats per token"),
                "Each mark is a policy at a budget, marks of one policy are joined. A rising cloud means replay "
                "predicts live.");
  }
  if (Any(fidelity, &FidelityPair::answer_nll)) {
    page.Figure(context.slug_prefix + "fidelity_answer_nll",
                FidelityScatter(context.data, fidelity, &FidelityPair::answer_nll, "live answer NLL, nats per token"),
                "The same against how surprised the live model is by the right answer. A policy far above the cloud "
                "lost little "
                "attention, but the little that mattered.");
  }
  page.EndRow();
  FidelityRows(page, fidelity);
}

}  // namespace kvscope
