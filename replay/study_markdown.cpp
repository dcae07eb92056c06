// SPDX-License-Identifier: Apache-2.0
// The study in short, as Markdown: hypotheses, the main table at two sizes, sentences, and how to repeat it.
#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "replay/chart_axis.h"
#include "replay/study_sections.h"

namespace kvscope {
namespace {

constexpr size_t kMostSentences = 10, kMostPolicies = 32;
constexpr double kShown[] = {0.5, 0.25};

std::string TableLine(const std::vector<std::string>& cells) {
  std::string line = "|";
  for (std::string cell : cells) {
    for (size_t bar = cell.find('|'); bar != std::string::npos; bar = cell.find('|', bar + 2)) cell.insert(bar, "\\");
    line += " " + cell + " |";
  }
  return line + "\n";
}

std::string Rule(size_t left, size_t columns) {
  std::vector<std::string> cells(columns, "---:");
  std::fill_n(cells.begin(), std::min(left, columns), "---");
  return TableLine(cells);
}

std::string ClaimsMarkdown(const std::vector<Claim>& claims) {
  std::vector<std::string> header{"", "claim", "when or where"};
  for (const double fraction : kClaimFractions) header.push_back(FractionText(fraction));
  for (const std::string& policy : StrongBaselines()) header.push_back("`" + policy + "`");
  std::string text = TableLine(header) + Rule(header.size(), header.size());
  for (const Claim& claim : claims) {
    std::vector<std::string> cells{claim.hypothesis, claim.statement, claim.where};
    for (const Claim::Answer& answer : claim.answers) {
      cells.push_back(
          answer.verdict == Verdict::kNotRun ? "–" : StrCat("**", VerdictText(answer.verdict), "** ", answer.text));
    }
    for (const std::string& policy : StrongBaselines()) cells.push_back(BesideText(claim, policy));
    text += TableLine(cells);
  }
  return text;
}

std::string MainMarkdown(const StudyContext& context) {
  std::vector<std::string> header{"policy"};
  std::vector<PolicyName> names;
  for (const StudyTable& table : context.main) {
    for (const double fraction : kShown) {
      const std::string when = table.Title();
      header.push_back(StrCat(when, when.empty() ? "" : ", ", FractionText(fraction)));
    }
    for (const PolicyName& name : table.data.policies) {
      const auto same = [&](const PolicyName& other) { return other.label == name.label; };
      if (std::none_of(names.begin(), names.end(), same)) names.push_back(name);
    }
  }
  const auto text_of = [&](const StudyTable& table, const PolicyName& name, double fraction) {
    const Cell* cell = table.At(name.label, fraction);
    if (!cell && name.policy == "full") cell = table.Fixed(name.label);
    return cell ? StrCat(CountOf(cell), ", ", MeanText(cell, "answer_nll")) : std::string("–");
  };
  const auto merit = [&](const PolicyName& name) {
    double sum = 0, count = 0;
    for (const StudyTable& table : context.main) {
      for (const double fraction : kShown) {
        const Cell* cell = name.policy == "full" ? table.Fixed(name.label) : table.At(name.label, fraction);
        if (const auto nll = cell ? cell->Mean("answer_nll") : std::nullopt) {
          sum += *nll;
          ++count;
        }
      }
    }
    return count > 0 ? sum / count : 1e300;
  };
  std::stable_sort(names.begin(), names.end(), [&](const auto& a, const auto& b) { return merit(a) < merit(b); });
  const size_t left_out = names.size() > kMostPolicies ? names.size() - kMostPolicies : 0;
  names.resize(names.size() - left_out);
  std::string text = TableLine(header) + Rule(1, header.size());
  for (const PolicyName& name : names) {
    std::vector<std::string> cells{name.policy == context.method() ? StrCat("**`", name.label, "`**")
                                                                   : StrCat("`", name.label, "`")};
    for (const StudyTable& table : context.main) {
      for (const double fraction : kShown) cells.push_back(text_of(table, name, fraction));
    }
    text += TableLine(cells);
  }
  if (left_out > 0) text += StrCat("\n", left_out, " more are on the page.\n");
  return text;
}

std::string Repeat(const Study& study) {
  std::string text = "## To repeat it\n\n";
  if (study.command.empty()) {
    text += "The study does not say how it was started.\n";
  } else {
    text += StrCat("    ", study.command, "\n");
  }
  text += StrCat("\n", study.machine.empty() ? "The machine is not named." : "Machine: " + study.machine + ".");
  if (study.hours > 0) text += StrCat(" Computed in ", NumberText(study.hours, 3), " hours.");
  std::vector<std::string> arms;
  for (const StudyArm& arm : study.arms)
    arms.push_back(StrCat(arm.name, " ", arm.prompts_done, " of ", arm.prompts_planned));
  if (!arms.empty()) text += " Runs done: " + Listed(arms) + ".";
  return text + "\n";
}

}  // namespace

std::string StudyMarkdown(const Study& study) {
  const StudyContext context(study);
  const std::vector<Claim> claims = Claims(context);
  auto sentences = StudyFindings(context, claims);
  if (sentences.size() > kMostSentences) sentences.resize(kMostSentences);
  std::string text = StrCat("# Does ", study.method, " keep what it promises?\n\n");
  if (sentences.empty()) text += "No arm has results yet, so nothing can be said about the hypotheses.\n\n";
  for (const std::string& sentence : sentences) text += "- " + sentence + "\n";
  if (const std::string missing = MissingRivals(context); !missing.empty()) text += "- " + missing + "\n";
  if (!claims.empty()) {
    text += StrCat("\n## Hypotheses\n\n", ClaimsMarkdown(claims), "\n", VerdictRules(),
                   " The last two columns put the strong baselines in the method's place, values only.\n");
  }
  if (!context.main.empty()) {
    text += StrCat("\n## Right answers and answer NLL (nats per token)\n\n", MainMarkdown(context), "\n");
  }
  return text + (claims.empty() ? "" : "\n") + Repeat(study);
}

}  // namespace kvscope
