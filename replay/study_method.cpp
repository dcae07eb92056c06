// SPDX-License-Identifier: Apache-2.0
// How the study was made: command, machine, time, prompts per arm, and what its figures cannot say.
#include <algorithm>
#include <set>

#include "core/error.h"
#include "replay/chart_axis.h"
#include "replay/study_sections.h"

namespace kvscope {
namespace {

void ArmTable(ReportPage& page, const StudyContext& context) {
  std::vector<ReportPage::TableRow> rows;
  for (const StudyArm& arm : context.study.arms) {
    size_t live = 0, replay = 0, refused = 0;
    std::set<std::string> policies;
    for (const Results::Row& row : arm.results.rows) {
      policies.insert(row.figures.Text("policy"));
      if (row.figures.Has("refused_reason"))
        ++refused;
      else
        ++(row.figures.Text("mode") == "replay" ? replay : live);
    }
    rows.push_back({{arm.name, arm.question, StrCat(arm.prompts_done, " of ", arm.prompts_planned),
                     StrCat(policies.size()), StrCat(live), StrCat(replay), StrCat(refused)},
                    {true},
                    false,
                    false});
  }
  if (rows.empty()) {
    page.Paragraph("The study has no arms.");
    return;
  }
  page.Table(
      {}, {},
      {{"arm", "", true},
       {"question", "", true},
       {"runs done"},
       {"policies"},
       {"live rows"},
       {"replay rows"},
       {"refused"}},
      rows,
      "A run is one needle or one text under one protocol, with every policy of its arm. Refused: the policy cannot "
      "run on that prompt.");
}

std::vector<std::string> Limits(const StudyContext& context) {
  std::vector<std::string> limits;
  std::set<std::string> models, devices;
  size_t fewest = 0;
  for (const StudyArm& arm : context.study.arms) {
    for (const Results::Row& row : arm.results.rows) {
      if (row.figures.Has("model")) models.insert(row.figures.Text("model"));
      if (row.figures.Has("device")) devices.insert(row.figures.Text("device"));
    }
  }
  for (const StudyTable& table : context.main) {
    const std::string label = table.LabelOf(context.method());
    for (const double fraction : table.fractions) {
      const Cell* cell = table.At(label, fraction);
      if (cell) fewest = fewest == 0 ? cell->rows.size() : std::min(fewest, cell->rows.size());
    }
  }
  if (!models.empty()) {
    limits.push_back(StrCat("Models: ", Listed({models.begin(), models.end()}), "; computed on ",
                            devices.empty() ? "an unnamed device" : Listed({devices.begin(), devices.end()}),
                            ". Nothing here says how a larger model behaves."));
  }
  if (fewest > 0) {
    const Interval perfect = WilsonInterval(static_cast<double>(fewest), static_cast<double>(fewest));
    limits.push_back(StrCat("The smallest cell of the main arm has ", fewest, fewest == 1 ? " needle" : " needles",
                            ": even if all are found, the true share may be as low as ", PercentText(perfect.low),
                            " (Wilson, 95\u00a0%). Needles at several depths are pooled as if they were alike."));
  }
  limits.emplace_back(
      "Sizes are those right after the decision. Unless a policy compresses during prefill, the full cache exists "
      "until "
      "then.");
  limits.emplace_back(
      "Caches are computed with as they would be stored, but packing and unpacking are not tuned: tokens per second "
      "compare variants of one program, not products.");
  return limits;
}

}  // namespace

void WriteStudyMethod(ReportPage& page, const StudyContext& context) {
  const Study& study = context.study;
  if (!study.command.empty()) page.Code({study.command});
  std::string text = study.machine.empty() ? "The machine is not named." : "Machine: " + study.machine + ".";
  if (study.hours > 0) text += StrCat(" Computed in ", NumberText(study.hours, 3), " hours.");
  page.Paragraph(text);
  ArmTable(page, context);
  page.Subheading("Known limits");
  page.List(Limits(context));
  std::set<std::string> refusals;
  for (const StudyArm& arm : study.arms) {
    for (const Results::Row& row : arm.results.rows) {
      if (row.figures.Has("refused_reason"))
        refusals.insert(StrCat(arm.name, ": ", row.figures.Text("policy"), ": ", row.figures.Text("refused_reason")));
    }
  }
  if (refusals.empty()) return;
  page.Subheading("Not run");
  page.List({refusals.begin(), refusals.end()});
}

}  // namespace kvscope
