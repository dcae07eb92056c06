// SPDX-License-Identifier: Apache-2.0
#include "replay/study_sections.h"
namespace kvscope {
void WriteStudyRelevance(ReportPage&, const StudyContext&) {}
void WriteStudyFailures(ReportPage&, const StudyContext&) {}
void WriteStudyPrediction(ReportPage&, const StudyContext&) {}
std::string StudyMarkdown(const Study&) {
  return "";
}
}  // namespace kvscope
