// SPDX-License-Identifier: Apache-2.0
#include "viewer/curves_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "tests/support/core_files.h"

namespace kvscope {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

Results::Row Row(const std::string& policy, const std::string& mode, double fraction, double bytes, double loss) {
  Results::Row row;
  ResultRow& figures = row.figures;
  figures.Set("run_id", "a"), figures.Set("policy", policy), figures.Set("mode", mode), figures.Set("model", "m");
  figures.Set("class", policy == "random" ? "baseline" : "eviction");
  figures.Set("task", "niah"), figures.Set("keep_fraction_asked", fraction);
  figures.Set("kept_bytes_prefill", bytes);
  figures.Set(mode == "live" ? "answer_nll" : "attention_loss", loss);
  return row;
}

Results Some() {
  Results results;
  results.rows = {Row("random", "replay", 0.5, 500, 0.4), Row("snapkv", "replay", 0.25, 250, 0.2),
                  Row("snapkv", "replay", 0.5, 500, 0.1), Row("snapkv", "live", 0.5, 500, 2),
                  Row("snapkv", "replay", 0.5, 700, 0.3)};
  return results;
}

TEST(Curves, ArePooledSortedByBytesAndDrawnOverTheReferences) {
  const Results results = Some();
  const std::vector<ReportData> groups = GatherReportData(results);
  ASSERT_EQ(groups.size(), 1u);
  const std::vector<CurveMetric> metrics = MetricsOf(groups[0]);
  ASSERT_EQ(metrics.size(), 2u);
  EXPECT_STREQ(metrics[0].column, "answer_nll");
  EXPECT_STREQ(metrics[1].column, "attention_loss");
  const std::vector<Curve> curves = CurvesOf(groups[0], metrics[1]);
  ASSERT_EQ(curves.size(), 2u) << "no line without a figure";
  EXPECT_EQ(curves[0].label, "random");
  EXPECT_TRUE(curves[0].look.reference);
  ASSERT_EQ(curves[1].points.size(), 2u);
  EXPECT_DOUBLE_EQ(curves[1].points[0].bytes, 600);
  EXPECT_DOUBLE_EQ(curves[1].points[0].value, 0.2);
  EXPECT_DOUBLE_EQ(curves[1].points[1].bytes, 250);
  const std::string csv = CurvesCsv(groups[0], metrics[1]);
  EXPECT_THAT(csv, StartsWith("policy,mode,budget,kept_bytes,kept_fraction,attention_loss,standard_error,rows\n"));
  EXPECT_THAT(csv, HasSubstr("\nsnapkv,replay,0.25,250,,0.2,0,1\n"));
}

TEST(Curves, APointStandsForItsPlan) {
  const Results results = Some();
  const std::vector<ReportData> groups = GatherReportData(results);
  const Cell* const cell = groups[0].Find("snapkv", "replay", BudgetOf(results.rows[1].figures));
  ASSERT_TRUE(cell);
  ViewState view;
  EXPECT_EQ(ChoiceOf(*cell, view), (PolicyChoice{"snapkv", 0.25}));
  // A budget that cannot be is left as it was.
  Results hostile;
  hostile.rows = {Row("snapkv", "replay", -3, 250, 0.2)};
  const std::vector<ReportData> hostile_groups = GatherReportData(hostile);
  EXPECT_EQ(ChoiceOf(hostile_groups[0].cells[0], view), (PolicyChoice{"snapkv", 0.25}));
}

TEST(Curves, ChoosingMovesABudgetOrAddsAPolicy) {
  ViewState view;
  view.policies = {{"snapkv", 0.25}, {"adkvc", 0.25}};
  ChoosePolicy({"adkvc", 0.1}, view);
  EXPECT_EQ(view.policies, (std::vector<PolicyChoice>{{"snapkv", 0.25}, {"adkvc", 0.1}}));
  EXPECT_EQ(view.policy_index, 1);
  for (const char* spec : {"h2o", "tova", "random"}) ChoosePolicy({spec, 0.5}, view);
  EXPECT_EQ(view.policies, (std::vector<PolicyChoice>{{"snapkv", 0.25}, {"adkvc", 0.1}, {"h2o", 0.5}, {"random", 0.5}}))
      << "the last made room";
  EXPECT_EQ(view.policy_index, 3);
}

TEST(Curves, FindTheTraceOfARow) {
  const std::string trace = TempPath("a.kvtrace.h5");
  WriteFile(trace, "x");
  Results::Row row = Row("snapkv", "replay", 0.5, 500, 0.1);
  row.figures.Set("trace", "elsewhere/a.kvtrace.h5");
  Results results;
  results.rows = {row};
  const std::vector<ReportData> groups = GatherReportData(results);
  const Cell& cell = groups[0].cells[0];
  EXPECT_EQ(TraceOf(cell, "", {}), "");
  const std::vector<std::string> folders{std::filesystem::path(trace).parent_path().string()};
  EXPECT_EQ(TraceOf(cell, "", folders), trace);
  const std::string same = folders[0] + "/./a.kvtrace.h5";
  EXPECT_EQ(TraceOf(cell, same, folders), same) << "the one that is open stays";
}

float LengthOf(const std::vector<PixelPoint>& ends) {
  float length = 0;
  for (size_t i = 0; i + 1 < ends.size(); i += 2)
    length += std::hypot(ends[i + 1].x - ends[i].x, ends[i + 1].y - ends[i].y);
  return length;
}

TEST(Dashes, GoOnRoundCorners) {
  const std::vector<PixelPoint> line{{0, 0}, {30, 0}, {30, 30}};
  EXPECT_FLOAT_EQ(LengthOf(DashesOf(line, "", 1)), 60);
  EXPECT_FLOAT_EQ(LengthOf(DashesOf(line, "6 4", 1)), 36);
  EXPECT_FLOAT_EQ(LengthOf(DashesOf(line, "6 4", 2)), 36);
  EXPECT_FLOAT_EQ(LengthOf(DashesOf(line, "10", 1)), 30);
  EXPECT_TRUE(DashesOf({}, "6 4", 1).empty());
}

TEST(Dashes, EndOnAnyLine) {
  const float infinity = INFINITY;
  EXPECT_TRUE(DashesOf(std::vector<PixelPoint>{{0, 0}, {infinity, 0}}, "6 4", 1).empty());
  EXPECT_EQ(DashesOf(std::vector<PixelPoint>{{0, 0}, {1e30f, 0}}, "6 4", 1).size(), 2u);
  EXPECT_TRUE(DashesOf(std::vector<PixelPoint>{{0, 0}, {10, 0}}, "0 0", 1).empty());
}

}  // namespace
}  // namespace kvscope
