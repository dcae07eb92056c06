// SPDX-License-Identifier: Apache-2.0
#include "capture/recorder.h"

#include <chrono>

#include "core/error.h"

namespace kvscope {

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

void Recorder::Push(int64_t bytes, std::function<void(TraceWriter&)> write) {
  std::unique_lock lock(mutex_);
  const auto has_room = [&] { return queued_bytes_ <= options_.queue_bytes || failure_; };
  if (!has_room()) {
    const auto begin = std::chrono::steady_clock::now();
    has_room_.wait(lock, has_room);
    const int64_t stall = std::chrono::nanoseconds(std::chrono::steady_clock::now() - begin).count();
    total_stall_ns_ += stall;
    step_stall_ns_ += stall;
  }
  if (failure_) std::rethrow_exception(failure_);
  jobs_.push_back({std::move(write), bytes});
  queued_bytes_ += bytes;
  has_work_.notify_one();
}

void Recorder::WriteLoop() {
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
      if (job.write) job.write(*writer_);
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
  Push(bytes, [tokens = std::move(tokens)](TraceWriter& writer) { writer.AppendTokens(tokens); });
}

void Recorder::AppendChunk(int layer_index, int first_token, LayerChunk chunk) {
  const auto bytes =
      static_cast<int64_t>(chunk.q.size_bytes() + chunk.k.size_bytes() + chunk.v.size_bytes() + chunk.lse.size() * 4);
  Push(bytes, [layer_index, first_token, chunk = std::move(chunk)](TraceWriter& writer) {
    writer.AppendChunk(layer_index, first_token, chunk);
  });
}

void Recorder::AppendRows(int layer_index, int query_token, std::vector<Half> weights) {
  const auto bytes = static_cast<int64_t>(weights.size() * sizeof(Half));
  Push(bytes, [layer_index, query_token, weights = std::move(weights)](TraceWriter& writer) {
    writer.AppendRows(layer_index, query_token, weights);
  });
}

void Recorder::SetColumnStatistics(int layer_index, ColumnStatistics statistics) {
  const auto bytes = static_cast<int64_t>((statistics.sum.size() + statistics.max.size()) * sizeof(float));
  Push(bytes, [layer_index, statistics = std::move(statistics)](TraceWriter& writer) {
    writer.SetColumnStatistics(layer_index, statistics.num_rows, statistics.sum, statistics.max);
  });
}

void Recorder::AppendStep(StepInfo step) {
  {
    const std::lock_guard lock(mutex_);
    step.queue_depth = static_cast<int>(jobs_.size());
  }
  step.stall_ns = step_stall_ns_;
  step_stall_ns_ = 0;
  Push(256, [step = std::move(step)](TraceWriter& writer) { writer.AppendStep(step); });
}

void Recorder::SetLogprobs(int first_token, std::vector<float> logprobs) {
  Push(static_cast<int64_t>(logprobs.size() * 4), [first_token, logprobs = std::move(logprobs)](TraceWriter& writer) {
    writer.SetLogprobs(first_token, logprobs);
  });
}

void Recorder::SetSegments(std::vector<Segment> segments, std::vector<Span> spans) {
  Push(1024, [segments = std::move(segments), spans = std::move(spans)](TraceWriter& writer) {
    writer.SetSegments(segments, spans);
  });
}

void Recorder::SetAnswer(TraceAnswer answer) {
  Push(1024, [answer = std::move(answer)](TraceWriter& writer) { writer.SetAnswer(answer); });
}

}  // namespace kvscope
