// SPDX-License-Identifier: Apache-2.0
// Sixteen forks of one prompt, each with its own policy and compacted cache, decoding as a batch and one after another.
//   forks_bench MODEL.gguf TEXT [CONTEXT]
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <vector>

#include "core/error.h"
#include "tests/bench/prefilled.h"

namespace kvscope {
namespace {

constexpr int kForks = 16, kSteps = 8, kRounds = 3;

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
  Decoder decoder(model);
  const Prefilled prefilled(decoder, tokenizer, text, context);
  std::vector<PlanRequest> requests;
  const std::vector<std::string> specs{"full",  "snapkv",        "h2o",         "tova",
                                       "adkvc", "streaming_llm", "snapkv@int4", "random"};
  for (int i = 0; i < kForks; ++i) {
    requests.push_back(prefilled.Request(specs[i % specs.size()], i < kForks / 2 ? 0.5 : 0.25));
  }
  const std::vector<Plan> plans = MakePlans(prefilled.trace, requests, {});
  std::vector<Fork> forks;
  for (const Plan& plan : plans) forks.push_back(prefilled.MakeFork(plan));
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
