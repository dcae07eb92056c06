// SPDX-License-Identifier: Apache-2.0
// Where a run goes: into a file on another thread (Recorder), into memory (MemorySink), or nowhere (nullptr).
#pragma once

#include <functional>
#include <vector>

#include "core/memory_trace.h"
#include "core/trace.h"
#include "core/trace_writer.h"

namespace kvscope {

class RunSink {
 public:
  virtual ~RunSink() = default;
  // As TraceWriter's; layer_index counts the recorded layers.
  virtual void AppendTokens(TraceTokens tokens) = 0;
  virtual bool wants_vectors() const { return true; }
  virtual void AppendChunk(int layer_index, int first_token, LayerChunk chunk) = 0;
  virtual bool wants_rows() const = 0;
  virtual void AppendRows(int layer_index, int query_token, std::vector<Half> weights) = 0;
  virtual void SetColumnStatistics(int /*layer_index*/, ColumnStatistics /*statistics*/) {}  // level relevance
  virtual void AppendStep(StepInfo step) = 0;  // queue depth and stall are filled in by the sink
  virtual void SetLogprobs(int first_token, std::vector<float> logprobs) = 0;
  virtual void SetSegments(std::vector<Segment> segments, std::vector<Span> spans) = 0;
  virtual void SetAnswer(TraceAnswer answer) = 0;
  // Calls `job` when the sink gets to it, in order with the calls around: for what still is on its way from a device,
  // which the job waits for.
  virtual void Defer(std::function<void(RunSink& sink)> job) { job(*this); }
  virtual void CountStall(int64_t /*ns*/) {}  // the model waited for room in front of the sink
};

class MemorySink final : public RunSink {
 public:
  explicit MemorySink(MemoryTrace& trace) : trace_(trace) {}
  void AppendTokens(TraceTokens tokens) override { trace_.AppendTokens(tokens); }
  void AppendChunk(int layer_index, int first_token, LayerChunk chunk) override {
    trace_.AppendChunk(layer_index, first_token, std::move(chunk));
  }
  bool wants_rows() const override { return false; }
  void AppendRows(int, int, std::vector<Half>) override {}
  void AppendStep(StepInfo) override {}
  void SetLogprobs(int first_token, std::vector<float> logprobs) override { trace_.SetLogprobs(first_token, logprobs); }
  void SetSegments(std::vector<Segment> segments, std::vector<Span> spans) override {
    trace_.SetSegments(segments, spans);
  }
  void SetAnswer(TraceAnswer answer) override { trace_.SetAnswer(answer); }

 private:
  MemoryTrace& trace_;
};

}  // namespace kvscope
