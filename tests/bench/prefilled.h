// SPDX-License-Identifier: Apache-2.0
// A prompt prefilled in full and recorded in memory, and forks that go on from a policy's plan for it.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "capture/full_cache.h"
#include "capture/run.h"
#include "replay/engine.h"
#include "replay/live/forks.h"
#include "replay/live/policy_cache.h"

namespace kvscope {

inline double Seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

class Prefilled {
 public:
  Prefilled(Decoder& decoder, const Tokenizer& tokenizer, const std::string& text, int context)
      : decoder_(decoder),
        context_(context),
        prompt_(MakePrompt(tokenizer, text, context)),
        trace(MakeTraceInfo(decoder.model(), "", prompt_, {})),
        full_(decoder.model().config, DType::kF16) {
    trace.AppendTokens(TokensFromIds(&tokenizer, prompt_.ids, 0));
    int first_token = 0;
    const LayerObserver record = [&](int layer, LayerChunk& chunk) {
      trace.AppendChunk(layer, first_token, std::move(chunk));
    };
    Prefill(decoder_, full_, prompt_.ids, context, 512, trace.info().segments, record,
            [&](int begin, std::span<const float> hidden) {
              first_token = begin + static_cast<int>(hidden.size() / decoder_.model().config.hidden);
            });
  }

  PlanRequest Request(const std::string& spec, double keep_fraction) const {
    PlanRequest request;
    request.spec = PolicySpec::Parse(spec);
    request.budget = {BudgetSpec::Unit::kFraction, keep_fraction};
    request.decision_token = context_;
    return request;
  }

  Fork MakeFork(const Plan& plan) const {
    std::vector<std::unique_ptr<LayerCache>> layers;
    for (int layer = 0; layer < plan.shape.num_layers; ++layer) {
      layers.push_back(plan.MakeCache(layer));
      for (int kv_head = 0; kv_head < plan.shape.num_kv_heads; ++kv_head) {
        const std::shared_ptr<const KvHeadData> data = trace.ReadKvHead(layer, kv_head);
        layers.back()->Load(kv_head, data->k.data(), data->v.data(), DType::kF16, plan.layers[layer][kv_head]);
      }
    }
    return {std::make_unique<PolicyCache>(std::move(layers), plan.policy->Snapshot(), DType::kF16, context_), {}};
  }

 private:
  static Prompt MakePrompt(const Tokenizer& tokenizer, const std::string& text, int context) {
    Prompt prompt;
    prompt.ids = tokenizer.Encode(text, false);
    prompt.ids.resize(context);
    prompt.segments.push_back({"context", 0, 0, context, true});
    return prompt;
  }

  Decoder& decoder_;
  int context_;
  Prompt prompt_;

 public:
  MemoryTrace trace;

 private:
  FullCache full_;
};

}  // namespace kvscope
