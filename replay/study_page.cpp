// SPDX-License-Identifier: Apache-2.0
// The page of a study: its sections in order.
#include <filesystem>

#include "core/error.h"
#include "replay/chart_axis.h"
#include "replay/report.h"
#include "replay/study_sections.h"

namespace kvscope {

StudyContext::StudyContext(const Study& all)
    : study(all),
      main(StudyTables(all.Find("main"), {.by_protocol = true})),
      length(StudyTables(all.Find("length"), {.by_context = true})),
      fractions(StudyTables(all.Find("fractions"), {})),
      doors(StudyTables(all.Find("doors"), {})),
      perplexity(StudyTables(all.Find("perplexity"), {.by_context = true, .by_text = true})),
      ablation(StudyTables(all.Find("ablation"), {})) {
  std::vector<StudyTable> tables;
  for (const auto* group : {&main, &length, &fractions, &doors, &perplexity, &ablation}) {
    tables.insert(tables.end(), group->begin(), group->end());
  }
  looks = StudyLooks(study, tables);
}

const StudyTable* StudyContext::Main(std::string_view protocol) const {
  for (const StudyTable& table : main) {
    if (table.protocol == protocol) return &table;
  }
  return nullptr;
}

PolicyLook StudyContext::LookOf(const std::string& label) const {
  const auto look = looks.find(label);
  return look == looks.end() ? PolicyLook{.color = std::string(kInk), .dash = ""} : look->second;
}

bool SayIfMissing(ReportPage& page, const Study& study, std::string_view arm, const std::vector<StudyTable>& tables) {
  if (!tables.empty()) return true;
  const StudyArm* found = study.Find(arm);
  page.Paragraph(found ? StrCat("The arm ", arm, " has no results yet: ", found->prompts_done, " of ",
                                found->prompts_planned, " runs are done.")
                       : StrCat("The study has no arm ", arm, "."));
  return false;
}

std::vector<std::string> WriteStudyPage(const Study& study, const std::string& path, const std::string& pictures) {
  if (!pictures.empty()) {
    std::error_code failure;
    std::filesystem::create_directories(pictures, failure);
    if (failure) throw Error(StrCat(pictures, ": the folder for pictures cannot be made: ", failure.message()));
  }
  const StudyContext context(study);
  ReportPage page(StrCat("Does ", study.method, " keep what it promises?"), pictures);
  const auto section = [&](const char* title, const char* id, void (*write)(ReportPage&, const StudyContext&)) {
    page.BeginSection(title, id);
    write(page, context);
  };
  section("What came out", "findings", WriteStudyHeadline);
  section("Every policy at every size", "grid", WriteStudyGrid);
  section("Other lengths, other sizes, another task", "robustness", WriteStudyRobustness);
  section("Perplexity", "perplexity", WriteStudyPerplexity);
  section("One factor at a time", "ablation", WriteStudyAblation);
  section("Does relevance know the needle?", "relevance", WriteStudyRelevance);
  section("Where it failed", "failures", WriteStudyFailures);
  section("Where replay stops predicting live", "prediction", WriteStudyPrediction);
  section("How this was made", "method", WriteStudyMethod);
  int done = 0, planned = 0;
  for (const StudyArm& arm : study.arms) {
    done += arm.prompts_done;
    planned += arm.prompts_planned;
  }
  WriteWholeFile(path, page.Html(StrCat(study.arms.size(), " arms · ", done, " of ", planned, " runs done")));
  return page.pictures();
}

}  // namespace kvscope
