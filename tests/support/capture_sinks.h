// SPDX-License-Identifier: Apache-2.0
// Sinks that decide when what a device deferred is taken.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <thread>
#include <utility>
#include <vector>

#include "capture/recorder.h"
#include "capture/run_sink.h"

namespace kvscope {

inline std::vector<float> Floats(const Buffer& buffer) {
  std::vector<float> floats(buffer.size());
  FloatsFromHalves(buffer.halves(), floats);
  return floats;
}

// Keeps what an engine gives it. What a device defers is taken at once or, with holds, by Release(): as early or as
// late as it may be.
class HoldingSink final : public RunSink {
 public:
  explicit HoldingSink(bool wants_all, bool holds) : wants_all_(wants_all), holds_(holds) {}
  void AppendTokens(TraceTokens) override {}
  void AppendChunk(int layer, int first_token, LayerChunk chunk) override {
    places.push_back({layer, first_token});
    for (const Buffer* const buffer : {&chunk.q, &chunk.k, &chunk.v}) Add(Floats(*buffer));
    Add(chunk.lse);
  }
  bool wants_vectors() const override { return wants_all_; }
  bool wants_rows() const override { return wants_all_; }
  void AppendRows(int layer, int token, std::vector<Half> weights) override {
    places.push_back({layer, token});
    std::vector<float> floats(weights.size());
    FloatsFromHalves(weights, floats);
    Add(floats);
  }
  void SetColumnStatistics(int layer, ColumnStatistics statistics) override {
    places.push_back({layer, statistics.num_tokens});
    Add(statistics.sum);
    Add(statistics.max);
  }
  void AppendStep(StepInfo) override {}
  void SetLogprobs(int, std::vector<float>) override {}
  void SetSegments(std::vector<Segment>, std::vector<Span>) override {}
  void SetAnswer(TraceAnswer) override {}
  void Defer(std::function<void(RunSink&)> job) override { holds_ ? held_.push_back(std::move(job)) : job(*this); }

  void Release() {
    for (auto& job : held_) std::exchange(job, nullptr)(*this);
    held_.clear();
  }

  std::vector<std::pair<int, int>> places;
  std::vector<std::vector<float>> values;

 private:
  void Add(std::vector<float> floats) { values.push_back(std::move(floats)); }
  const bool wants_all_, holds_;
  std::vector<std::function<void(RunSink&)>> held_;
};

// Into a recorder; calls `before` on the writer's thread with the number of the deferred piece, its turn having come.
class PassingSink final : public RunSink {
 public:
  PassingSink(Recorder& recorder, std::function<void(int)> before) : recorder_(recorder), before_(std::move(before)) {}
  void AppendTokens(TraceTokens tokens) override { recorder_.AppendTokens(std::move(tokens)); }
  void AppendChunk(int, int, LayerChunk) override { FAIL() << "only deferred"; }
  bool wants_rows() const override { return true; }
  void AppendRows(int, int, std::vector<Half>) override { FAIL() << "only deferred"; }
  void AppendStep(StepInfo step) override { recorder_.AppendStep(std::move(step)); }
  void SetLogprobs(int first_token, std::vector<float> logprobs) override {
    recorder_.SetLogprobs(first_token, std::move(logprobs));
  }
  void SetSegments(std::vector<Segment> segments, std::vector<Span> spans) override {
    recorder_.SetSegments(std::move(segments), std::move(spans));
  }
  void SetAnswer(TraceAnswer answer) override { recorder_.SetAnswer(std::move(answer)); }
  void Defer(std::function<void(RunSink&)> job) override {
    recorder_.Defer([job = std::move(job), number = num_deferred_++, this](RunSink& file) {
      before_(number);
      job(file);
    });
  }
  void CountStall(int64_t ns) override { recorder_.CountStall(ns); }

  // Waits until the model has given that many pieces, and then some time more, in which it comes to wait for room.
  void WaitForPieces(int count) const {
    for (int i = 0; num_deferred_ < count && i < 10000; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
  }

 private:
  Recorder& recorder_;
  std::function<void(int)> before_;
  std::atomic<int> num_deferred_ = 0;
};

}  // namespace kvscope
