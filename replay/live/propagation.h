// SPDX-License-Identifier: Apache-2.0
// Policies that let a part of the tokens go on (FastKV), for real. The whole prefill, which every other policy decides
// on, is tapped after the layer in question; the layers above run once more on the tokens that go on, at their own
// positions, causal among themselves; the policy then decides on what its layers really had.
#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <vector>

#include "capture/decoder.h"
#include "core/memory_trace.h"
#include "replay/engine.h"

namespace kvscope {

// The residual stream of a prefill after a layer.
struct ResidualTap {
  std::vector<float> residual;  // [token, hidden]
  double secs = 0;              // that the prefill took up to there, layers above left out
};

class ResidualTaps {
 public:
  ResidualTaps() = default;
  // After the layers that some request propagates from.
  ResidualTaps(const std::vector<PlanRequest>& requests, const ModelShape& shape);
  // Of one prefill, from now on; empty when there is nothing to tap.
  ResidualObserver Observer(int num_layers);
  const ResidualTap& at(int layer) const { return taps_.at(layer); }

 private:
  std::map<int, ResidualTap> taps_;
  std::chrono::steady_clock::time_point chunk_begin_;
};

// What a policy sees that propagates. Up to after_layer: the whole prefill's rows. Above: rows of the tokens that went
// on; a token that did not repeats those of the last one before it that did (at the front: the first one's), so that
// every number is one that the layer really had. Policies do not keep such tokens.
class PropagatedTrace final : public TraceSource {
 public:
  // whole outlives this.
  PropagatedTrace(const TraceSource& whole, const Propagation& propagation);
  // Rows of the tokens that went on, from the first_row-th on. The same contract as MemoryTrace's.
  void AppendChunk(int layer_index, int first_row, LayerChunk chunk);

  const TraceInfo& info() const override { return whole_.info(); }
  const TraceTokens& tokens() const override { return whole_.tokens(); }
  const TraceAnswer& answer() const override { return whole_.answer(); }
  const std::vector<int>& q_token(int layer_index) const override { return whole_.q_token(layer_index); }
  std::shared_ptr<const KvHeadData> ReadKvHead(int layer_index, int kv_head_index) const override;

 private:
  Buffer Spread(const Buffer& rows, int heads, int dim) const;

  const TraceSource& whole_;
  int after_layer_;
  int num_rows_;                     // tokens that went on
  std::vector<int> row_from_token_;  // [token]
  MemoryTrace upper_;                // layers above after_layer, tokens that went on
};

// Runs the layers above propagation.after_layer.
struct PropagatedPrefill {
  std::unique_ptr<PropagatedTrace> trace;
  std::vector<float> logits;  // [vocab] after the last token
};
PropagatedPrefill RunPropagated(Decoder& decoder, const TraceSource& whole, const ResidualTap& tap,
                                const Propagation& propagation, int prefill_chunk);

}  // namespace kvscope
