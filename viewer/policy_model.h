// SPDX-License-Identifier: Apache-2.0
// The policies under trial, behind every panel that follows them: a workbench for the trace, and for each choice a job
// that decides, whose answer is shown at once, and one that measures what later queries made of it.
#pragma once

#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "replay/workbench.h"
#include "viewer/jobs.h"
#include "viewer/trace_document.h"
#include "viewer/view_state.h"

namespace kvscope {

// Everything known about one choice; never changes once it is shown.
struct PolicyOutcome {
  PolicyChoice choice;
  std::string failure;                          // one sentence: why there is no history, or no trial
  std::vector<int> needle, watched;             // tokens before the decision; watched: the marked one as well
  std::shared_ptr<const CacheHistory> history;  // knows the changes after the decision once it is measured
  std::optional<Trial> trial;                   // measured
};

class PolicyModel {
 public:
  // Starts what is missing for the view's choices; the document is ready. Every frame.
  void Update(TraceDocument& document, const ViewState& view, Jobs& jobs);

  // A trace of many bytes is replayed only when somebody said so.
  bool MayReplay(const TraceDocument& document) const;
  void Allow(const TraceDocument& document) { allowed_.insert(&document); }
  static constexpr int64_t kManyBytes = int64_t{2} << 30;

  const TraceDocument* document() const { return document_; }  // of the outcomes
  // Of one of the view's choices: the newest known, which may be of a choice before. Null: none yet.
  std::shared_ptr<const PolicyOutcome> Outcome(int policy_index) const {
    return policy_index < std::ssize(trials_) ? trials_[policy_index].outcome : nullptr;
  }
  // The outcome is not yet that of the choice, or not yet measured.
  bool IsWorking(int policy_index) const;
  int generation() const { return generation_; }  // grows with every new outcome

 private:
  struct Request {
    PolicyChoice choice;
    Protocol protocol = Protocol::kPrompt;
    int marked_token = -1;
    friend bool operator==(const Request&, const Request&) = default;
  };
  struct OneTrial {
    std::optional<Request> wanted, answered;
    bool is_deciding = false, is_measuring = false;
    std::shared_ptr<const PolicyOutcome> outcome;
  };
  void StartDeciding(int index, const TraceDocument& document, Jobs& jobs);
  void StartMeasuring(int index, Jobs& jobs);
  void CancelFrom(int index, Jobs& jobs);  // the trials from this one on
  void Reset(TraceDocument& document, Jobs& jobs);

  std::set<const TraceDocument*> allowed_;
  const TraceDocument* document_ = nullptr;
  int num_tokens_ = 0;
  int session_ = 0;  // grows with every other trace, so that answers about one before are dropped
  std::shared_ptr<Workbench> bench_;
  std::vector<OneTrial> trials_;
  int generation_ = 0;
};

}  // namespace kvscope
