// SPDX-License-Identifier: Apache-2.0
// Does what the method tracks know the needle, before the question is read and after?
#include <algorithm>
#include <cmath>
#include <map>

#include "core/error.h"
#include "replay/chart_axis.h"
#include "replay/report_sections.h"
#include "replay/study_sections.h"

namespace kvscope {
namespace {

constexpr std::string_view kBeforeEnd = "_before_question", kBeforeStart = "before_";

// One tracker's AUC by layer and head, means over traces.
struct Tracker {
  std::string name;
  std::optional<NamedArray> before, after;
};

std::vector<Tracker> Trackers(const ReportData& data) {
  std::vector<Tracker> trackers;
  for (const AucStat& stat : AucStats(data)) {
    std::string name = stat.name;
    bool is_before = false;
    if (name.ends_with(kBeforeEnd)) {
      name.resize(name.size() - kBeforeEnd.size());
      is_before = true;
    } else if (name.starts_with(kBeforeStart)) {
      name.erase(0, kBeforeStart.size());
      is_before = true;
    }
    auto tracker = std::find_if(trackers.begin(), trackers.end(), [&](const auto& one) { return one.name == name; });
    if (tracker == trackers.end()) tracker = trackers.insert(trackers.end(), {name, {}, {}});
    (is_before ? tracker->before : tracker->after) = stat.mean;
  }
  return trackers;
}

struct AucSummary {
  double mean = 0, best = 0;
  int high = 0, heads = 0;  // high: heads of at least 0.9
  std::string where;        // "layer 3, head 2"
};

std::optional<AucSummary> SummaryOf(const ReportData& data, const std::optional<NamedArray>& auc) {
  if (!auc) return std::nullopt;
  AucSummary summary;
  size_t best = 0;
  for (size_t i = 0; i < auc->values.size(); ++i) {
    const double value = auc->values[i];
    if (!std::isfinite(value)) continue;
    if (summary.heads == 0 || value > summary.best) {
      summary.best = value;
      best = i;
    }
    ++summary.heads;
    summary.high += value >= 0.9;
  }
  if (summary.heads == 0) return std::nullopt;
  summary.mean = MeanOf(*auc);
  const auto heads = static_cast<size_t>(auc->shape[1]);
  summary.where = StrCat("layer ", AxisNames(data, "layer_numbers", static_cast<size_t>(auc->shape[0]))[best / heads],
                         ", head ", AxisNames(data, "head_numbers", heads)[best % heads]);
  return summary;
}

void AucTable(ReportPage& page, const ReportData& data, const std::vector<Tracker>& trackers) {
  std::vector<ReportPage::TableRow> rows;
  for (const Tracker& tracker : trackers) {
    ReportPage::TableRow row{{tracker.name}, {}, false, false};
    for (const auto* auc : {&tracker.before, &tracker.after}) {
      const auto summary = SummaryOf(data, *auc);
      row.cells.push_back(summary ? FixedText(summary->mean, 2) : "–");
      row.cells.push_back(summary ? StrCat(FixedText(summary->best, 2), " (", summary->where, ")") : "–");
      row.cells.push_back(summary ? StrCat(summary->high, " of ", summary->heads) : "–");
    }
    rows.push_back(std::move(row));
  }
  page.Table({"", "before the question", "after the question"}, {1, 3, 3},
             {{"relevance by", "sum: all queries; lastN: the last N; emaN: moving average of half-life N", true},
              {"mean AUC", "over layers and heads"},
              {"best head"},
              {"0.9 or more in"},
              {"mean AUC", "over layers and heads"},
              {"best head"},
              {"0.9 or more in"}},
             rows,
             "AUC: how often a needle token ranks above another token of the context. 1: always; 0.5: chance. "
             "Means over prompts.");
}

void AucMaps(ReportPage& page, const ReportData& data, const std::vector<Tracker>& trackers) {
  MatrixChartSpec spec;
  spec.alt = "AUC of relevance for needle tokens, by layer and head, before and after the question";
  for (const Tracker& tracker : trackers) {
    for (const auto* auc : {&tracker.before, &tracker.after}) {
      MatrixPanel panel;
      if (*auc) panel = HeadPanel(**auc);
      if (*auc) panel.note = "mean " + FixedText(MeanOf(**auc), 2);
      panel.title = tracker.name;
      spec.panels.push_back(std::move(panel));
    }
  }
  spec.panels_across = 2;
  spec.headers = {"before the question", "after the question"};
  spec.titles_left = true;
  NameAxes(data, HeadAxis::kHeads, 330, spec);
  spec.diverging = true;
  spec.scale_label = "AUC: needle tokens ranked above the rest";
  page.Figure("relevance_auc", MatrixChart(spec),
              "Where relevance knows the needle: orange heads rank its tokens above the rest, blue ones (with a dot) "
              "below. Before the question it can only know by chance or by oddity; what it knows after, a policy "
              "that decides before the question cannot use.");
}

std::string AucSentence(const ReportData& data, const std::vector<Tracker>& trackers) {
  std::vector<std::string> parts;
  for (const Tracker& tracker : trackers) {
    const auto before = SummaryOf(data, tracker.before), after = SummaryOf(data, tracker.after);
    if (!before && !after) continue;
    parts.push_back(StrCat(tracker.name, " ", before ? FixedText(before->mean, 2) : "not measured", " before and ",
                           after ? FixedText(after->mean, 2) : "not measured", " after"));
  }
  return StrCat("Mean AUC over all heads: ", Listed(parts), ".");
}

}  // namespace

void WriteStudyRelevance(ReportPage& page, const StudyContext& context) {
  const StudyArm* arm = context.study.Find("main");
  ReportData data;
  if (arm) {
    for (const Results::Trace& trace : arm->results.traces) data.traces.push_back(&trace);
  }
  const std::vector<Tracker> trackers = Trackers(data);
  if (trackers.empty()) {
    page.Paragraph("Not measured: no replayed prompt of the main arm says how relevance ranks the needle.");
    return;
  }
  page.Paragraph(StrCat(AucSentence(data, trackers), " Over ", data.traces.size(),
                        data.traces.size() == 1 ? " prompt." : " prompts."));
  AucMaps(page, data, trackers);
  AucTable(page, data, trackers);
}

}  // namespace kvscope
