// SPDX-License-Identifier: Apache-2.0
#include "capture/cpu_engine.h"

#include <algorithm>
#include <fstream>
#include <numeric>

#include "capture/recorded_heads.h"
#include "core/error.h"

namespace kvscope {
namespace {

constexpr int kLogitRows = 64;  // rows of logits held at once

std::string CpuName() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  }
  return "unknown CPU";
}

}  // namespace

EngineInfo CpuEngineInfo(Activations activations) {
  std::string flags = StrCat("march=", KVSCOPE_MARCH_NAME);
  if (activations == Activations::kInt8) flags += StrCat(" activations=int8 isa=", Int8InstructionSet());
  return {"cpu", CpuName(), flags};
}

CpuEngine::CpuEngine(const Model& model, DType kv_dtype, Activations activations)
    : decoder_(model, activations), kv_dtype_(kv_dtype), activations_(activations) {}

void CpuEngine::Begin(const TraceInfo& info, RunSink* sink, int /*max_tokens*/) {
  info_ = &info;
  sink_ = sink;
  cache_ = std::make_unique<FullCache>(config(), kv_dtype_);
  if (sink && sink->wants_rows()) cache_->KeepScores();
  layer_index_.assign(config().num_layers, -1);
  for (size_t i = 0; i < info.layers.size(); ++i) layer_index_[info.layers[i].layer] = static_cast<int>(i);
  columns_.clear();
  if (!sink || info.level != TraceLevel::kRelevance) return;
  for (const LayerInfo& layer : info.layers) columns_.emplace_back(layer);
}

void CpuEngine::Run(std::span<const int> ids, bool is_step) {
  first_token_ = cache_->num_tokens();
  LayerObserver observer;
  if (sink_) observer = [&](int layer, LayerChunk& chunk) { Record(layer, chunk, is_step); };
  const DecoderInput input{cache_.get(), ids, observer};
  hidden_ = decoder_.Run({&input, 1});
}

std::span<const float> CpuEngine::HiddenOf(int first, int rows) const {
  const size_t width = config().hidden;
  return hidden_.subspan(static_cast<size_t>(first) * width, static_cast<size_t>(rows) * width);
}

std::vector<float> CpuEngine::Logprobs(std::span<const int> next) {
  const int vocab = config().vocab;
  std::vector<float> logprobs, logits;
  for (size_t at = 0; at < next.size(); at += kLogitRows) {
    const int count = static_cast<int>(std::min<size_t>(kLogitRows, next.size() - at));
    logits.resize(static_cast<size_t>(count) * vocab);
    decoder_.Logits(HiddenOf(static_cast<int>(at), count), count, logits);
    for (int i = 0; i < count; ++i) {
      const std::span<const float> one(&logits[static_cast<size_t>(i) * vocab], vocab);
      logprobs.push_back(static_cast<float>(one[next[at + i]] - LogSumExp(one)));
    }
  }
  return logprobs;
}

Alternatives CpuEngine::Best(int count) {
  logits_.resize(config().vocab);
  decoder_.Logits(HiddenOf(static_cast<int>(hidden_.size()) / config().hidden - 1, 1), 1, logits_);
  std::vector<int> order(logits_.size());
  std::iota(order.begin(), order.end(), 0);
  const auto better = [&](int a, int b) { return logits_[a] != logits_[b] ? logits_[a] > logits_[b] : a < b; };
  count = std::min(count, static_cast<int>(order.size()));
  std::partial_sort(order.begin(), order.begin() + count, order.end(), better);
  const double lse = LogSumExp(logits_);
  Alternatives best;
  for (int i = 0; i < count; ++i) {
    best.ids.push_back(order[i]);
    best.logprobs.push_back(static_cast<float>(logits_[order[i]] - lse));
  }
  return best;
}

float CpuEngine::LogprobOf(int id) {
  return static_cast<float>(logits_[id] - LogSumExp(logits_));
}

void CpuEngine::SendColumns() {
  for (size_t i = 0; i < columns_.size(); ++i)
    sink_->SetColumnStatistics(static_cast<int>(i), columns_[i].statistics());
}

void CpuEngine::Record(int layer, LayerChunk& chunk, bool is_step) {
  const int index = layer_index_[layer];
  if (index < 0) return;
  const LayerInfo& info = info_->layers[index];
  if (is_step && sink_->wants_rows()) {
    const size_t tokens = static_cast<size_t>(first_token_) + 1;
    std::vector<Half> weights(info.num_heads * tokens);
    cache_->WeightRows(layer, chunk.lse.data(), weights);
    sink_->AppendRows(index, first_token_, SelectHeads(std::move(weights), info));
  }
  if (!columns_.empty()) columns_[index].Add(chunk, first_token_, *cache_);
  if (sink_->wants_vectors()) sink_->AppendChunk(index, first_token_, SelectHeads(std::move(chunk), info));
}

}  // namespace kvscope
