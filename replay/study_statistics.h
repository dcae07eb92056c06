// SPDX-License-Identifier: Apache-2.0
// What a study may conclude from few prompts: estimates with intervals, and verdicts that need the whole interval.
//   mean differences over the same prompts    percentile bootstrap over prompts, fixed seed; below 8 prompts, where
//                                             resamples are too few, Student's t
//   shares (k of n)                           Wilson's interval
//   differences of shares, same prompts       R. G. Newcombe, 1998 (paired, method 10: from two Wilson intervals)
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>

namespace kvscope {

struct Estimate {
  double value = 0;
  double low = 0, high = 0;  // 95 %
  int n = 0;
};

// Fewer decide nothing, and have no interval.
inline constexpr int kFewestPrompts = 3;

std::optional<Estimate> MeanEstimate(std::span<const double> values, uint64_t seed = 1, int draws = 4000);
// Mean of first - second over prompts.
std::optional<Estimate> DifferenceEstimate(std::span<const std::pair<double, double>> pairs);
// The same of answers that are right (1) or wrong (0); pairs of other values go to DifferenceEstimate.
std::optional<Estimate> ShareDifferenceEstimate(std::span<const std::pair<double, double>> pairs);

enum class Verdict { kYes, kNo, kCannotTell, kNotRun };
// Is the quantity below `bar`? Yes or no only where the whole interval is on one side.
Verdict IsBelow(const std::optional<Estimate>& estimate, double bar);
std::string VerdictText(Verdict verdict);  // "yes", "no", "cannot tell", "not run"

// "−0.12 (−0.30 to 0.05)", or "−0.12 (n = 2)" where there is no interval; a plus sign before positive values where
// `has_sign`.
struct EstimateStyle {
  int decimals = 2;
  double factor = 1;  // 100 for percent
  bool has_sign = true;
  std::string unit = {};  // after the value: " %"
};
std::string SignedText(double value, const EstimateStyle& style);
std::string EstimateText(const Estimate& estimate, const EstimateStyle& style);
std::string NatsText(const Estimate& estimate);  // a difference in nats, finer where it is small

}  // namespace kvscope
