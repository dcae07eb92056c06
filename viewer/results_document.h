// SPDX-License-Identifier: Apache-2.0
// Results of `kvscope replay` as the panels see them: read off the frame's thread, first in a child process. Which
// files hold results and which traces is decided by what is in them.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "core/results.h"
#include "viewer/jobs.h"

namespace kvscope {

class ResultsDocument {
 public:
  enum class State { kLoading, kReady, kFailed };

  ResultsDocument(std::string path, Jobs& jobs);

  const std::string& path() const { return path_; }
  State state() const { return results_ ? State::kReady : failure_.empty() ? State::kLoading : State::kFailed; }
  const std::string& failure() const { return failure_; }  // one sentence
  // Null unless ready; without the arrays `kept` and `bits`. Never changes, so jobs may hold it.
  std::shared_ptr<const Results> results() const { return results_; }

 private:
  std::string path_, failure_;
  std::shared_ptr<const Results> results_;
};

// What was given on the command line or dropped on the window.
struct SortedFiles {
  // In the order given. Traces directly inside a folder are listed, by name, and only the first is to be opened.
  std::vector<std::string> open_traces, listed_traces, results;
  std::string failure;  // one sentence about a folder that holds neither
};
// Asks a child process what a file is, but for a folder's *.kvtrace.h5, which may be many. What says nothing counts as
// a trace, whose reader then says what is wrong.
SortedFiles SortFiles(const std::vector<std::string>& paths, const std::atomic<bool>& is_cancelled);

}  // namespace kvscope
