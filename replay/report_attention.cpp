// SPDX-License-Identifier: Apache-2.0
// What attention does in these traces, whatever the policy.
#include <algorithm>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "replay/chart_axis.h"
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

}  // namespace kvscope
