// SPDX-License-Identifier: Apache-2.0
#include "replay/study_statistics.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "core/error.h"
#include "core/results.h"
#include "replay/chart_axis.h"

namespace kvscope {
namespace {

constexpr size_t kFewestForBootstrap = 8;
// 97.5 % points of Student's t with n - 1 degrees of freedom, n = 3 ... 7.
constexpr double kStudent[] = {4.303, 3.182, 2.776, 2.571, 2.447};

}  // namespace

std::optional<Estimate> MeanEstimate(std::span<const double> values, uint64_t seed, int draws) {
  if (values.empty()) return std::nullopt;
  const auto count = static_cast<double>(values.size());
  Estimate estimate;
  estimate.n = static_cast<int>(values.size());
  for (const double value : values) estimate.value += value / count;
  if (values.size() < kFewestForBootstrap) {
    double squares = 0;
    for (const double value : values) squares += (value - estimate.value) * (value - estimate.value);
    const double error = values.size() < 2 ? 0 : std::sqrt(squares / (count - 1) / count);
    const double half = estimate.n < kFewestPrompts ? 0 : kStudent[estimate.n - kFewestPrompts] * error;
    estimate.low = estimate.value - half;
    estimate.high = estimate.value + half;
    return estimate;
  }
  std::mt19937_64 random(seed);
  std::vector<double> means;
  for (int draw = 0; draw < draws; ++draw) {
    double sum = 0;
    for (size_t i = 0; i < values.size(); ++i) sum += values[random() % values.size()];
    means.push_back(sum / count);
  }
  std::sort(means.begin(), means.end());
  const auto last = static_cast<double>(means.size() - 1);
  estimate.low = means[static_cast<size_t>(std::floor(0.025 * last))];
  estimate.high = means[static_cast<size_t>(std::ceil(0.975 * last))];
  return estimate;
}

std::optional<Estimate> DifferenceEstimate(std::span<const std::pair<double, double>> pairs) {
  std::vector<double> differences;
  for (const auto& [first, second] : pairs) differences.push_back(first - second);
  return MeanEstimate(differences);
}

std::optional<Estimate> ShareDifferenceEstimate(std::span<const std::pair<double, double>> pairs) {
  if (pairs.empty()) return std::nullopt;
  const auto is_answer = [](double value) { return value == 0 || value == 1; };
  double both = 0, first_only = 0, second_only = 0, neither = 0;
  for (const auto& [first, second] : pairs) {
    if (!is_answer(first) || !is_answer(second)) return DifferenceEstimate(pairs);
    (first == 1 ? (second == 1 ? both : first_only) : (second == 1 ? second_only : neither)) += 1;
  }
  const auto n = static_cast<double>(pairs.size());
  const double first = (both + first_only) / n, second = (both + second_only) / n;
  const Interval a = WilsonInterval(both + first_only, n), b = WilsonInterval(both + second_only, n);
  const double margins = (both + first_only) * (second_only + neither) * (both + second_only) * (first_only + neither);
  double product = both * neither - first_only * second_only;
  if (product > 0) product = std::max(product - n / 2, 0.0);
  const double phi = margins > 0 ? product / std::sqrt(margins) : 0;
  const auto half = [&](double da, double db) {
    return std::sqrt(std::max(0.0, da * da - 2 * phi * da * db + db * db));
  };
  const double value = first - second;
  return Estimate{value, value - half(first - a.low, b.high - second), value + half(a.high - first, second - b.low),
                  static_cast<int>(pairs.size())};
}

Verdict IsBelow(const std::optional<Estimate>& estimate, double bar) {
  if (!estimate) return Verdict::kNotRun;
  if (estimate->n < kFewestPrompts) return Verdict::kCannotTell;
  if (estimate->high < bar) return Verdict::kYes;
  return estimate->low > bar ? Verdict::kNo : Verdict::kCannotTell;
}

std::string VerdictText(Verdict verdict) {
  switch (verdict) {
    case Verdict::kYes:
      return "yes";
    case Verdict::kNo:
      return "no";
    case Verdict::kCannotTell:
      return "cannot tell";
    case Verdict::kNotRun:
      return "not run";
  }
  return "";
}

std::string SignedText(double value, const EstimateStyle& style) {
  const std::string text = FixedText(std::fabs(value * style.factor), style.decimals);
  const bool is_zero = text.find_first_not_of("0.,") == std::string::npos;
  if (is_zero) return text;
  return (value < 0 ? "\u2212" : style.has_sign ? "+" : "") + text;
}

std::string EstimateText(const Estimate& estimate, const EstimateStyle& style) {
  if (estimate.n < kFewestPrompts)
    return StrCat(SignedText(estimate.value, style), style.unit, " (n = ", estimate.n, ")");
  return StrCat(SignedText(estimate.value, style), style.unit, " (", SignedText(estimate.low, style), " to ",
                SignedText(estimate.high, style), ")");
}

std::string NatsText(const Estimate& estimate) {
  const double largest = std::max({std::fabs(estimate.value), std::fabs(estimate.low), std::fabs(estimate.high)});
  return EstimateText(estimate, {largest < 0.095 ? 3 : 2});
}

}  // namespace kvscope
