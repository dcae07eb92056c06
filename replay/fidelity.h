// SPDX-License-Identifier: Apache-2.0
// Does replay predict live? Sets the two beside each other, policy by policy and budget by budget: the same entries
// kept (Jaccard), and the same order of policies (Spearman's rank correlation of replay's attention loss and output
// error with live's KL and answer NLL). Replay computes every policy on the full cache's queries, keys and values; it
// cannot see that live hidden states drift once entries are gone. Where the two part, that drift is the difference.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/results.h"

namespace kvscope {

// |A and B| / |A or B| over all entries of two `kept` arrays [layer, kv_head, token]; 1 when both are empty. Tokens
// beyond the shorter one are not compared. Absent when layers or heads differ.
std::optional<double> KeptJaccard(const NamedArray& a, const NamedArray& b);

struct RankCorrelation {
  double rho = 0;
  double low = 0, high = 0;  // 95 % interval, percentile bootstrap over the pairs with a fixed seed
  int n = 0;
};
// Spearman's rho; ties share their mean rank. Absent for fewer than three pairs or when one side is constant.
std::optional<RankCorrelation> SpearmanCorrelation(std::span<const double> x, std::span<const double> y,
                                                   uint64_t seed = 1, int draws = 2000);

struct FidelityPair {
  std::string label;  // policy, with what tells it from others of that name
  std::string policy, budget, kind;
  int runs = 0;  // (trace, live run) pairs behind it
  int jaccard_runs = 0;
  std::optional<double> jaccard;                       // mean over runs
  std::optional<double> jaccard_lowest;                // of any run
  std::optional<double> attention_loss, output_error;  // replay, means over runs
  std::optional<double> kl, answer_nll, perplexity;    // live, means over runs
  std::optional<double> successes, n;                  // live accuracy, pooled
};

struct FidelityCorrelation {
  std::string replay_figure;  // "attention_loss", "output_error"
  std::string live_figure;    // "kl", "answer_nll"
  std::string budget;         // empty: all budgets together
  RankCorrelation rank;
};

struct Fidelity {
  std::vector<FidelityPair> pairs;
  std::vector<FidelityCorrelation> correlations;         // over policies; the full cache is not counted
  int replay_without_live = 0, live_without_replay = 0;  // rows with no partner
};
Fidelity CompareFidelity(const Results& replay, const Results& live);
Fidelity CompareFidelity(const std::vector<const Results::Row*>& replay, const std::vector<const Results::Row*>& live);

// Aligned text for the terminal.
std::string FidelityTable(const Fidelity& fidelity);

}  // namespace kvscope
