// SPDX-License-Identifier: Apache-2.0
// The evidence pass: every statistic of attention columns that any policy of a sweep declared, from one tiled sweep
// over Q, K and lse of each (layer, KV head). Decisions at different tokens share the pass.
//
// Memory: at most one KV head's q, k, v, lse per thread (with KeepRows: of every layer asked for at once), and the
// statistics of those layers (specs * heads * row_end floats each), whatever the size of the trace. Results do not
// depend on threads.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/trace.h"
#include "kernels/column_stats.h"
#include "replay/policy.h"

namespace kvscope {

// Empty when replay can work on this trace, else the reason: its level holds no q, k, v; a layer has a sink or linear
// attention; layers differ in shape; ...
std::string WhyNotReplayable(const TraceSource& source);
ModelShape ShapeOf(const TraceInfo& info);
// Tokens that every layer holds with their query rows; a file that was cut short or still grows has layers that differ.
int NumTokens(const TraceSource& source);
// Empty when every query row in [begin, end) is stored in every layer, else a sentence.
std::string WhyRowsAreMissing(const TraceSource& source, int begin, int end);

// The statistics of one layer.
struct LayerEvidence {
  int layer_index = 0, row_end = 0;
  ModelShape shape;
  float scale = 1;                                          // of scores
  std::map<StatisticSpec, std::vector<float>> statistics;   // [num_heads, row_end], head after head
  std::vector<std::shared_ptr<const KvHeadData>> kv_heads;  // when keys, values or queries were asked for, else empty
  std::vector<int> q_token;                                 // of their rows of q

  // Of the first `num_tokens` tokens of a head, as at a decision at token num_tokens. It is a bug to ask for what was
  // not computed.
  std::span<const float> Statistic(const StatisticSpec& spec, int head, int num_tokens) const;
};

class Evidence {
 public:
  // Statistics look at tokens and rows before row_end.
  Evidence(const TraceSource& source, int row_end);
  // Asks for a statistic as of a decision at num_tokens <= row_end.
  void Add(const StatisticSpec& spec, int num_tokens);
  void KeepRows() { keeps_rows_ = true; }
  // Rebuilds the weights [query token + 1], 0 outside a window, of these query tokens (those stored) of every head.
  // see_row is called from several threads, for one head's rows in order.
  using SeeRow = std::function<void(int layer_index, int head, int query_token, std::span<const float> weights)>;
  void SampleRows(std::vector<int> query_tokens, SeeRow see_row) {
    sampled_tokens_ = std::move(query_tokens), see_row_ = std::move(see_row);
  }
  // Several layers at a time, in parallel. known: [layer - layer_begin] what an earlier pass over the same rows
  // answered; its statistics are passed on instead of being computed again.
  std::vector<LayerEvidence> Compute(int layer_begin, int layer_end, std::span<LayerEvidence> known = {}) const;

 private:
  const TraceSource& source_;
  int row_end_;
  bool keeps_rows_ = false;
  void SeeSampledRows(int layer_index, int kv_head, const KvHeadData& data) const;

  std::vector<StatisticSpec> specs_;  // skip_rows set, no two alike
  std::vector<int> sampled_tokens_;
  SeeRow see_row_;
};

// One layer as policies see it at a decision.
class EvidenceView final : public LayerView {
 public:
  EvidenceView(const LayerEvidence& evidence, int num_tokens, uint64_t seed)
      : evidence_(evidence), num_tokens_(num_tokens), seed_(seed) {}
  int layer_index() const override { return evidence_.layer_index; }
  const ModelShape& shape() const override { return evidence_.shape; }
  int num_tokens() const override { return num_tokens_; }
  std::span<const float> Statistic(const StatisticSpec& spec, int head) const override {
    return evidence_.Statistic(spec, head, num_tokens_);
  }
  std::vector<float> Keys(int kv_head) const override;
  std::vector<float> Values(int kv_head) const override;
  QueryChannels Queries(int kv_head) const override;
  uint64_t seed() const override { return seed_; }

 private:
  const LayerEvidence& evidence_;
  int num_tokens_;
  uint64_t seed_;
};

}  // namespace kvscope
