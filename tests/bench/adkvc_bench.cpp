// SPDX-License-Identifier: Apache-2.0
// What ADKVC costs on top of the cache it makes.
//   prefill   its statistic (one pass over q, k, lse) over the time of attention, all layers
//   decode    a step that tracks, re-decides and re-packs every 16 queries, over a step of the same cache left alone
//   adkvc_bench MODEL.gguf TEXT [CONTEXT [decode]]      decode: only that
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <vector>

#include "core/error.h"
#include "kernels/attention_tile.h"
#include "replay/evidence.h"
#include "tests/bench/prefilled.h"

namespace kvscope {
namespace {

constexpr int kRounds = 5, kSteps = 32;

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// Attention of a whole prompt over one layer, as the prefill runs it but in one chunk.
double AttentionSecs(const MemoryTrace& trace, const ModelConfig& config) {
  const ModelShape shape = ShapeOf(trace.info());
  const int tokens = NumTokens(trace);
  double secs = 0;
  for (int layer = 0; layer < shape.num_layers; ++layer) {
    FullCache cache(config, DType::kF16);
    LayerChunk chunk;
    chunk.num_tokens = tokens;
    chunk.k = Buffer(DType::kF16, 0), chunk.v = Buffer(DType::kF16, 0);
    std::vector<float> q, out(static_cast<size_t>(tokens) * shape.num_heads * shape.head_dim_v),
        lse(static_cast<size_t>(tokens) * shape.num_heads);
    for (int kv_head = 0; kv_head < shape.num_kv_heads; ++kv_head) {
      const auto data = trace.ReadKvHead(layer, kv_head);
      for (auto [to, from] : {std::pair(&chunk.k, &data->k), std::pair(&chunk.v, &data->v)}) {
        const size_t old = to->size();
        to->resize(old + from->size());
        std::copy(from->halves().begin(), from->halves().end(), to->halves().begin() + static_cast<int64_t>(old));
      }
      const size_t old = q.size();
      q.resize(old + data->q.size());
      FloatsFromHalves(data->q.halves(), std::span(q).subspan(old));
    }
    cache.Append(0, chunk);
    const double begin = Seconds();
    cache.Attend({0, tokens, q.data(), out.data(), int64_t{shape.num_heads} * shape.head_dim_v, lse.data()});
    secs += Seconds() - begin;
  }
  return secs;
}

double EvidenceSecs(const MemoryTrace& trace, const std::string& spec) {
  const ModelShape shape = ShapeOf(trace.info());
  Evidence evidence(trace, NumTokens(trace));
  for (const StatisticSpec& statistic : PolicySpec::Parse(spec).Needs(shape).statistics) {
    evidence.Add(statistic, NumTokens(trace));
  }
  const double begin = Seconds();
  evidence.Compute(0, shape.num_layers);
  return Seconds() - begin;
}

void MeasurePrefill(const Prefilled& prefilled, const ModelConfig& config, int context) {
  for (const char* spec : {"adkvc", "adkvc:tracker=max"}) {
    std::vector<double> attention, evidence;
    for (int round = 0; round < kRounds; ++round) {
      attention.push_back(AttentionSecs(prefilled.trace, config));
      evidence.push_back(EvidenceSecs(prefilled.trace, spec));
    }
    std::printf(
        "{\"benchmark\": \"tracking in prefill\", \"policy\": \"%s\", \"context\": %d, \"attention_secs\": %.3f, "
        "\"statistic_secs\": %.3f, \"share_of_attention\": %.3f}\n",
        spec, context, Median(attention), Median(evidence), Median(evidence) / Median(attention));
  }
}

void MeasureDecode(Decoder& decoder, const Prefilled& prefilled, int context) {
  const std::vector<PlanRequest> requests{prefilled.Request("adkvc:every=0:growth=append", 0.5),
                                          prefilled.Request("adkvc", 0.5)};
  const std::vector<Plan> plans = MakePlans(prefilled.trace, requests, {});
  std::vector<double> step_secs[2];
  for (int round = 0; round < kRounds; ++round) {
    std::vector<Fork> forks;
    for (const Plan& plan : plans) forks.push_back(prefilled.MakeFork(plan));
    for (int step = 0; step < kSteps; ++step) {  // in turn, so that both meet the same machine
      for (int i : {0, 1}) {
        const int id = 100 + step;
        const double begin = Seconds();
        Feed(decoder, {&forks[i], 1}, {&id, 1});
        step_secs[i].push_back(Seconds() - begin);
      }
    }
  }
  const auto mean = [](const std::vector<double>& secs) {
    double sum = 0;
    for (const double value : secs) sum += value;
    return sum / static_cast<double>(secs.size());
  };
  std::printf(
      "{\"benchmark\": \"tracking in decode\", \"policy\": \"adkvc\", \"context\": %d, \"step_ms\": %.2f, "
      "\"step_without_ms\": %.2f, \"overhead\": %.3f, \"median_overhead\": %.3f}\n",
      context, 1e3 * mean(step_secs[1]), 1e3 * mean(step_secs[0]), mean(step_secs[1]) / mean(step_secs[0]) - 1,
      Median(step_secs[1]) / Median(step_secs[0]) - 1);
}

}  // namespace
}  // namespace kvscope

int main(int argc, char** argv) {
  try {
    if (argc < 3) throw kvscope::Error("usage: adkvc_bench MODEL.gguf TEXT [CONTEXT]");
    const kvscope::GgufFile gguf = kvscope::GgufFile::Open(argv[1]);
    const kvscope::Tokenizer tokenizer = kvscope::Tokenizer::FromGguf(gguf);
    const std::unique_ptr<kvscope::Model> model = kvscope::LoadModel(gguf);
    std::ifstream file(argv[2], std::ios::binary);
    const std::string text{std::istreambuf_iterator<char>(file), {}};
    const int context = argc > 3 ? std::atoi(argv[3]) : 4096;
    kvscope::Decoder decoder(*model);
    const kvscope::Prefilled prefilled(decoder, tokenizer, text.substr(0, 200000), context);
    if (argc <= 4) kvscope::MeasurePrefill(prefilled, model->config, context);
    kvscope::MeasureDecode(decoder, prefilled, context);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "adkvc_bench: %s\n", error.what());
    return 2;
  }
  return 0;
}
