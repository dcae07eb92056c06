// SPDX-License-Identifier: Apache-2.0
// What the chosen head gives each token from some query tokens, computed beside the frames: from q and k, else from
// recorded rows, else from sums over all queries.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "replay/head_overview.h"
#include "viewer/jobs.h"
#include "viewer/trace_document.h"
#include "viewer/view_state.h"

namespace kvscope {

class TokenWeights {
 public:
  explicit TokenWeights(std::string slot) : slot_(std::move(slot)) {}  // of the jobs
  // Brings the view's layer and head into the trace's range. The trace has a layer.
  void Update(TraceDocument& document, ViewState& view, const std::vector<TokenBand>& askers, Jobs& jobs);
  bool IsOf(const TraceDocument& document) const { return request_.document == &document; }
  // [token]: the mean weight over the askers' rows; the newest known, which may be that of a head before.
  const std::vector<float>& weights() const { return weights_; }
  float highest() const { return highest_; }               // of them, beyond the sinks
  const std::string& failure() const { return failure_; }  // why there are none, in a sentence
  bool is_of_all_queries() const { return is_of_all_; }    // column statistics know no askers

 private:
  struct Request {
    const TraceDocument* document = nullptr;
    int layer_index = 0, head_index = 0;
    int num_tokens = 0, num_rows = 0;  // a file that grows has more of them
    std::vector<TokenBand> askers;
    friend bool operator==(const Request&, const Request&) = default;
  };

  std::string slot_;
  Request request_;
  void Compute(std::function<std::vector<float>(const std::atomic<bool>&)> weights, Jobs& jobs);

  std::vector<float> weights_;
  float highest_ = 0;
  std::string failure_;
  bool is_of_all_ = false;
};

}  // namespace kvscope
