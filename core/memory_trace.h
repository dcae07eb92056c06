// SPDX-License-Identifier: Apache-2.0
// A trace that never becomes a file: live runs and tests fill it as they would fill a TraceWriter, and replay reads it.
//
// Chunks are kept as they came. The first ReadKvHead after an append lays that KV head out in one piece (one copy);
// later calls return the same piece. Reads may run in several threads, but not beside appends.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "core/query_rows.h"
#include "core/trace.h"
#include "core/trace_writer.h"

namespace kvscope {

class MemoryTrace final : public TraceSource {
 public:
  explicit MemoryTrace(TraceInfo info);

  // The same contract as TraceWriter's.
  void AppendTokens(const TraceTokens& tokens);
  void AppendChunk(int layer_index, int first_token, LayerChunk chunk);
  void SetLogprobs(int first_token, std::span<const float> logprobs);
  void SetAnswer(const TraceAnswer& answer) { answer_ = answer; }
  void SetSegments(const std::vector<Segment>& segments, const std::vector<Span>& spans);

  const TraceInfo& info() const override { return info_; }
  const TraceTokens& tokens() const override { return tokens_; }
  const TraceAnswer& answer() const override { return answer_; }
  const std::vector<int>& q_token(int layer_index) const override;
  std::shared_ptr<const KvHeadData> ReadKvHead(int layer_index, int kv_head_index) const override;

 private:
  struct KvHead {
    std::shared_ptr<const KvHeadData> data;                  // everything but `pending`, in one piece
    std::vector<std::shared_ptr<const LayerChunk>> pending;  // not laid out yet
    std::mutex mutex;
  };
  struct Layer {
    int num_tokens = 0;
    std::vector<int> q_token;
    std::vector<std::unique_ptr<KvHead>> kv_heads;
  };

  TraceInfo info_;
  TraceTokens tokens_;
  TraceAnswer answer_;
  QueryRows query_rows_;
  std::vector<Layer> layers_;
};

// Adds `more` to the end of `tokens`; fields that `more` leaves empty become positions in sequence, empty pieces, NaN.
void AppendTo(TraceTokens& tokens, const TraceTokens& more);

// Drops the rows of q and lse that are not to be kept. first_token: of the chunk. Appends the tokens of the rows that
// stay to q_token.
void SelectRows(const QueryRows& query_rows, const LayerInfo& layer, int first_token, LayerChunk& chunk,
                std::vector<int>& q_token);

}  // namespace kvscope
