// SPDX-License-Identifier: Apache-2.0
// Sixteen forks of one prompt, each with its own policy and compacted cache, decoding as a batch and one after another.
//   forks_bench MODEL.gguf TEXT [CONTEXT]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <vector>

#include "capture/run.h"
#include "core/error.h"
#include "replay/engine.h"
#include "replay/live/forks.h"
#include "replay/live/policy_cache.h"

namespace kvscope {
namespace {

constexpr int kForks = 16, kSteps = 8, kRounds = 3;

double Seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

void Decode(Decoder& decoder, std::span<Fork> forks) {
  for (int step = 0; step < kSteps; ++step) {
    const int id = 100 + step;
    Feed(decoder, forks, {&id, 1});
  }
}

void Measure(const Model& model, const Tokenizer& tokenizer, const std::string& text, int context) {
  Prompt prompt;
  prompt.ids = tokenizer.Encode(text, false);
  prompt.ids.resize(context);
  prompt.segments.push_back({"context", 0, 0, context, true});
  Decoder decoder(model);
  const TraceInfo info = MakeTraceInfo(model, "", prompt, {});
  MemoryTrace trace(info);
  FullCache full(model.config, DType::kF16);
  trace.AppendTokens(TokensFromIds(tokenizer, prompt.ids, 0));
  int first_token = 0;
  const LayerObserver record = [&](int layer, LayerChunk& chunk, const float*) {
    trace.AppendChunk(layer, first_token, std::move(chunk));
  };
  Prefill(decoder, full, prompt.ids, context, 512, info.segments, record,
          [&](int begin, std::span<const float> hidden) {
            first_token = begin + static_cast<int>(hidden.size() / model.config.hidden);
          });
  std::vector<PlanRequest> requests;
  const std::vector<std::string> specs{"full",  "snapkv",        "h2o",         "tova",
                                       "adkvc", "streaming_llm", "snapkv@int4", "random"};
  for (int i = 0; i < kForks; ++i) {
    PlanRequest request;
    request.spec = PolicySpec::Parse(specs[i % specs.size()]);
    request.budget = {BudgetSpec::Unit::kFraction, i < kForks / 2 ? 0.5 : 0.25};
    request.decision_token = context;
    requests.push_back(request);
  }
  const std::vector<Plan> plans = MakePlans(trace, requests, {});
  std::vector<Fork> forks;
  for (const Plan& plan : plans) {
    std::vector<std::unique_ptr<LayerCache>> layers;
    for (int layer = 0; layer < plan.shape.num_layers; ++layer) {
      layers.push_back(plan.MakeCache(layer, model.config.Scale()));
      for (int kv_head = 0; kv_head < plan.shape.num_kv_heads; ++kv_head) {
        const std::shared_ptr<const KvHeadData> data = trace.ReadKvHead(layer, kv_head);
        layers.back()->Load(kv_head, data->k.data(), data->v.data(), DType::kF16, plan.layers[layer][kv_head].keep);
      }
    }
    forks.push_back(
        {std::make_unique<PolicyCache>(std::move(layers), plan.policy->Snapshot(), DType::kF16, context), {}});
  }
  std::vector<double> batch, alone;
  for (int round = 0; round < kRounds; ++round) {
    std::vector<Fork> together, apart;
    for (const Fork& fork : forks) together.push_back(fork.Clone()), apart.push_back(fork.Clone());
    double begin = Seconds();
    Decode(decoder, together);
    batch.push_back(Seconds() - begin);
    begin = Seconds();
    for (Fork& fork : apart) Decode(decoder, {&fork, 1});
    alone.push_back(Seconds() - begin);
  }
  std::printf(
      "{\"benchmark\": \"forks\", \"context\": %d, \"forks\": %d, \"batch_tokens_per_s\": %.1f, "
      "\"alone_tokens_per_s\": %.1f, \"ratio\": %.2f}\n",
      context, kForks, kForks * kSteps / Median(batch), kForks * kSteps / Median(alone), Median(alone) / Median(batch));
}

}  // namespace
}  // namespace kvscope

int main(int argc, char** argv) {
  try {
    if (argc < 3) throw kvscope::Error("usage: forks_bench MODEL.gguf TEXT [CONTEXT]");
    const kvscope::GgufFile gguf = kvscope::GgufFile::Open(argv[1]);
    const kvscope::Tokenizer tokenizer = kvscope::Tokenizer::FromGguf(gguf);
    const std::unique_ptr<kvscope::Model> model = kvscope::LoadModel(gguf);
    std::ifstream file(argv[2], std::ios::binary);
    const std::string text{std::istreambuf_iterator<char>(file), {}};
    kvscope::Measure(*model, tokenizer, text.substr(0, 100000), argc > 3 ? std::atoi(argv[3]) : 2048);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "forks_bench: %s\n", error.what());
    return 2;
  }
  return 0;
}
