// SPDX-License-Identifier: Apache-2.0
// Work beside the frames: loading, replay, pictures. A job runs on a thread of its own and returns what is to be done
// with its result; Deliver, called by the frame, does it. A newer job of a slot cancels the older one.
#pragma once

#include <atomic>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace kvscope {

class Jobs {
 public:
  using Finish = std::function<void()>;  // on the frame's thread; dropped when the job was cancelled
  // Must look at is_cancelled often. What it throws is a bug, but for Error, of which the job makes its own result.
  using Work = std::function<Finish(const std::atomic<bool>& is_cancelled)>;

  Jobs() = default;
  ~Jobs();  // cancels and waits
  Jobs(const Jobs&) = delete;

  void Start(const std::string& slot, Work work);
  void Cancel(const std::string& slot);
  void Deliver();
  bool IsBusy() const { return !running_.empty(); }
  bool IsBusy(const std::string& slot) const { return running_.contains(slot); }
  bool IsIdle() const { return running_.empty() && cancelled_.empty(); }  // no thread of ours runs

 private:
  struct Job {
    std::shared_ptr<std::atomic<bool>> is_cancelled;
    std::future<Finish> result;
  };
  std::map<std::string, Job> running_;
  std::vector<Job> cancelled_;  // not over yet
};

}  // namespace kvscope
