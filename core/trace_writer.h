// SPDX-License-Identifier: Apache-2.0
// Writes a trace while the model runs, so that a second process can follow it and a kill loses at most one flush
// interval. Not thread-safe: one thread owns a writer (capture's Recorder gives it a thread of its own).
#pragma once

#include <memory>
#include <span>
#include <string>

#include "core/trace.h"

namespace kvscope {

// A chunk of consecutive tokens of one layer.
struct LayerChunk {
  int num_tokens = 0;
  Buffer q;                // [heads, num_tokens, head_dim_k]
  Buffer k;                // [kv_heads, num_tokens, head_dim_k]
  Buffer v;                // [kv_heads, num_tokens, head_dim_v]
  std::vector<float> lse;  // [heads, num_tokens]
};

// Throws Error when TraceWriter could not make `path`: a folder, a folder that is missing or not writable or, without
// overwrite, a file that exists.
void CheckTraceTarget(const std::string& path, bool overwrite);

class TraceWriter {
 public:
  struct Options {
    double flush_interval_secs = 1.0;  // stated in the file; what a kill can lose
    bool overwrite = false;
  };

  // Creates every dataset under a temporary name, begins single-writer/multiple-reader mode, renames to `path`.
  // Throws Error (nothing is left behind) when the folder is missing or not writable, or the file exists.
  TraceWriter(std::string path, const TraceInfo& info, const Options& options);
  ~TraceWriter();  // without Finish(): the file stays as `recording`, readable to the last flush
  TraceWriter(const TraceWriter&) = delete;

  void AppendTokens(const TraceTokens& tokens);
  // first_token: absolute token of the chunk's first row. Chunks of a layer arrive in order, without gaps.
  void AppendChunk(int layer_index, int first_token, const LayerChunk& chunk);
  // Decode weights of one step. weights: [heads, query_token + 1].
  void AppendRows(int layer_index, int query_token, std::span<const Half> weights);
  // Level relevance: replaces what the file holds of this layer. sum, max: [heads, tokens], see ColumnStatistics.
  void SetColumnStatistics(int layer_index, int num_rows, std::span<const float> sum, std::span<const float> max);
  void AppendStep(const StepInfo& step);
  void SetLogprobs(int first_token, std::span<const float> logprobs);
  void SetAnswer(const TraceAnswer& answer);
  // Segments and spans known only at the end (the answer) replace those given at the start.
  void SetSegments(const std::vector<Segment>& segments, const std::vector<Span>& spans);
  void FlushIfDue();  // flushes when flush_interval_secs have passed since the last one
  void Flush();
  void Finish();  // status complete, file closed cleanly; further calls are a bug

  int64_t bytes_written() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace kvscope
