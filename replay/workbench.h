// SPDX-License-Identifier: Apache-2.0
// Policies tried by hand on one trace, one after another, by somebody who waits: what was read and what was computed
// stays, so that another budget of a policy that was tried before takes milliseconds.
//
// Memory: q, k, v, lse of KV heads up to kRowBytes, statistics up to kStatisticBytes between two passes (one pass adds
// what its policy asks for), the full cache's weights up to kFullRowBytes, and the state of the kMostSeen policies
// tried last. Thread-safe; looking at the trace for a policy that is new is done by one thread at a time.
#pragma once

#include <atomic>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "core/results.h"
#include "replay/cache_history.h"
#include "replay/engine.h"

namespace kvscope {

// What came out when later queries attended over what a plan kept. Its history has 40 bytes for every entry that was
// evicted later: little for decode steps, a gigabyte where prefill_chunk compresses 100,000 tokens of a large model.
struct Trial {
  std::shared_ptr<const CacheHistory> history;
  PlanMetrics metrics;
  ResultRow figures;  // those that replay measures
  std::vector<NamedArray> arrays;
};

class Workbench {
 public:
  // A trace that grew needs another workbench. The source outlives this.
  explicit Workbench(const TraceSource& source);
  ~Workbench();

  // The needle's tokens before a decision, ascending.
  std::vector<int> NeedleBefore(int decision_token) const;
  // Throws Error: why the policy cannot be run on this trace, or what is wrong with it. watched_tokens as in
  // PlanOptions. When cancelled it throws Error, too, sooner or later.
  std::shared_ptr<const Plan> Decide(const PlanRequest& request, const std::vector<int>& watched_tokens,
                                     const std::atomic<bool>& is_cancelled = kGoesOn);
  // Nothing when cancelled.
  std::optional<Trial> Measure(std::shared_ptr<const Plan> plan, const std::atomic<bool>& is_cancelled) const;

  static constexpr int64_t kRowBytes = int64_t{512} << 20, kStatisticBytes = int64_t{256} << 20,
                           kFullRowBytes = int64_t{256} << 20;
  static constexpr size_t kMostSeen = 16;

 private:
  static inline const std::atomic<bool> kGoesOn{false};
  class KeptSource;
  std::unique_ptr<KeptSource> source_;
  mutable FullRowsCache full_rows_{kFullRowBytes};
  std::mutex seen_mutex_;
  std::list<SeenPolicy> seen_;        // tried last first
  std::mutex pass_mutex_;             // held while a policy looks at the trace
  std::vector<LayerEvidence> known_;  // [layer]
  std::optional<SeenPolicy> FindSeen(const PlanRequest& request);
};

}  // namespace kvscope
