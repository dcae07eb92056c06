// SPDX-License-Identifier: Apache-2.0
// Traces x policies x budgets x protocols: the rows of a results file. The full cache, random entries and the oracle
// stand beside whatever was asked for, so that every table has its upper and lower ends.
#pragma once

#include <atomic>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "core/results.h"
#include "core/trace.h"
#include "replay/engine.h"

namespace kvscope {

struct SweepOptions {
  std::vector<std::string> policies;  // specs
  std::vector<BudgetSpec> budgets;
  std::vector<PlanRequest> requests;  // instead of policies, budgets and guards
  std::vector<Protocol> protocols = {Protocol::kPrompt};
  Guards guards;
  uint64_t seed = 0;
  bool is_bare = false;                             // without full, random and top_k_oracle
  bool analyzes = true;                             // what the trace itself shows
  bool keeps_kept = true;                           // the array `kept` behind each row
  std::function<void(double fraction)> progress;    // of the present trace
  const std::atomic<bool>* is_cancelled = nullptr;  // looked at between layers; then no rows are added
};

// Specs as they will be run: parsed, each once, the three of every table added unless bare.
std::vector<PolicySpec> ParsePolicies(const SweepOptions& options);

// Adds the rows of one trace, and what the trace shows. A policy that cannot be run on it gives a row that says why.
void ReplayTrace(const TraceSource& source, const std::string& path, const SweepOptions& options, Results& results);

// A number of the task's parameters ("context", "depth_asked"); they come from the file, so anything may be missing.
std::optional<double> TaskNumber(const TaskInfo& task, const char* name);

// The columns that describe a run and a policy, not what was measured; mode is "replay" or "live".
ResultRow DescribeRow(const TraceInfo& info, const std::string& path, const PlanRequest& request, Protocol protocol,
                      const std::string& mode, uint64_t seed);
// The arrays needle_rank, needle_retention and needle_bits of core/results.h, as the decision left the needle.
void AddNeedleArrays(const Plan& plan, const std::vector<int>& needle_tokens, std::vector<NamedArray>& arrays);
// The arrays `kept` and, for plans that spend bits, `bits` of core/results.h.
void AddKeptArrays(const Plan& plan, std::vector<NamedArray>& arrays);

}  // namespace kvscope
