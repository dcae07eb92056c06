// SPDX-License-Identifier: Apache-2.0
#include "viewer/curves_model.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <filesystem>

#include "core/error.h"
#include "replay/sweep.h"

namespace kvscope {
namespace {

namespace fs = std::filesystem;

constexpr float kLongestDashed = 20'000;  // pixels; far beyond any picture, a line is drawn whole
constexpr const char *kJoinSlot = "curves", *kMeasureSlot = "measure";

constexpr std::array kMetrics = std::to_array<CurveMetric>({
    {"metric_value", "accuracy", true},
    {"answer_nll", "answer NLL, nats per token"},
    {"perplexity", "perplexity"},
    {"kl", "KL to the full cache, nats per token"},
    {"top1_agreement", "agreement with the full cache's next token", true},
    {"attention_loss", "attention loss", true},
    {"output_error", "output error"},
    {"needle_retention", "needle tokens kept", true},
    {"needle_weight_ratio", "weight on the needle, share of the full cache's"},
    {"topk_overlap", "heaviest entries kept", true},
});

std::optional<CurvePoint> PointOf(const ReportData& data, const Cell& cell, const CurveMetric& metric) {
  const auto bytes = data.Bytes(cell);
  if (!bytes || *bytes <= 0) return std::nullopt;
  if (std::string_view(metric.column) == "metric_value") {
    const auto accuracy = cell.PooledAccuracy();
    if (!accuracy) return std::nullopt;
    const double share = accuracy->Share();
    return CurvePoint{*bytes, share, std::sqrt(share * (1 - share) / accuracy->n), &cell};
  }
  const auto pooled = cell.Pool(metric.column);
  if (!pooled) return std::nullopt;
  return CurvePoint{*bytes, pooled->mean, pooled->standard_error, &cell};
}

}  // namespace

std::span<const CurveMetric> CurveMetrics() {
  return kMetrics;
}

std::vector<CurveMetric> MetricsOf(const ReportData& data) {
  std::vector<CurveMetric> metrics;
  for (const CurveMetric& metric : kMetrics) {
    const auto has = [&](const Cell& cell) { return PointOf(data, cell, metric).has_value(); };
    if (std::ranges::any_of(data.cells, has)) metrics.push_back(metric);
  }
  return metrics;
}

std::vector<Curve> CurvesOf(const ReportData& data, const CurveMetric& metric) {
  std::vector<Curve> curves;
  for (const PolicyName& name : data.policies) {
    for (const char* mode : {"replay", "live"}) {
      Curve curve{name.label, mode, data.looks.at(name.label), {}};
      for (const Cell& cell : data.cells) {
        if (cell.label != name.label || cell.mode != mode) continue;
        if (const auto point = PointOf(data, cell, metric)) curve.points.push_back(*point);
      }
      std::ranges::stable_sort(curve.points, std::greater(), &CurvePoint::bytes);
      if (!curve.points.empty()) curves.push_back(std::move(curve));
    }
  }
  std::ranges::stable_sort(curves, std::greater(), [](const Curve& curve) { return curve.look.reference; });
  return curves;
}

std::string CurvesCsv(const ReportData& data, const CurveMetric& metric) {
  std::string table = StrCat("policy,mode,budget,kept_bytes,kept_fraction,", metric.column, ",standard_error,rows\n");
  for (const Curve& curve : CurvesOf(data, metric)) {
    for (const CurvePoint& point : curve.points) {
      const auto fraction = point.cell->Mean("kept_fraction");
      table += StrCat(CsvField(curve.label), ",", curve.mode, ",", CsvField(point.cell->budget.label), ",", point.bytes,
                      ",", fraction ? StrCat(*fraction) : "", ",", point.value, ",", point.standard_error, ",",
                      point.cell->rows.size(), "\n");
    }
  }
  return table;
}

std::vector<PixelPoint> DashesOf(std::span<const PixelPoint> line, const std::string& dash, float scale) {
  std::vector<float> lengths;
  const char* text = dash.c_str();
  for (char* end = nullptr;; text = end) {
    const float length = std::strtof(text, &end) * scale;
    if (end == text) break;
    if (!(length >= 0.5f)) return {};  // a pattern of nothing would never end
    lengths.push_back(length);
  }
  std::vector<PixelPoint> ends;
  size_t part = 0;
  float left = lengths.empty() ? 0 : lengths[0];
  for (size_t i = 1; i < line.size(); ++i) {
    const PixelPoint from = line[i - 1], to = line[i];
    const float length = std::hypot(to.x - from.x, to.y - from.y);
    if (!std::isfinite(length) || length == 0) continue;
    if (lengths.empty() || length > kLongestDashed) {
      ends.insert(ends.end(), {from, to});
      continue;
    }
    const auto at = [&](float done) {
      return PixelPoint{from.x + (to.x - from.x) * done / length, from.y + (to.y - from.y) * done / length};
    };
    for (float done = 0; done < length;) {
      const float step = std::min(left, length - done);
      if (part % 2 == 0) ends.insert(ends.end(), {at(done), at(done + step)});
      done += step;
      left -= step;
      if (left > 0) break;  // the dash goes on round the corner
      part = (part + 1) % (lengths.size() % 2 ? lengths.size() * 2 : lengths.size());
      left = lengths[part % lengths.size()];
    }
  }
  return ends;
}

PolicyChoice ChoiceOf(const Cell& cell, const ViewState& view) {
  PolicyChoice choice{cell.policy};
  const auto known = std::ranges::find(view.policies, cell.policy, &PolicyChoice::spec);
  if (known != view.policies.end()) choice.keep_fraction = known->keep_fraction;
  // Results may say anything.
  if (cell.budget.fraction && *cell.budget.fraction > 0 && *cell.budget.fraction <= 1)
    choice.keep_fraction = *cell.budget.fraction;
  return choice;
}

void ChoosePolicy(const PolicyChoice& choice, ViewState& view) {
  auto known = std::ranges::find(view.policies, choice.spec, &PolicyChoice::spec);
  if (known == view.policies.end()) {
    if (view.policies.size() >= kMostPolicies) view.policies.pop_back();
    known = view.policies.insert(view.policies.end(), choice);
  }
  *known = choice;
  view.policy_index = static_cast<int>(known - view.policies.begin());
  view.follows_policies = true;
}

std::string TraceOf(const Cell& cell, const std::string& current, std::span<const std::string> folders) {
  std::error_code ignored;
  std::string found;
  for (const Results::Row* row : cell.rows) {
    const fs::path path = row->figures.Text("trace");
    if (path.empty()) continue;
    std::vector<fs::path> places{path};
    for (const std::string& folder : folders) places.push_back(fs::path(folder) / path.filename());
    for (const fs::path& place : places) {
      if (!fs::is_regular_file(place, ignored)) continue;
      if (!current.empty() && fs::equivalent(place, current, ignored)) return current;
      if (found.empty()) found = place.string();
    }
  }
  return found;
}

void CurvesModel::Update(const std::vector<std::shared_ptr<const Results>>& inputs, const TraceDocument* document,
                         Jobs& jobs) {
  std::vector<std::shared_ptr<const Results>> wanted = inputs;
  if (inputs.empty()) {
    const auto measured = std::ranges::find(measured_, document, &Measured::document);
    if (measured != measured_.end()) wanted.push_back(measured->results);
  }
  if (wanted == inputs_) return;
  inputs_ = wanted;
  is_measured_ = inputs.empty();
  data_ = nullptr;
  if (wanted.empty()) return jobs.Cancel(kJoinSlot);
  jobs.Start(kJoinSlot, [this, wanted](const std::atomic<bool>&) -> Jobs::Finish {
    const auto data = std::make_shared<CurvesData>();
    std::vector<Results> copies;
    for (const auto& results : wanted) copies.push_back(*results);
    data->results = MergeResults(copies);
    data->groups = GatherReportData(data->results);
    return [this, data] { data_ = data; };
  });
}

void CurvesModel::Measure(const TraceDocument& document, const ViewState& view, Jobs& jobs) {
  SweepOptions options;
  for (const PolicyChoice& choice : view.policies) options.policies.push_back(choice.spec);
  for (const double fraction : kMeasuredFractions) options.budgets.push_back({BudgetSpec::Unit::kFraction, fraction});
  options.protocols = {view.protocol};
  options.keeps_kept = false;
  const auto progress = std::make_shared<std::atomic<float>>(0.0f);
  options.progress = [progress](double fraction) { *progress = static_cast<float>(fraction); };
  progress_ = progress;
  failure_.clear();
  jobs.Start(kMeasureSlot, [this, &document, options](const std::atomic<bool>& is_cancelled) -> Jobs::Finish {
    auto results = std::make_shared<Results>();
    std::string failure;
    try {
      SweepOptions cancellable = options;
      cancellable.is_cancelled = &is_cancelled;
      ReplayTrace(document.reader(), document.path(), cancellable, *results);
    } catch (const Error& error) {
      failure = error.what();
    }
    return [this, &document, results, failure] {
      progress_ = nullptr;
      failure_ = failure;
      if (!failure.empty()) return;
      std::erase_if(measured_, [&](const Measured& measured) { return measured.document == &document; });
      measured_.push_back({&document, results});
    };
  });
}

void CurvesModel::CancelMeasuring(Jobs& jobs) {
  jobs.Cancel(kMeasureSlot);
  progress_ = nullptr;
}

std::optional<double> CurvesModel::measuring() const {
  return progress_ ? std::optional<double>(progress_->load()) : std::nullopt;
}

}  // namespace kvscope
