// SPDX-License-Identifier: Apache-2.0
#include "capture/recorder.h"

#include <chrono>

#include "core/error.h"

namespace kvscope {
namespace {

// Straight into the file, on the thread that writes it.
class FileSink final : public RunSink {
 public:
  explicit FileSink(TraceWriter& writer) : writer_(writer) {}
  void AppendTokens(TraceTokens tokens) override { writer_.AppendTokens(tokens); }
  void AppendChunk(int layer_index, int first_token, LayerChunk chunk) override {
    writer_.AppendChunk(layer_index, first_token, chunk);
  }
  bool wants_rows() const override { return true; }
  void AppendRows(int layer_index, int query_token, std::vector<Half> weights) override {
    writer_.AppendRows(layer_index, query_token, weights);
  }
  void SetColumnStatistics(int layer_index, ColumnStatistics statistics) override {
    writer_.SetColumnStatistics(layer_index, statistics.num_rows, statistics.sum, statistics.max);
  }
  void AppendStep(StepInfo step) override { writer_.AppendStep(step); }
  void SetLogprobs(int first_token, std::vector<float> logprobs) override {
    writer_.SetLogprobs(first_token, logprobs);
  }
  void SetSegments(std::vector<Segment> segments, std::vector<Span> spans) override {
    writer_.SetSegments(segments, spans);
  }
  void SetAnswer(TraceAnswer answer) override { writer_.SetAnswer(answer); }

 private:
  TraceWriter& writer_;
};

}  // namespace

Recorder::Recorder(const std::string& path, const TraceInfo& info, const Options& options)
    : options_(options),
      wants_vectors_(info.level == TraceLevel::kQkvRows || info.level == TraceLevel::kQkv),
      wants_rows_(info.level == TraceLevel::kQkvRows || info.level == TraceLevel::kRows),
      writer_(std::make_unique<TraceWriter>(path, info, options.writer)) {
  thread_ = std::thread([this] { WriteLoop(); });
}

Recorder::~Recorder() {
  Stop();
}

void Recorder::CountStall(int64_t ns) {
  total_stall_ns_ += ns;
  step_stall_ns_ += ns;
}

void Recorder::Push(int64_t bytes, std::function<void(RunSink& file)> write) {
  std::unique_lock lock(mutex_);
  const auto has_room = [&] { return queued_bytes_ <= options_.queue_bytes || failure_; };
  if (!has_room()) {
    const auto begin = std::chrono::steady_clock::now();
    has_room_.wait(lock, has_room);
    CountStall(std::chrono::nanoseconds(std::chrono::steady_clock::now() - begin).count());
  }
  if (failure_) std::rethrow_exception(failure_);
  jobs_.push_back({std::move(write), bytes});
  queued_bytes_ += bytes;
  has_work_.notify_one();
}

void Recorder::WriteLoop() {
  FileSink file(*writer_);
  std::unique_lock lock(mutex_);
  while (true) {
    // Wakes at the flush interval too, so that a slow model's last tokens do not stay in memory.
    const auto interval = std::chrono::duration<double>(options_.writer.flush_interval_secs);
    has_work_.wait_for(lock, interval, [&] { return !jobs_.empty() || is_stopping_; });
    if (jobs_.empty() && is_stopping_) return;
    Job job;
    if (!jobs_.empty()) {
      job = std::move(jobs_.front());
      jobs_.pop_front();
    }
    lock.unlock();
    try {
      if (job.write) job.write(file);
      writer_->FlushIfDue();
    } catch (...) {
      lock.lock();
      failure_ = std::current_exception();
      jobs_.clear();
      has_room_.notify_all();
      return;
    }
    lock.lock();
    queued_bytes_ -= job.bytes;
    has_room_.notify_all();
  }
}

void Recorder::Stop() {
  {
    const std::lock_guard lock(mutex_);
    is_stopping_ = true;
    has_work_.notify_one();
  }
  if (thread_.joinable()) thread_.join();
}

void Recorder::Finish() {
  Stop();
  if (failure_) std::rethrow_exception(failure_);
  writer_->Finish();
  bytes_written_ = writer_->bytes_written();
}

void Recorder::AppendTokens(TraceTokens tokens) {
  const auto bytes = static_cast<int64_t>(tokens.ids.size() * 24);
  Push(bytes, [tokens = std::move(tokens)](RunSink& file) mutable { file.AppendTokens(std::move(tokens)); });
}

void Recorder::AppendChunk(int layer_index, int first_token, LayerChunk chunk) {
  const auto bytes =
      static_cast<int64_t>(chunk.q.size_bytes() + chunk.k.size_bytes() + chunk.v.size_bytes() + chunk.lse.size() * 4);
  Push(bytes, [layer_index, first_token, chunk = std::move(chunk)](RunSink& file) mutable {
    file.AppendChunk(layer_index, first_token, std::move(chunk));
  });
}

void Recorder::AppendRows(int layer_index, int query_token, std::vector<Half> weights) {
  const auto bytes = static_cast<int64_t>(weights.size() * sizeof(Half));
  Push(bytes, [layer_index, query_token, weights = std::move(weights)](RunSink& file) mutable {
    file.AppendRows(layer_index, query_token, std::move(weights));
  });
}

void Recorder::SetColumnStatistics(int layer_index, ColumnStatistics statistics) {
  const auto bytes = static_cast<int64_t>((statistics.sum.size() + statistics.max.size()) * sizeof(float));
  Push(bytes, [layer_index, statistics = std::move(statistics)](RunSink& file) mutable {
    file.SetColumnStatistics(layer_index, std::move(statistics));
  });
}

void Recorder::AppendStep(StepInfo step) {
  {
    const std::lock_guard lock(mutex_);
    step.queue_depth = static_cast<int>(jobs_.size());
  }
  step.stall_ns = step_stall_ns_;
  step_stall_ns_ = 0;
  Push(256, [step = std::move(step)](RunSink& file) mutable { file.AppendStep(std::move(step)); });
}

void Recorder::SetLogprobs(int first_token, std::vector<float> logprobs) {
  Push(static_cast<int64_t>(logprobs.size() * 4), [first_token, logprobs = std::move(logprobs)](RunSink& file) mutable {
    file.SetLogprobs(first_token, std::move(logprobs));
  });
}

void Recorder::SetSegments(std::vector<Segment> segments, std::vector<Span> spans) {
  Push(1024, [segments = std::move(segments), spans = std::move(spans)](RunSink& file) mutable {
    file.SetSegments(std::move(segments), std::move(spans));
  });
}

void Recorder::SetAnswer(TraceAnswer answer) {
  Push(1024, [answer = std::move(answer)](RunSink& file) mutable { file.SetAnswer(std::move(answer)); });
}

void Recorder::Defer(std::function<void(RunSink& sink)> job) {
  Push(0, std::move(job));  // its memory is the device's ring
}

}  // namespace kvscope
