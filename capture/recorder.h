// SPDX-License-Identifier: Apache-2.0
// Writes a run to its trace file on a thread of its own. The model waits only when more than `queue_bytes` are waiting,
// and every such wait is in the file (/steps stall_ns). What the writer throws reaches the model at its next call.
#pragma once

#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "capture/run_sink.h"

namespace kvscope {

class Recorder final : public RunSink {
 public:
  struct Options {
    TraceWriter::Options writer;
    int64_t queue_bytes = int64_t{512} << 20;
  };
  // Throws Error like TraceWriter, with nothing left behind.
  Recorder(const std::string& path, const TraceInfo& info, const Options& options);
  ~Recorder() override;  // without Finish(): what was queued is written, the file stays as `recording`

  void AppendTokens(TraceTokens tokens) override;
  bool wants_vectors() const override { return wants_vectors_; }
  void AppendChunk(int layer_index, int first_token, LayerChunk chunk) override;
  bool wants_rows() const override { return wants_rows_; }
  void AppendRows(int layer_index, int query_token, std::vector<Half> weights) override;
  void SetColumnStatistics(int layer_index, ColumnStatistics statistics) override;
  void AppendStep(StepInfo step) override;
  void SetLogprobs(int first_token, std::vector<float> logprobs) override;
  void SetSegments(std::vector<Segment> segments, std::vector<Span> spans) override;
  void SetAnswer(TraceAnswer answer) override;
  void Defer(std::function<void(RunSink& sink)> job) override;
  void CountStall(int64_t ns) override;

  void Finish();  // waits until everything is on disk and the file is complete
  int64_t bytes_written() const { return bytes_written_; }
  int64_t total_stall_ns() const { return total_stall_ns_; }

 private:
  struct Job {
    std::function<void(RunSink& file)> write;
    int64_t bytes = 0;
  };
  void Push(int64_t bytes, std::function<void(RunSink& file)> write);
  void WriteLoop();
  void Stop();

  const Options options_;
  const bool wants_vectors_, wants_rows_;
  std::unique_ptr<TraceWriter> writer_;
  int64_t total_stall_ns_ = 0, step_stall_ns_ = 0, bytes_written_ = 0;

  std::mutex mutex_;
  std::condition_variable has_work_, has_room_;
  std::deque<Job> jobs_;
  int64_t queued_bytes_ = 0;
  bool is_stopping_ = false;
  std::exception_ptr failure_;
  std::thread thread_;
};

}  // namespace kvscope
