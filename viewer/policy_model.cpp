// SPDX-License-Identifier: Apache-2.0
#include "viewer/policy_model.h"

#include <algorithm>

#include "core/error.h"

namespace kvscope {
namespace {

std::string SlotOf(const char* work, int index) {
  return StrCat(work, " policy ", index);
}

}  // namespace

bool PolicyModel::MayReplay(const TraceDocument& document) const {
  return document.reader().file_bytes() <= kManyBytes || allowed_.contains(&document);
}

bool PolicyModel::IsWorking(int policy_index) const {
  if (policy_index >= std::ssize(trials_)) return true;
  const OneTrial& trial = trials_[policy_index];
  return trial.is_deciding || trial.is_measuring || trial.answered != trial.wanted;
}

void PolicyModel::CancelFrom(int index, Jobs& jobs) {
  for (; index < std::ssize(trials_); ++index) {
    jobs.Cancel(SlotOf("decide", index));
    jobs.Cancel(SlotOf("measure", index));
  }
}

void PolicyModel::Reset(TraceDocument& document, Jobs& jobs) {
  CancelFrom(0, jobs);
  trials_.clear();
  document_ = &document;
  num_tokens_ = document.num_tokens();
  bench_ = std::make_shared<Workbench>(document.reader());
  ++session_;
  ++generation_;
}

void PolicyModel::Update(TraceDocument& document, const ViewState& view, Jobs& jobs) {
  // What grows is followed between two answers, so that there are any.
  const bool has_grown = num_tokens_ != document.num_tokens();
  const bool is_busy = std::ranges::any_of(trials_, [](const OneTrial& trial) { return trial.is_deciding; });
  if (document_ != &document || (has_grown && !is_busy)) Reset(document, jobs);
  CancelFrom(static_cast<int>(view.policies.size()), jobs);
  trials_.resize(view.policies.size());
  // A mark behind the decision or on the needle changes no answer.
  const bool has_mark = view.marked_token < DecisionToken(document.reader().info(), view.protocol) &&
                        std::ranges::none_of(document.BandsOf({"needle"}), [&](const TokenBand& band) {
                          return view.marked_token >= band.token_begin && view.marked_token < band.token_end;
                        });
  for (int index = 0; index < std::ssize(trials_); ++index) {
    OneTrial& trial = trials_[index];
    trial.wanted = Request{view.policies[index], view.protocol, has_mark ? view.marked_token : -1};
    // While a slider moves, every answer is shown before the next question is asked: a job that is cancelled again and
    // again would show nothing.
    if (!trial.is_deciding && trial.wanted != trial.answered) StartDeciding(index, document, jobs);
  }
}

void PolicyModel::StartDeciding(int index, const TraceDocument& document, Jobs& jobs) {
  jobs.Cancel(SlotOf("measure", index));
  OneTrial& trial = trials_[index];
  trial.is_deciding = true;
  trial.is_measuring = false;
  jobs.Start(SlotOf("decide", index),
             [this, index, session = session_, request = *trial.wanted, bench = bench_,
              &info = document.reader().info(), &jobs](const std::atomic<bool>& is_cancelled) -> Jobs::Finish {
               const auto outcome = std::make_shared<PolicyOutcome>();
               outcome->choice = request.choice;
               try {
                 PlanRequest plan{PolicySpec::Parse(request.choice.spec),
                                  {BudgetSpec::Unit::kFraction, request.choice.keep_fraction},
                                  {},
                                  DecisionToken(info, request.protocol)};
                 outcome->needle = outcome->watched = bench->NeedleBefore(plan.decision_token);
                 const auto place = std::ranges::lower_bound(outcome->watched, request.marked_token);
                 const bool is_known = place != outcome->watched.end() && *place == request.marked_token;
                 if (!is_known && request.marked_token >= 0 && request.marked_token < plan.decision_token)
                   outcome->watched.insert(place, request.marked_token);
                 outcome->history = std::make_shared<const CacheHistory>(
                     bench->Decide(plan, outcome->watched, is_cancelled), std::vector<CacheAction>{});
               } catch (const Error& error) {
                 outcome->failure = error.what();
               }
               return [this, index, session, request, outcome, &jobs] {
                 if (session != session_ || index >= std::ssize(trials_)) return;
                 OneTrial& finished = trials_[index];
                 finished.is_deciding = false;
                 finished.answered = request;
                 finished.outcome = outcome;
                 ++generation_;
                 if (outcome->history && finished.wanted == finished.answered) StartMeasuring(index, jobs);
               };
             });
}

void PolicyModel::StartMeasuring(int index, Jobs& jobs) {
  OneTrial& trial = trials_[index];
  trial.is_measuring = true;
  jobs.Start(SlotOf("measure", index),
             [this, index, session = session_, decided = trial.outcome,
              bench = bench_](const std::atomic<bool>& is_cancelled) -> Jobs::Finish {
               const auto outcome = std::make_shared<PolicyOutcome>(*decided);
               try {
                 const std::shared_ptr<const Plan> plan{decided->history, &decided->history->plan()};
                 outcome->trial = bench->Measure(plan, is_cancelled);
                 if (outcome->trial) outcome->history = outcome->trial->history;
               } catch (const Error& error) {
                 outcome->failure = error.what();
               }
               return [this, index, session, outcome] {
                 if (session != session_ || index >= std::ssize(trials_)) return;
                 trials_[index].is_measuring = false;
                 trials_[index].outcome = outcome;
                 ++generation_;
               };
             });
}

}  // namespace kvscope
