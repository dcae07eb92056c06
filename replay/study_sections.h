// SPDX-License-Identifier: Apache-2.0
// The sections of a study's page, one file per theme. Each writes what its arm allows and says what is missing.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "replay/chart_lines.h"
#include "replay/report_page.h"
#include "replay/study_data.h"

namespace kvscope {

// A study with its rows set beside each other.
struct StudyContext {
  const Study& study;
  std::vector<StudyTable> main;        // one per protocol
  std::vector<StudyTable> length;      // one per context
  std::vector<StudyTable> fractions;   // at most one
  std::vector<StudyTable> doors;       // at most one
  std::vector<StudyTable> perplexity;  // one per text and context
  std::vector<StudyTable> ablation;    // at most one
  std::map<std::string, PolicyLook> looks;

  explicit StudyContext(const Study& study);
  const StudyTable* Main(std::string_view protocol) const;
  PolicyLook LookOf(const std::string& label) const;
  const std::string& method() const { return study.method; }
};

// Writes what is missing of an arm that has nothing to show; false where it has rows.
bool SayIfMissing(ReportPage& page, const Study& study, std::string_view arm, const std::vector<StudyTable>& tables);

// One statement that the study puts to the test, under one protocol or on all texts.
struct Claim {
  std::string hypothesis, statement, where;
  struct Answer {
    std::optional<Estimate> estimate;
    std::string text;  // the estimate as people read it
    Verdict verdict = Verdict::kNotRun;
  };
  std::vector<Answer> answers;                        // one per fraction
  std::map<std::string, std::vector<Answer>> beside;  // what the strong baselines get in the method's place
};
inline constexpr double kClaimFractions[] = {0.5, 0.25, 0.1};
std::vector<Claim> Claims(const StudyContext& context);
std::string VerdictRules();
// "+0.2 / +1.4 / –": what a strong baseline gets, the values alone, one per fraction.
std::string BesideText(const Claim& claim, const std::string& policy);

// The method against one rival at one fraction, over the same prompts.
struct Duel {
  std::string rival;
  double fraction = 0;
  std::optional<Estimate> nll;       // method - rival, nats: below 0 is ahead
  std::optional<Estimate> accuracy;  // method - rival: above 0 is ahead
  Verdict verdict = Verdict::kNotRun;
};
// Ahead: the interval of the NLL lies below 0 and that of the accuracy not below 0; behind: the mirror image.
Duel Fight(const StudyTable& table, const std::string& method, const std::string& rival, double fraction);
struct Rivals {
  std::string hypothesis, statement;
  std::vector<std::string> policies;
};
std::vector<Rivals> AllRivals();
std::string MissingRivals(const StudyContext& context);  // a sentence; empty where all were run

// Sentences about the whole, made from the data.
std::vector<std::string> StudyFindings(const StudyContext& context, const std::vector<Claim>& claims);

void WriteStudyHeadline(ReportPage& page, const StudyContext& context);
void WriteStudyGrid(ReportPage& page, const StudyContext& context);
void WriteStudyDuels(ReportPage& page, const StudyContext& context, const StudyTable& table);
void WriteStudyRobustness(ReportPage& page, const StudyContext& context);  // length, fractions, doors
void WriteStudyPerplexity(ReportPage& page, const StudyContext& context);
void WriteStudyAblation(ReportPage& page, const StudyContext& context);
// The chart of answer NLL along the half-life, from TOVA's end to H2O's.
void WriteHalfLifePath(ReportPage& page, const StudyContext& context, const StudyTable& ablation);
void WriteStudyRelevance(ReportPage& page, const StudyContext& context);
void WriteStudyFailures(ReportPage& page, const StudyContext& context);
void WriteStudyPrediction(ReportPage& page, const StudyContext& context);
void WriteStudyMethod(ReportPage& page, const StudyContext& context);

// Labels of a table to draw by name: the method, the strong baselines, full, random and the oracle, and the best of the
// rest by mean answer NLL; all where they are few.
std::vector<std::string> NamedLabels(const StudyContext& context, const StudyTable& table, std::string_view column);
// Series of one figure against the kept share; nullopt where fewer than two have a point.
struct StudyPlot {
  const char *column, *label;
  Unit unit = Unit::kPlain;
};
std::optional<LineChartSpec> FractionChart(const StudyContext& context, const StudyTable& table, const StudyPlot& plot);
// Names of the series that are drawn without one, best first.
std::vector<std::string> QuietNames(const LineChartSpec& spec, bool low_is_good);

}  // namespace kvscope
