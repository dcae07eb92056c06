// SPDX-License-Identifier: Apache-2.0
#include "replay/study.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "core/error.h"
#include "replay/study_ablation.h"
#include "replay/study_data.h"
#include "replay/study_sections.h"
#include "replay/study_statistics.h"
#include "tests/support/replay_fake_study.h"

namespace kvscope {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using Pairs = std::vector<std::pair<double, double>>;

std::string FileText(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

std::string HtmlOf(const Study& study) {
  const std::string path = testing::TempDir() + "study_test.html";
  WriteStudyPage(study, path, "");
  return FileText(path);
}

Results::Row LiveRow(const std::string& policy, const std::string& prompt, double nll, double right) {
  Results::Row row;
  ResultRow& figures = row.figures;
  for (const auto& [column, text] : {std::pair{"mode", std::string("live")},
                                     {"policy", policy},
                                     {"trace", prompt},
                                     {"task", "niah"},
                                     {"protocol", "prompt"}}) {
    figures.Set(column, std::string_view(text));
  }
  const bool is_fixed = policy == "full" || policy == "int4";
  if (is_fixed) {
    figures.Set("class", policy == "full" ? "baseline" : "quantization");
    figures.Set("kept_fraction", policy == "full" ? 1.0 : 0.28);
  } else {
    figures.Set("keep_fraction_asked", 0.5);
    figures.Set("kept_fraction", 0.5);
  }
  figures.Set("answer_nll", nll);
  figures.Set("metric_value", right);
  figures.Set("n", 1.0);
  return row;
}

Study StudyOf(std::vector<Results::Row> rows, const std::string& arm = "main") {
  Study study;
  study.method = "adkvc";
  study.arms.push_back({arm, "?", {}, 1, 2});
  study.arms[0].results.rows = std::move(rows);
  return study;
}

// Written into the build folder, so that people can look at it.
TEST(Study, WritesOnePageWithItsPictures) {
  const std::string folder = std::string(KVSCOPE_BINARY_DIR) + "/sample_study";
  std::filesystem::create_directories(folder);
  const Study study = FakeStudy();
  const auto pictures = WriteStudyPage(study, folder + "/study.html", folder + "/pictures");
  EXPECT_GE(pictures.size(), 20u);
  for (const std::string& picture : pictures) {
    EXPECT_THAT(FileText(picture).substr(0, 8), "\x89PNG\r\n\x1a\n") << picture;
    EXPECT_GT(std::filesystem::file_size(picture), 3000u) << picture;
  }
  const std::string html = FileText(folder + "/study.html");
  size_t last = 0;
  for (const char* id :
       {"findings", "grid", "robustness", "perplexity", "ablation", "relevance", "failures", "prediction", "method"}) {
    const size_t at = html.find("<section id=\"" + std::string(id) + "\">");
    ASSERT_NE(at, std::string::npos) << id;
    EXPECT_GT(at, last) << id;
    last = at;
  }
  EXPECT_THAT(html, Not(HasSubstr("<script")));
  EXPECT_THAT(html, Not(HasSubstr("nan")));
  EXPECT_THAT(html, Not(HasSubstr("has no results yet")));
  std::ofstream(folder + "/STUDY.md") << StudyMarkdown(study);
}

TEST(Study, LabelsOfPicturesKeepApart) {
  const Study study = FakeStudy({.needles = 10});
  const StudyContext context(study);
  ReportPage page("", "");
  for (const auto& write : {WriteStudyHeadline, WriteStudyGrid, WriteStudyRobustness, WriteStudyPerplexity,
                            WriteStudyAblation, WriteStudyRelevance, WriteStudyFailures, WriteStudyPrediction}) {
    write(page, context);
  }
  ASSERT_GT(page.figures().size(), 15u);
  for (const auto& [slug, svg] : page.figures()) {
    const std::vector<Box>& boxes = svg.text_boxes();
    for (size_t i = 0; i < boxes.size(); ++i) {
      EXPECT_GE(boxes[i].left, -0.5) << slug << ": " << svg.texts()[i];
      EXPECT_LE(boxes[i].right, svg.width() + 0.5) << slug << ": " << svg.texts()[i];
      for (size_t k = 0; k < i; ++k) {
        EXPECT_FALSE(boxes[i].Overlaps(boxes[k])) << slug << ": " << svg.texts()[i] << " / " << svg.texts()[k];
      }
    }
  }
}

TEST(Study, SaysWhatIsMissing) {
  Study empty;
  empty.method = "adkvc";
  EXPECT_THAT(HtmlOf(empty), HasSubstr("The study has no arm main."));
  EXPECT_THAT(StudyMarkdown(empty), HasSubstr("No arm has results yet"));
  empty.arms.push_back({"main", "?", {}, 0, 20});
  EXPECT_THAT(HtmlOf(empty), HasSubstr("The arm main has no results yet: 0 of 20 runs are done."));
}

// One arm at a time, and rows that hold next to nothing.
TEST(Study, SurvivesEveryPart) {
  const Study whole = FakeStudy({.layers = 4, .needles = 2});
  for (const StudyArm& arm : whole.arms) {
    Study part = whole;
    part.arms = {arm};
    EXPECT_THAT(HtmlOf(part), HasSubstr("<section id=\"method\">")) << arm.name;
    EXPECT_FALSE(StudyMarkdown(part).empty());
    for (const std::string policy : {"full", "adkvc", "random", "int4"}) {
      part.arms = {arm};
      std::erase_if(part.arms[0].results.rows, [&](const auto& row) { return row.figures.Text("policy") == policy; });
      EXPECT_FALSE(HtmlOf(part).empty()) << arm.name << " without " << policy;
      std::erase_if(part.arms[0].results.rows, [&](const auto& row) { return row.figures.Text("policy") != "adkvc"; });
      EXPECT_FALSE(HtmlOf(part).empty()) << arm.name << " of adkvc alone";
    }
    Results::Row bare;
    bare.figures.Set("policy", "adkvc");
    part.arms[0].results.rows = {bare};
    EXPECT_FALSE(HtmlOf(part).empty()) << arm.name << " of one bare row";
    bare.figures.Set("refused_reason", "no room");
    part.arms[0].results.rows = {bare};
    EXPECT_THAT(HtmlOf(part), HasSubstr("no room")) << arm.name;
  }
}

TEST(Study, MarkdownIsShortAndHoldsTheHypotheses) {
  const std::string text = StudyMarkdown(FakeStudy({.layers = 2, .needles = 10}));
  EXPECT_LT(std::count(text.begin(), text.end(), '\n'), 120);
  for (const char* part : {"# Does adkvc keep what it promises?", "| H1 |", "| H2 |", "| H3 |", "| H4 |", "| H5 |",
                           "**`adkvc`**", "## To repeat it", "kvscope replay study adkvc"}) {
    EXPECT_THAT(text, HasSubstr(part));
  }
}

TEST(Study, VerdictsFollowTheData) {
  std::vector<Results::Row> rows;
  for (int prompt = 0; prompt < 10; ++prompt) {
    const std::string name = StrCat("niah_r", prompt);
    rows.push_back(LiveRow("full", name, 0.05, 1));
    rows.push_back(LiveRow("adkvc", name, 0.10 + 0.001 * prompt, 1));
    rows.push_back(LiveRow("h2o", name, 2.0, 0));
    rows.push_back(LiveRow("int4", name, 0.06, 1));
    rows.push_back(LiveRow("random", name, prompt % 2 ? 0.0 : 0.21, prompt % 2));
  }
  const Study study = StudyOf(std::move(rows));
  const StudyContext context(study);
  const StudyTable& table = context.main.at(0);
  EXPECT_EQ(Fight(table, "adkvc", "h2o", 0.5).verdict, Verdict::kYes);
  EXPECT_EQ(Fight(table, "adkvc", "int4", 0.5).verdict, Verdict::kNo);  // a fixed size that fits into the half
  EXPECT_EQ(Fight(table, "adkvc", "int4", 0.25).verdict, Verdict::kNotRun);
  EXPECT_EQ(Fight(table, "adkvc", "random", 0.5).verdict, Verdict::kCannotTell);
  const std::string html = HtmlOf(study);
  EXPECT_THAT(html, HasSubstr("Right answers of adkvc, decided after the question: 10/10 at 0.5 of the bytes (full "
                              "cache 10/10)."));
  EXPECT_THAT(html, HasSubstr("behind int4 at 0.5"));
}

TEST(Study, PairsRowsOfOnePromptOnly) {
  const Study study = StudyOf({LiveRow("full", "a", 1, 1), LiveRow("full", "b", 2, 1), LiveRow("adkvc", "b", 5, 0),
                               LiveRow("adkvc", "c", 9, 0)});
  const StudyContext context(study);
  const StudyTable& table = context.main.at(0);
  EXPECT_EQ(PairedValues(table.At("adkvc", 0.5), table.Fixed("full"), "answer_nll"), (Pairs{{5, 2}}));
}

TEST(Study, ShowsTheNearestWhereNothingFailed) {
  std::vector<Results::Row> rows{LiveRow("full", "a", 0.1, 1), LiveRow("adkvc", "a", 0.2, 1),
                                 LiveRow("full", "b", 0.1, 1), LiveRow("adkvc", "b", 0.9, 1)};
  EXPECT_THAT(HtmlOf(StudyOf(rows)),
              HasSubstr("adkvc answers all 2 prompts that the full cache answers; nearest to failing is b, kept 0.5"));
  rows[3].figures.Set("metric_value", 0.0);
  EXPECT_THAT(HtmlOf(StudyOf(rows)),
              HasSubstr("adkvc fails on 1 of the 2 prompts that the full cache answers. Worst is b, kept 0.5"));
}

TEST(Study, EscapesNamesFromFiles) {
  const std::string html = HtmlOf(StudyOf(
      {LiveRow("<script>x</script>\xff", "<b>", 1, 1), LiveRow("full", "<b>", 1, 1), LiveRow("adkvc", "<b>", 2, 0)}));
  EXPECT_THAT(html, Not(HasSubstr("<script")));
  EXPECT_THAT(html, Not(HasSubstr("<b>,")));
}

TEST(Study, ThrowsWhereThePageCannotBeWritten) {
  EXPECT_THROW(WriteStudyPage(FakeStudy({.layers = 2, .needles = 1, .is_whole = false}), "/no/such/folder/a.html", ""),
               Error);
}

struct VariantCase {
  const char *policy, *factor, *level;
};
TEST(StudyAblation, ReadsTheFactorOffTheSpec) {
  for (const VariantCase& one :
       {VariantCase{"adkvc:tracker=max", "tracker", "tracker=max"},
        {"adkvc+uniform", "allocator", "+uniform"},
        {"adkvc+thresholds:theta_high=1:theta_low=0", "allocator", "+thresholds:theta_high=1:theta_low=0"},
        {"adkvc/block=32", "granularity", "/block=32"},
        {"adkvc@mixed:balance=key", "balance", "@mixed:balance=key"},
        {"adkvc@int4", "store", "@int4"},
        {"adkvc:every=64:prefill_chunk=512", "every and prefill_chunk", "every=64:prefill_chunk=512"}}) {
    ResultRow row;
    row.Set("policy", one.policy);
    const Variant variant = VariantOf(row, "adkvc");
    EXPECT_EQ(variant.factor, one.factor) << one.policy;
    EXPECT_EQ(variant.level, one.level) << one.policy;
    EXPECT_FALSE(variant.is_base || variant.is_other) << one.policy;
  }
  ResultRow row;
  row.Set("policy", "adkvc");
  EXPECT_TRUE(VariantOf(row, "adkvc").is_base);
  row.Set("guard_sinks", 4.0);
  row.Set("guard_recent", 64.0);
  EXPECT_EQ(VariantOf(row, "adkvc").factor, "guards");
  EXPECT_EQ(VariantOf(row, "adkvc").level, "guards 4+64");
  row.Set("policy", "h2o");
  EXPECT_TRUE(VariantOf(row, "adkvc").is_other);
  row.Set("policy", "no spec: at all");
  EXPECT_TRUE(VariantOf(row, "adkvc").is_other);
}

TEST(StudyStatistics, IntervalsHoldTheMeanAndRepeat) {
  std::vector<double> values;
  for (int i = 0; i < 20; ++i) values.push_back(i % 7);
  const auto once = MeanEstimate(values), again = MeanEstimate(values);
  ASSERT_TRUE(once && again);
  EXPECT_LT(once->low, once->value);
  EXPECT_GT(once->high, once->value);
  EXPECT_EQ(once->low, again->low);
  EXPECT_FALSE(MeanEstimate({}));
}

TEST(StudyStatistics, FewValuesTakeStudentsT) {
  const std::vector<double> values{1, 2, 3, 4};  // standard deviation sqrt(5 / 3), t(3) = 3.182
  const auto estimate = MeanEstimate(values);
  ASSERT_TRUE(estimate);
  EXPECT_NEAR(estimate->high, 2.5 + 3.182 * std::sqrt(5.0 / 3) / 2, 1e-12);
  EXPECT_EQ(IsBelow(MeanEstimate(std::vector<double>{-1, -1}), 0), Verdict::kCannotTell);
}

TEST(StudyStatistics, NewcombesIntervalAgreesWithItsPaper) {
  // Table II of the paper, 36 + 12 against 36 + 2 of 50: 0.2, 0.0569 to 0.3404.
  Pairs pairs;
  for (int i = 0; i < 36; ++i) pairs.emplace_back(1, 1);
  for (int i = 0; i < 12; ++i) pairs.emplace_back(1, 0);
  for (int i = 0; i < 2; ++i) pairs.emplace_back(0, 1);
  const auto estimate = ShareDifferenceEstimate(pairs);
  ASSERT_TRUE(estimate);
  EXPECT_NEAR(estimate->value, 0.2, 1e-12);
  EXPECT_NEAR(estimate->low, 0.0569, 5e-5);
  EXPECT_NEAR(estimate->high, 0.3404, 5e-5);
}

TEST(StudyStatistics, NothingFailedIsNoProof) {
  const Pairs all_right(20, {1, 1});
  const auto drop = ShareDifferenceEstimate(all_right);
  ASSERT_TRUE(drop);
  EXPECT_EQ(drop->value, 0);
  EXPECT_EQ(IsBelow(drop, 0.05), Verdict::kCannotTell);
}

TEST(StudyStatistics, WritesSmallDifferencesFiner) {
  EXPECT_EQ(NatsText({-0.0124, -0.02, 0.001, 9}), "\u22120.012 (\u22120.020 to +0.001)");
  EXPECT_EQ(NatsText({1.2, 0.9, 1.5, 9}), "+1.20 (+0.90 to +1.50)");
}

}  // namespace
}  // namespace kvscope
