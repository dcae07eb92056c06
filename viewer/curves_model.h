// SPDX-License-Identifier: Apache-2.0
// Quality against kept bytes without a window: results joined and pooled beside the frames (replay/report_data.h), a
// trace measured when there are none, and what a click on a point chooses.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "replay/report_data.h"
#include "viewer/jobs.h"
#include "viewer/trace_document.h"
#include "viewer/view_state.h"

namespace kvscope {

// A figure that curves can show.
struct CurveMetric {
  const char *column = "", *title = "";
  bool is_share = false;  // in [0, 1]
};
std::span<const CurveMetric> CurveMetrics();
// Those that some row has, in the order in which they are offered.
std::vector<CurveMetric> MetricsOf(const ReportData& data);

struct CurvePoint {
  double bytes = 0;  // held or, where less is read than held, read per step; mean over rows
  double value = 0, standard_error = 0;
  const Cell* cell = nullptr;
};
// One policy in one mode, most bytes first.
struct Curve {
  std::string label, mode;
  PolicyLook look;
  std::vector<CurvePoint> points;
};
// References (full, random, oracles) first, so that the rest is drawn over them; replay before live.
std::vector<Curve> CurvesOf(const ReportData& data, const CurveMetric& metric);
// policy, mode, budget, kept_bytes, kept_fraction, the metric, standard_error, rows.
std::string CurvesCsv(const ReportData& data, const CurveMetric& metric);

struct PixelPoint {
  float x = 0, y = 0;
};
// Ends of the dashes along a line, two points each. dash: "6 3", pixels drawn and left out in turn; empty: whole.
std::vector<PixelPoint> DashesOf(std::span<const PixelPoint> line, const std::string& dash, float scale);

// What a cell stands for: its spec, and its budget where it has one.
PolicyChoice ChoiceOf(const Cell& cell, const ViewState& view);
// Makes it the policy that all panels follow: in its place when the spec is there, else added, at the cost of the last.
void ChoosePolicy(const PolicyChoice& choice, ViewState& view);
// A file that exists and holds the trace of one of the cell's rows; `current` when it is one of them. Empty: none.
// Paths of results may be relative to where replay ran; beside the results is looked as well.
std::string TraceOf(const Cell& cell, const std::string& current, std::span<const std::string> folders);

struct CurvesData {
  Results results;
  std::vector<ReportData> groups;  // point into results
};

class CurvesModel {
 public:
  // Shows these results; without any, what was measured of the document (which may be null).
  void Update(const std::vector<std::shared_ptr<const Results>>& inputs, const TraceDocument* document, Jobs& jobs);
  std::shared_ptr<const CurvesData> data() const { return data_; }  // null: nothing, or not yet
  bool is_joining() const { return !inputs_.empty() && !data_; }
  bool is_measured() const { return is_measured_; }  // and not from a file

  // Replays the chosen policies on the document at kMeasuredFractions.
  void Measure(const TraceDocument& document, const ViewState& view, Jobs& jobs);
  void CancelMeasuring(Jobs& jobs);
  std::optional<double> measuring() const;  // how far it is
  const std::string& failure() const { return failure_; }

  static constexpr double kMeasuredFractions[] = {0.5, 0.25, 0.1, 0.05};

 private:
  struct Measured {
    const TraceDocument* document = nullptr;
    std::shared_ptr<const Results> results;
  };

  std::vector<std::shared_ptr<const Results>> inputs_;  // of data_, or of what is being joined
  std::shared_ptr<const CurvesData> data_;
  bool is_measured_ = false;
  std::vector<Measured> measured_;
  std::shared_ptr<std::atomic<float>> progress_;  // null: not measuring
  std::string failure_;
};

}  // namespace kvscope
