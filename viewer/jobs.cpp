// SPDX-License-Identifier: Apache-2.0
#include "viewer/jobs.h"

#include <algorithm>
#include <chrono>

namespace kvscope {
namespace {

template <typename Result>
bool IsOver(const std::future<Result>& result) {
  return result.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
}

}  // namespace

Jobs::~Jobs() {
  for (auto& [slot, job] : running_) *job.is_cancelled = true;
  // The futures wait.
}

void Jobs::Start(const std::string& slot, Work work) {
  Cancel(slot);
  auto is_cancelled = std::make_shared<std::atomic<bool>>(false);
  std::future<Finish> result =
      std::async(std::launch::async, [work = std::move(work), is_cancelled] { return work(*is_cancelled); });
  running_.emplace(slot, Job{std::move(is_cancelled), std::move(result)});
}

void Jobs::Cancel(const std::string& slot) {
  const auto job = running_.find(slot);
  if (job == running_.end()) return;
  *job->second.is_cancelled = true;
  cancelled_.push_back(std::move(job->second));
  running_.erase(job);
}

void Jobs::Deliver() {
  std::erase_if(cancelled_, [](const Job& job) { return IsOver(job.result); });
  std::vector<Finish> finished;
  for (auto job = running_.begin(); job != running_.end();) {
    if (!IsOver(job->second.result)) {
      ++job;
      continue;
    }
    finished.push_back(job->second.result.get());
    job = running_.erase(job);
  }
  for (const Finish& finish : finished) {
    if (finish) finish();  // may start the next job of its slot
  }
}

}  // namespace kvscope
