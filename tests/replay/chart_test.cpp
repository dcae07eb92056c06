// SPDX-License-Identifier: Apache-2.0
// Axes, colours and labels: what makes a picture true and readable.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "core/error.h"
#include "replay/chart_axis.h"
#include "replay/chart_color.h"
#include "replay/chart_lines.h"
#include "replay/report_sections.h"
#include "tests/support/replay_fake_results.h"

namespace kvscope {
namespace {

using ::testing::DoubleNear;
using ::testing::ElementsAre;
using ::testing::Pointwise;

auto Near(double tolerance, const std::vector<double>& expected) {
  return Pointwise(DoubleNear(tolerance), expected);
}

TEST(Ticks, AreRoundAndInside) {
  EXPECT_THAT(RoundTicks(0, 1, 5), Near(1e-12, {0, 0.2, 0.4, 0.6, 0.8, 1.0}));
  EXPECT_THAT(RoundTicks(-3, 42, 5), ElementsAre(0, 10, 20, 30, 40));
  EXPECT_THAT(RoundTicks(1e6, 2e6, 5), Near(1e-3, {1e6, 1.2e6, 1.4e6, 1.6e6, 1.8e6, 2e6}));
  EXPECT_THAT(LogTicks(0.01, 100), Near(1e-9, {0.01, 0.1, 1, 10, 100}));
  EXPECT_THAT(LogTicks(1, 10), Near(1e-9, {1, 2, 5, 10}));
}

TEST(Ticks, AreWrittenAlikeAndExactly) {
  EXPECT_THAT(TickTexts({0, 0.5, 1}, Unit::kPlain), ElementsAre("0.0", "0.5", "1.0"));
  EXPECT_THAT(TickTexts({0, 3.5, 7}, Unit::kPlain), ElementsAre("0.0", "3.5", "7.0"));
  EXPECT_THAT(TickTexts({0, 1000, 2000}, Unit::kPlain), ElementsAre("0", "1,000", "2,000"));
  EXPECT_THAT(TickTexts({0.001, 0.01, 0.1, 1}, Unit::kPlain, true), ElementsAre("0.001", "0.01", "0.1", "1"));
  EXPECT_THAT(TickTexts({0, 0.25, 0.5}, Unit::kPercent), ElementsAre("0\u00a0%", "25\u00a0%", "50\u00a0%"));
  EXPECT_THAT(TickTexts({1e7, 2e7}, Unit::kBytes), ElementsAre("10 MB", "20 MB"));
}

TEST(Numbers, KeepTheirSignificantDigits) {
  EXPECT_EQ(NumberText(0.012345), "0.0123");
  EXPECT_EQ(NumberText(12.345), "12.3");
  EXPECT_EQ(NumberText(12345), "12,345");
  EXPECT_EQ(NumberText(-0.5, 1), "\u22120.5");
  EXPECT_EQ(NumberText(0), "0");
  EXPECT_EQ(NumberText(0.0000123), "1.2e-5");
  EXPECT_EQ(NumberText(INFINITY), "–");
  EXPECT_EQ(NumberText(NAN), "–");
  EXPECT_EQ(BytesText(47185920), "47.2 MB");
  EXPECT_EQ(BytesText(999), "999 B");
  EXPECT_EQ(CountText(57.6), "57.6");
  EXPECT_EQ(CountText(90), "90");
}

TEST(Scale, HoldsEveryValue) {
  for (const auto& [low, high] :
       std::vector<std::pair<double, double>>{{0, 0}, {1, 1}, {-5, 3}, {0, 10.4}, {1e-9, 2e-9}}) {
    Scale scale = NiceScale(low, high, false, Unit::kPlain);
    EXPECT_LE(scale.low, low);
    EXPECT_GE(scale.high, high);
    EXPECT_LT(scale.low, scale.high);
    EXPECT_GE(scale.Ticks(5).size(), 2u) << low << " " << high;
  }
  Scale log = NiceScale(0.001, 10, true, Unit::kPlain);
  log.last = 100;
  EXPECT_NEAR(log.Pixel(0.1) - log.Pixel(0.01), log.Pixel(10) - log.Pixel(1), 1e-9);
}

TEST(SpreadLabels, KeepsOrderAndDistance) {
  const std::vector<double> wanted{10, 10, 11, 50, 99, 99.5, 100};
  const auto placed = SpreadLabels(wanted, 12, 0, 100);
  for (size_t i = 1; i < placed.size(); ++i) EXPECT_GE(placed[i] - placed[i - 1], 12 - 1e-9);
  EXPECT_GE(placed.front(), 0);
  EXPECT_LE(placed.back(), 100);
  EXPECT_THAT(SpreadLabels({5, 40, 80}, 12, 0, 100), ElementsAre(5, 40, 80));  // nothing moves without need
  const auto crowded = SpreadLabels(std::vector<double>(30, 50.0), 12, 0, 100);
  EXPECT_NEAR(crowded.front(), 0, 1e-9);
  EXPECT_NEAR(crowded.back(), 100, 1e-9);
}

TEST(Colors, GrowDarkerEvenly) {
  // Equal steps of the amount are equal steps of lightness, so that the scale survives a black-and-white printer.
  for (int i = 1; i <= 20; ++i) {
    const double step = Lightness(SequentialRgb((i - 1) / 20.0)) - Lightness(SequentialRgb(i / 20.0));
    EXPECT_NEAR(step, 0.034, 0.006) << i;  // 8 bits a channel
  }
  EXPECT_NEAR(Lightness(DivergingRgb(-0.7)), Lightness(DivergingRgb(0.7)), 0.01);
  EXPECT_GT(Lightness(DivergingRgb(0)), 0.95);
  EXPECT_EQ(SequentialRgb(-3), SequentialRgb(0));
  EXPECT_EQ(SequentialRgb(7), SequentialRgb(1));
}

TEST(Colors, InkIsReadableOnEveryCell) {
  for (int i = 0; i <= 50; ++i) {
    const uint32_t rgb = SequentialRgb(i / 50.0);
    const double ink = InkOver(rgb) == "#ffffff" ? 1.0 : 0.25;
    EXPECT_GT(std::fabs(Lightness(rgb) - ink), 0.36) << i;
  }
}

TEST(Looks, TellPoliciesApartWithoutColor) {
  std::vector<PolicyName> names;
  for (const std::string& policy : FakeResultsOptions().policies)
    names.push_back({policy, policy, policy == "recent_window" ? "baseline" : ""});
  const auto looks = LooksOf(names);
  std::set<std::tuple<Marker, bool, std::string>> seen;
  for (const auto& [label, look] : looks) {
    EXPECT_TRUE(seen.insert({look.marker, look.filled, look.dash}).second)
        << label << " looks like another policy in print";
  }
  EXPECT_EQ(looks.at("snapkv").color, looks.at("snapkv+ada").color);
  EXPECT_NE(looks.at("snapkv").color, looks.at("h2o").color);
  EXPECT_TRUE(looks.at("full").reference);
  EXPECT_TRUE(looks.at("top_k_oracle").reference);
}

// Every text of a picture is inside it and touches no other.
void ExpectReadable(const std::string& name, const Svg& svg) {
  const auto& boxes = svg.text_boxes();
  constexpr double kTouch = 1.0;
  for (size_t i = 0; i < boxes.size(); ++i) {
    EXPECT_GE(boxes[i].left, -0.5) << name << ": '" << svg.texts()[i] << "' is cut at the left";
    EXPECT_LE(boxes[i].right, svg.width() + 0.5) << name << ": '" << svg.texts()[i] << "' is cut at the right";
    EXPECT_GE(boxes[i].top, -0.5) << name << ": '" << svg.texts()[i] << "' is cut at the top";
    EXPECT_LE(boxes[i].bottom, svg.height() + 0.5) << name << ": '" << svg.texts()[i] << "' is cut at the bottom";
    const Box inner{boxes[i].left + kTouch, boxes[i].top + kTouch, boxes[i].right - kTouch, boxes[i].bottom - kTouch};
    for (size_t k = 0; k < i; ++k) {
      EXPECT_FALSE(inner.Overlaps(boxes[k]))
          << name << ": '" << svg.texts()[i] << "' lies over '" << svg.texts()[k] << "'";
    }
  }
}

void ExpectReadableReport(const std::string& name, const Results& replay, const Results& live) {
  const Results merged = MergeResults(std::vector<Results>{replay, live});
  const std::vector<ReportData> groups = GatherReportData(merged);
  std::vector<Fidelity> fidelities;
  for (const ReportData& data : groups)
    fidelities.push_back(CompareFidelity(RowsOfMode(data, "replay"), RowsOfMode(data, "live")));
  ReportPage page("test", "");
  WriteSections(page, groups, fidelities);
  EXPECT_GE(page.figures().size(), 5u) << name;
  std::set<std::string> slugs;
  for (const auto& [slug, svg] : page.figures()) {
    EXPECT_TRUE(slugs.insert(slug).second) << name << ": " << slug << " is there twice";
    ExpectReadable(name + ", " + slug, svg);
  }
}

FakeResultsOptions Small() {
  FakeResultsOptions options;
  options.tokens = 256;
  return options;
}

TEST(Pictures, AreReadableForTheDemo) {
  ExpectReadableReport("demo", FakeReplay(Small()), FakeLive(Small()));
}

TEST(Pictures, AreReadableForAGridOfLengths) {
  FakeResultsOptions options = Small();
  options.layers = 8;
  options.contexts = {512, 1024, 2048, 4096, 8192};
  options.samples = 20;
  options.fractions = {0.9, 0.5, 0.25, 0.1};
  ExpectReadableReport("lengths", FakeReplay(options), FakeLive(options));
}

TEST(Pictures, AreReadableForOneTraceOfAnotherShape) {
  FakeResultsOptions options = Small();
  options.layers = 32;
  options.heads = 32;
  options.kv_heads = 8;
  options.depths = {0.5};
  options.fractions = {0.25};
  ExpectReadableReport("one trace", FakeReplay(options), FakeLive(options));
}

TEST(Pictures, AreReadableWithLongNames) {
  FakeResultsOptions options = Small();
  options.layers = 4;
  options.policies = {"full", "random", "top_k_oracle"};
  for (int i = 0; i < 17; ++i) options.policies.push_back(StrCat("snapkv+pyramid@int4:window=", 8 + i, ":pool=7"));
  ExpectReadableReport("long names", FakeReplay(options), FakeLive(options));
}

}  // namespace
}  // namespace kvscope
