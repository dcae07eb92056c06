// SPDX-License-Identifier: Apache-2.0
// The hypotheses as statements about figures, and what the figures say.
#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "replay/chart_axis.h"
#include "replay/study_sections.h"

namespace kvscope {
namespace {

constexpr double kPerplexityBar = 0.05, kDropBar = 0.05;

using Answer = Claim::Answer;

// The claims are made for 2x and more; what a policy gets at a fraction nobody ran stays "not run".
template <typename Measure>
Claim MakeClaim(const StudyContext& context, std::string hypothesis, std::string statement, std::string where,
                const Measure& measure) {
  Claim claim{std::move(hypothesis), std::move(statement), std::move(where), {}, {}};
  for (const double fraction : kClaimFractions) claim.answers.push_back(measure(context.method(), fraction));
  for (const std::string& policy : StrongBaselines()) {
    for (const double fraction : kClaimFractions) claim.beside[policy].push_back(measure(policy, fraction));
  }
  return claim;
}

Answer Smaller(const StudyTable& table, const std::string& policy, double fraction) {
  const Cell* cell = table.At(table.LabelOf(policy), fraction);
  if (!cell) return {};
  std::vector<double> shares;
  for (const Results::Row* row : cell->rows) {
    if (const auto kept = row->figures.Number("kept_fraction")) shares.push_back(*kept);
  }
  if (shares.empty()) return {};
  const auto [low, high] = std::minmax_element(shares.begin(), shares.end());
  Answer answer;
  answer.estimate = Estimate{1 / *cell->Mean("kept_fraction"), 1 / *high, 1 / *low, static_cast<int>(shares.size())};
  answer.text = FixedText(answer.estimate->value, 2) + "x";
  // Bytes are counted, not estimated; half a per cent is the rounding to whole entries.
  answer.verdict = *high <= fraction * 1.005 ? Verdict::kYes : Verdict::kNo;
  return answer;
}

std::string WithCount(const Estimate& estimate, const EstimateStyle& style) {
  return EstimateText(estimate, style) + (estimate.n < kFewestPrompts ? "" : StrCat(", n = ", estimate.n));
}

Answer PerplexityRise(const StudyContext& context, const std::string& policy, double fraction) {
  std::vector<std::pair<double, double>> pairs;
  for (const StudyTable& table : context.perplexity) {
    const auto more =
        PairedValues(table.At(table.LabelOf(policy), fraction), table.Fixed(table.LabelOf("full")), "perplexity");
    pairs.insert(pairs.end(), more.begin(), more.end());
  }
  Answer answer;
  answer.estimate = RelativeIncrease(pairs);
  answer.verdict = IsBelow(answer.estimate, kPerplexityBar);
  if (answer.estimate) {
    answer.text = WithCount(*answer.estimate, {.decimals = 1, .factor = 100, .unit = "\u00a0%"});
  }
  return answer;
}

// Points of accuracy lost against the full cache on the same prompts.
Answer Drop(const StudyTable& table, const std::string& policy, double fraction) {
  const auto pairs =
      PairedValues(table.Fixed(table.LabelOf("full")), table.At(table.LabelOf(policy), fraction), "metric_value");
  Answer answer;
  answer.estimate = ShareDifferenceEstimate(pairs);
  answer.verdict = IsBelow(answer.estimate, kDropBar);
  if (answer.estimate) {
    answer.text = WithCount(*answer.estimate, {.decimals = 0, .factor = 100, .unit = " points"});
  }
  return answer;
}

Answer AheadOf(const StudyTable& table, const std::string& policy, const std::string& rival, double fraction) {
  const Duel duel = Fight(table, table.LabelOf(policy), rival, fraction);
  Answer answer;
  answer.estimate = duel.nll;
  answer.verdict = duel.verdict;
  if (duel.nll) answer.text = NatsText(*duel.nll);
  return answer;
}

// A rival that needs more bytes than the largest size of the table of claims is met at the smallest that it fits.
std::optional<double> OnlySize(const StudyTable& table, const std::string& rival) {
  const double largest = *std::max_element(std::begin(kClaimFractions), std::end(kClaimFractions));
  if (table.At(rival, largest)) return std::nullopt;
  std::optional<double> smallest;
  for (const double fraction : table.fractions) {
    if (fraction > largest && table.At(rival, fraction)) smallest = fraction;
  }
  return smallest;
}

void AddDuels(const StudyContext& context, std::vector<Claim>& claims) {
  for (const Rivals& rivals : AllRivals()) {
    for (const std::string& policy : rivals.policies) {
      for (const StudyTable& table : context.main) {
        for (const std::string& rival : table.Labels(policy)) {
          const auto only = OnlySize(table, rival);
          const auto measure = [&](const std::string& mine, double fraction) {
            if (mine == rival || (only && fraction != kClaimFractions[0])) return Answer{};
            return AheadOf(table, mine, rival, only.value_or(fraction));
          };
          const std::string at = only ? StrCat(" (first column: ", FractionText(*only), ")") : "";
          claims.push_back(
              MakeClaim(context, rivals.hypothesis, StrCat(rivals.statement, " ", rival, at), table.Title(), measure));
        }
      }
    }
  }
}

}  // namespace

std::vector<Rivals> AllRivals() {
  return {{"H4", "ahead of", {"int8", "int4", "random", "recent_window"}},
          {"H5", "ahead of", {"h2o", "fastkv", "dynamic_kv"}},
          {"also", "ahead of", StrongBaselines()}};
}

std::string MissingRivals(const StudyContext& context) {
  std::vector<std::string> missing;
  for (const Rivals& rivals : AllRivals()) {
    for (const std::string& policy : rivals.policies) {
      const bool is_there = std::any_of(context.main.begin(), context.main.end(),
                                        [&](const StudyTable& table) { return !table.LabelOf(policy).empty(); });
      if (!is_there) missing.push_back(policy);
    }
  }
  if (missing.empty() || context.main.empty()) return "";
  return StrCat("Not run, so that the claims about ", missing.size() == 1 ? "it" : "them",
                " stay open: ", Listed(missing), ".");
}

Duel Fight(const StudyTable& table, const std::string& method, const std::string& rival, double fraction) {
  const Cell *mine = table.At(method, fraction), *theirs = table.At(rival, fraction);
  Duel duel{rival, fraction, DifferenceEstimate(PairedValues(mine, theirs, "answer_nll")),
            ShareDifferenceEstimate(PairedValues(mine, theirs, "metric_value")), Verdict::kNotRun};
  if (!duel.nll) return duel;
  const Verdict nll = IsBelow(duel.nll, 0);
  const bool fewer_right = duel.accuracy && duel.accuracy->high < 0,
             more_right = duel.accuracy && duel.accuracy->low > 0;
  duel.verdict = nll;
  if ((nll == Verdict::kYes && fewer_right) || (nll == Verdict::kNo && more_right)) duel.verdict = Verdict::kCannotTell;
  return duel;
}

std::vector<Claim> Claims(const StudyContext& context) {
  std::vector<Claim> claims;
  for (const StudyTable& table : context.main) {
    claims.push_back(
        MakeClaim(context, "H1", "the cache is 2, 4 and 10 times smaller (bytes alone)", table.Title(),
                  [&](const std::string& policy, double fraction) { return Smaller(table, policy, fraction); }));
  }
  if (!context.perplexity.empty()) {
    claims.push_back(MakeClaim(
        context, "H2", "perplexity rises by less than 5 %", "all texts",
        [&](const std::string& policy, double fraction) { return PerplexityRise(context, policy, fraction); }));
  }
  for (const StudyTable& table : context.main) {
    claims.push_back(
        MakeClaim(context, "H3", "accuracy drops by less than 5 points", table.Title(),
                  [&](const std::string& policy, double fraction) { return Drop(table, policy, fraction); }));
  }
  AddDuels(context, claims);
  return claims;
}

std::string VerdictRules() {
  return StrCat(
      "A verdict is yes or no only where the whole 95 % interval lies on one side of the bar; else these prompts "
      "cannot "
      "tell, and fewer than ",
      kFewestPrompts,
      " prompts never can. Differences are over the same prompts. Means: percentile bootstrap over prompts with a "
      "fixed "
      "seed, below 8 prompts Student's t; accuracies: Newcombe's paired interval, made of two Wilson "
      "intervals. "
      "Ahead of another policy at equal bytes: the difference in answer NLL lies below 0 and the accuracy is not shown "
      "to be lower. A policy of a fixed size (int8, int4) is compared at the asked sizes that are not below its own.");
}

}  // namespace kvscope
