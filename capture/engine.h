// SPDX-License-Identifier: Apache-2.0
// Who computes a run: the CPU (cpu_engine.h) or a device (device_engine.h). RunPrompt drives it chunk by chunk; the
// engine gives everything that attention saw to the run's sink.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "capture/model.h"
#include "capture/run_sink.h"

namespace kvscope {

// What a trace says of who computed it.
struct EngineInfo {
  std::string backend, device, flags;
};

// The likeliest next tokens, best first, of equal ones the lower id.
struct Alternatives {
  std::vector<int> ids;
  std::vector<float> logprobs;
};

class Engine {
 public:
  virtual ~Engine() = default;
  virtual const ModelConfig& config() const = 0;
  virtual EngineInfo info() const = 0;

  // Forgets what was; at most max_tokens come, recorded as `info` says in `sink`, which may be nullptr. Both outlive
  // the run.
  virtual void Begin(const TraceInfo& info, RunSink* sink, int max_tokens) = 0;
  // The next tokens, ids in [0, vocab), as one chunk; with is_step the rows of their weights are recorded too. Throws
  // Error when q, k or v leave the range of an f16 cache, and what the sink throws.
  virtual void Run(std::span<const int> ids, bool is_step) = 0;
  // Of the last chunk: the log-probability of next[i] after its token i.
  virtual std::vector<float> Logprobs(std::span<const int> next) = 0;
  // After the last token; waits until the chunk is done. count <= 8.
  virtual Alternatives Best(int count) = 0;
  virtual float LogprobOf(int id) = 0;  // after the last token, after Best
  // Level relevance: the statistics of all rows so far go to the sink.
  virtual void SendColumns() = 0;
};

}  // namespace kvscope
