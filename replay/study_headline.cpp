// SPDX-License-Identifier: Apache-2.0
// What came out: sentences, the table of hypotheses, and the differences from each rival.
#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "replay/chart_axis.h"
#include "replay/chart_strips.h"
#include "replay/study_sections.h"

namespace kvscope {
namespace {

std::string AnswerText(const Claim::Answer& answer) {
  if (answer.verdict == Verdict::kNotRun) return "–";
  return VerdictText(answer.verdict) + ": " + answer.text;
}

void ClaimsTable(ReportPage& page, const StudyContext& context, const std::vector<Claim>& claims) {
  std::vector<ReportPage::Column> columns{{"", "", true}, {"claim", "", true}, {"when or where", "", true}};
  for (const double fraction : kClaimFractions)
    columns.push_back({FractionText(fraction), "verdict, value and 95 % interval", true});
  for (const std::string& policy : StrongBaselines())
    columns.push_back({policy, "the same claim with this policy in the method's place: values only", true});
  std::vector<ReportPage::TableRow> rows;
  std::string last;
  for (const Claim& claim : claims) {
    ReportPage::TableRow row;
    row.starts_block = claim.hypothesis != last;
    row.cells = {claim.hypothesis == last ? "" : claim.hypothesis, claim.statement, claim.where};
    last = claim.hypothesis;
    row.strong = {true, false, false};
    for (const Claim::Answer& answer : claim.answers) {
      row.cells.push_back(AnswerText(answer));
      row.strong.push_back(answer.verdict == Verdict::kNo);
    }
    for (const std::string& policy : StrongBaselines()) row.cells.push_back(BesideText(claim, policy));
    rows.push_back(std::move(row));
  }
  page.Table(
      {"", context.method(), "in its place, at the same three sizes"}, {3, 3, 2}, columns, rows,
      "H4, H5 and the last block: mean difference in answer NLL, nats per token, over the same prompts; minus is "
      "ahead. H1: times smaller than the fp16 cache right after the decision, scales and state included. H3: "
      "points of accuracy lost against the full cache. Refuted claims are bold. " +
          VerdictRules());
}

constexpr double kBarely = 0.05;  // nats per token

struct Tally {
  int ahead = 0, behind = 0, open = 0;
  int barely = 0;  // ahead by less than kBarely
  std::vector<std::string> behind_names;
};

Tally TallyOf(const StudyContext& context, const std::string& hypothesis) {
  Tally tally;
  for (const Rivals& rivals : AllRivals()) {
    if (rivals.hypothesis != hypothesis) continue;
    for (const StudyTable& table : context.main) {
      const std::string method = table.LabelOf(context.method());
      for (const std::string& policy : rivals.policies) {
        for (const std::string& rival : table.Labels(policy)) {
          for (const double fraction : table.fractions) {
            const Duel duel = Fight(table, method, rival, fraction);
            tally.ahead += duel.verdict == Verdict::kYes;
            tally.barely += duel.verdict == Verdict::kYes && duel.nll->value > -kBarely;
            tally.open += duel.verdict == Verdict::kCannotTell;
            if (duel.verdict != Verdict::kNo) continue;
            ++tally.behind;
            tally.behind_names.push_back(StrCat(rival, " at ", fraction, " (", table.Title(), ")"));
          }
        }
      }
    }
  }
  return tally;
}

std::string TallySentence(const StudyContext& context, const std::string& hypothesis, const std::string& rivals) {
  const Tally tally = TallyOf(context, hypothesis);
  const int all = tally.ahead + tally.behind + tally.open;
  if (all == 0) return "";
  std::string text = StrCat("Against ", rivals, " at equal bytes, ", context.method(), " has the lower answer NLL in ",
                            tally.ahead, " of ", all, " comparisons (rival, size, protocol)",
                            tally.barely ? StrCat(", ", tally.barely, " of them by less than ", kBarely, " nats") : "",
                            ", the higher in ", tally.behind, "; ", tally.open, " cannot be told apart");
  if (tally.behind > 0) {
    auto names = tally.behind_names;
    const size_t more = names.size() > 4 ? names.size() - 4 : 0;
    if (more > 0) names.resize(4);
    if (more > 0) names.push_back(StrCat(more, " more"));
    text += "; behind " + Listed(names);
  }
  return text + ".";
}

std::string AccuracySentence(const StudyContext& context) {
  std::vector<std::string> parts;
  for (const StudyTable& table : context.main) {
    const Cell* full = table.Fixed(table.LabelOf("full"));
    std::vector<std::string> counts;
    for (const double fraction : table.fractions) {
      const Cell* mine = table.At(table.LabelOf(context.method()), fraction);
      if (mine && mine->PooledAccuracy()) counts.push_back(StrCat(CountOf(mine), " at ", fraction));
    }
    if (counts.empty()) continue;
    std::string part = StrCat(table.Title(), ": ", Listed(counts), " of the bytes (full cache ", CountOf(full));
    for (const std::string& policy : StrongBaselines()) {
      std::vector<std::string> theirs;
      for (const double fraction : table.fractions)
        theirs.push_back(CountOf(table.At(table.LabelOf(policy), fraction)));
      if (!table.LabelOf(policy).empty()) part += StrCat("; ", policy, " ", Listed(theirs));
    }
    parts.push_back(part + ")");
  }
  if (parts.empty()) return "";
  std::string text = StrCat("Right answers of ", context.method(), ", ");
  for (size_t i = 0; i < parts.size(); ++i) text += (i ? "; " : "") + parts[i];
  return text + ".";
}

// Where the method stands among all policies by mean answer NLL over the prompts that all of them have.
std::string RankSentence(const StudyContext& context, const StudyTable& table, double fraction) {
  std::vector<std::pair<double, std::string>> order;
  const std::string method = table.LabelOf(context.method());
  for (const PolicyName& name : table.data.policies) {
    const Cell* cell = table.At(name.label, fraction);
    const auto nll = cell ? cell->Mean("answer_nll") : std::nullopt;
    if (nll && name.policy.find("oracle") == std::string::npos) order.emplace_back(*nll, name.label);
  }
  std::sort(order.begin(), order.end());
  const auto mine = std::find_if(order.begin(), order.end(), [&](const auto& one) { return one.second == method; });
  if (mine == order.end() || order.size() < 3) return "";
  std::string text =
      StrCat("At ", fraction, " of the bytes, ", table.Title(), ", ", method, " is number ", mine - order.begin() + 1,
             " of ", order.size(), " policies by mean answer NLL (", NumberText(mine->first), " nats); ");
  if (mine == order.begin()) {
    text += StrCat("next comes ", order[1].second, " (", NumberText(order[1].first), ")");
  } else {
    text += StrCat("first is ", order[0].second, " (", NumberText(order[0].first), ")");
  }
  return text + ".";
}

std::string PerplexitySentence(const StudyContext& context, const std::vector<Claim>& claims) {
  const auto claim = std::find_if(claims.begin(), claims.end(), [](const auto& one) { return one.hypothesis == "H2"; });
  if (claim == claims.end()) return "";
  std::vector<std::string> parts;
  for (size_t i = 0; i < claim->answers.size(); ++i) {
    const Claim::Answer& answer = claim->answers[i];
    if (!answer.estimate) continue;
    std::string part =
        StrCat(SignedText(answer.estimate->value, {.decimals = 1, .factor = 100}), "\u00a0% at ", kClaimFractions[i]);
    std::vector<std::string> others;
    for (const std::string& policy : StrongBaselines()) {
      const auto& other = claim->beside.at(policy)[i].estimate;
      if (other)
        others.push_back(StrCat(policy, " ", SignedText(other->value, {.decimals = 1, .factor = 100}), "\u00a0%"));
    }
    if (!others.empty()) part += StrCat(" (", Listed(others), ")");
    parts.push_back(part);
  }
  if (parts.empty()) return "";
  return StrCat("Perplexity over the full cache's with ", context.method(), ": ", Listed(parts), ".");
}

void DuelChart(ReportPage& page, const StudyContext& context, const StudyTable& table) {
  IntervalChartSpec spec;
  spec.x_label = "difference in answer NLL, nats";
  spec.unit = Unit::kPlain;
  spec.level = 0;
  double low = -0.1, high = 0.1;
  const std::string method = table.LabelOf(context.method());
  std::vector<double> fractions;
  for (const double fraction : {0.5, 0.25}) {
    if (std::find(table.fractions.begin(), table.fractions.end(), fraction) != table.fractions.end())
      fractions.push_back(fraction);
  }
  for (const Rivals& rivals : AllRivals()) {
    for (const std::string& policy : rivals.policies) {
      for (const std::string& rival : table.Labels(policy)) {
        IntervalChartSpec::Row row{rival, context.LookOf(rival), {}};
        bool any = false;
        for (const double fraction : fractions) {
          const Duel duel = Fight(table, method, rival, fraction);
          row.marks.emplace_back();
          if (!duel.nll) continue;
          any = true;
          row.marks.back() =
              IntervalChartSpec::Mark{duel.nll->value, duel.nll->low, duel.nll->high, NatsText(*duel.nll)};
          low = std::min(low, duel.nll->low);
          high = std::max(high, duel.nll->high);
        }
        if (any) spec.rows.push_back(std::move(row));
      }
    }
  }
  if (spec.rows.empty()) return;
  const Scale axis = NiceScale(low, high, false, Unit::kPlain);
  spec.low = axis.low;
  spec.high = axis.high;
  for (const double fraction : fractions) spec.panels.push_back(FractionText(fraction));
  page.Figure("duels_" + (table.protocol.empty() ? std::string("all") : table.protocol), IntervalChart(spec),
              StrCat(context.method(), " minus each rival, ", table.Title(),
                     ": mean difference in answer NLL over the same prompts with its 95 % interval. Left of the black "
                     "line ",
                     context.method(), " is ahead. Intervals that touch the line decide nothing."));
}

}  // namespace

std::string BesideText(const Claim& claim, const std::string& policy) {
  std::string text;
  for (const Claim::Answer& answer : claim.beside.at(policy)) {
    const std::string value = answer.verdict == Verdict::kNotRun ? "–" : answer.text.substr(0, answer.text.find(" ("));
    text += (text.empty() ? "" : " / ") + value;
  }
  return text;
}

std::vector<std::string> StudyFindings(const StudyContext& context, const std::vector<Claim>& claims) {
  std::vector<std::string> sentences;
  for (const std::string& text : {AccuracySentence(context), PerplexitySentence(context, claims),
                                  TallySentence(context, "H4", "uniform INT8 and INT4, random and recency"),
                                  TallySentence(context, "H5", "H2O, FastKV and DynamicKV"),
                                  TallySentence(context, "also", "snapkv@int4 and h2o@int4")}) {
    if (!text.empty()) sentences.push_back(text);
  }
  for (const double fraction : {0.25, 0.5}) {
    for (const StudyTable& table : context.main) {
      if (const std::string text = RankSentence(context, table, fraction); !text.empty()) sentences.push_back(text);
    }
  }
  return sentences;
}

void WriteStudyHeadline(ReportPage& page, const StudyContext& context) {
  const std::vector<Claim> claims = Claims(context);
  const auto sentences = StudyFindings(context, claims);
  if (const std::string missing = MissingRivals(context); !missing.empty()) page.Paragraph(missing);
  if (sentences.empty()) page.Paragraph("No arm has results yet, so nothing can be said about the hypotheses.");
  page.List({sentences.begin(), sentences.begin() + static_cast<int64_t>(std::min<size_t>(sentences.size(), 7))});
  if (claims.empty()) return;
  page.Subheading("The hypotheses");
  ClaimsTable(page, context, claims);
  for (const StudyTable& table : context.main) DuelChart(page, context, table);
}

}  // namespace kvscope
