// SPDX-License-Identifier: Apache-2.0
// What a trace shows whatever the policy: does relevance know the needle (AUC per layer and head, before and after the
// question is seen), how far attention looks, how much rests on the first tokens, how alike neighbouring layers are.
// It rides on the evidence pass: AddEvidence before, SeeLayer for each layer in order, then Finish.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "core/results.h"
#include "core/trace.h"
#include "replay/evidence.h"
#include "replay/metrics.h"

namespace kvscope {

// Probability that a needle token has the higher value than another token, ties at half; tokens that are neither
// (>= values.size()) do not exist. 0.5 when one side is empty.
double NeedleAuc(std::span<const float> values, std::span<const int> needle_tokens);
// Ascending tokens of the spans of kind needle that lie before `end`.
std::vector<int> NeedleTokens(const TraceInfo& info, int end);

class Analysis {
 public:
  // The trace must be replayable.
  explicit Analysis(const TraceSource& source);
  int row_end() const { return row_end_; }
  void AddEvidence(Evidence& evidence);
  void SeeLayer(const LayerEvidence& layer);
  // metrics: of any plan over all answer queries.
  void SeeNeedleWeights(const PlanMetrics& metrics);
  Results::Trace Finish(const std::string& path) const;

 private:
  struct Statistic {
    std::string name;
    StatisticSpec spec;
    bool needs_all_rows = true;
    std::vector<float> auc, auc_before;  // [layer, head]
  };
  struct RowSums {  // of one head of one layer, over sampled rows
    std::vector<double> mass_from_bin;
    double sink = 0;
    int rows = 0;
  };
  void SeeRow(int layer_index, int head, int query_token, std::span<const float> weights);
  void CountRelevance(const LayerEvidence& layer);

  const TraceSource& source_;
  ModelShape shape_;
  int row_end_ = 0;      // prompt end
  int context_end_ = 0;  // where the question begins; row_end_ when there is none
  std::vector<int> needle_;
  std::vector<Statistic> statistics_;
  std::vector<RowSums> rows_;  // [layer, head]
  std::vector<double> histogram_needle_, histogram_rest_;
  std::vector<float> previous_relevance_, similarity_;
  std::vector<float> needle_weight_;  // [layer, head]
};

}  // namespace kvscope
