// SPDX-License-Identifier: Apache-2.0
// A run on the CPU: the decoder over a full cache, what it saw cut down to what is recorded.
#pragma once

#include <memory>

#include "capture/column_accumulator.h"
#include "capture/decoder.h"
#include "capture/engine.h"
#include "capture/full_cache.h"

namespace kvscope {

EngineInfo CpuEngineInfo(Activations activations = Activations::kFloat);

class CpuEngine final : public Engine {
 public:
  CpuEngine(const Model& model, DType kv_dtype, Activations activations = Activations::kFloat);

  const ModelConfig& config() const override { return decoder_.model().config; }
  EngineInfo info() const override { return CpuEngineInfo(activations_); }
  void Begin(const TraceInfo& info, RunSink* sink, int max_tokens) override;
  void Run(std::span<const int> ids, bool is_step) override;
  std::vector<float> Logprobs(std::span<const int> next) override;
  Alternatives Best(int count) override;
  float LogprobOf(int id) override;
  void SendColumns() override;

 private:
  void Record(int layer, LayerChunk& chunk, bool is_step);
  std::span<const float> HiddenOf(int first, int rows) const;

  Decoder decoder_;
  DType kv_dtype_;
  Activations activations_;
  std::unique_ptr<FullCache> cache_;
  const TraceInfo* info_ = nullptr;
  RunSink* sink_ = nullptr;
  std::vector<int> layer_index_;            // [layer]: among the recorded ones, or -1
  std::vector<ColumnAccumulator> columns_;  // [recorded layer] at level relevance
  int first_token_ = 0;                     // of the last chunk
  std::span<const float> hidden_;           // of the last chunk, [token, hidden]
  std::vector<float> logits_;               // of its last token, by Best
};

}  // namespace kvscope
