// SPDX-License-Identifier: Apache-2.0
// Prefill and decode of a real text by the decoder, alone and recorded, at the word of a program that measures a peer
// in between (peers/llama_decode.py): one JSON line per request.
//   decoder_bench MODEL.gguf TEXT THREADS      then lines "ACTIVATIONS PROMPT STEPS" or "ACTIVATIONS+trace PROMPT
//   STEPS"
#include <sys/resource.h>
#include <tbb/global_control.h>

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <vector>

#include "capture/cpu_engine.h"
#include "capture/recorder.h"
#include "capture/run.h"
#include "core/error.h"

namespace kvscope {
namespace {

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Of all threads; what a busy machine distorts less than the time on the wall.
double CpuSecs() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto secs = [](const timeval& time) { return static_cast<double>(time.tv_sec) + 1e-6 * time.tv_usec; };
  return secs(usage.ru_utime) + secs(usage.ru_stime);
}

struct Figures {
  double prefill_secs = 0, prefill_cpu_secs = 0, decode_secs = 0, decode_cpu_secs = 0;
};

Figures MeasureAlone(const Model& model, Activations activations, std::span<const int> prompt, int steps) {
  constexpr size_t kChunk = 512;
  Decoder decoder(model, activations);
  FullCache cache(model.config, DType::kF16);
  std::vector<float> logits(model.config.vocab);
  const auto run = [&](std::span<const int> ids) {
    const DecoderInput input{&cache, ids, {}};
    const std::span<const float> hidden = decoder.Run({&input, 1});
    decoder.Logits(hidden.last(model.config.hidden), 1, logits);
    return ArgMax(logits);
  };
  Figures figures;
  double begin = Now(), cpu_begin = CpuSecs();
  int next = 0;
  for (size_t at = 0; at < prompt.size(); at += kChunk)
    next = run(prompt.subspan(at, std::min(kChunk, prompt.size() - at)));
  figures.prefill_secs = Now() - begin;
  figures.prefill_cpu_secs = CpuSecs() - cpu_begin;
  begin = Now(), cpu_begin = CpuSecs();
  for (int step = 0; step < steps; ++step) next = run({&next, 1});
  figures.decode_secs = Now() - begin;
  figures.decode_cpu_secs = CpuSecs() - cpu_begin;
  return figures;
}

Figures MeasureRecorded(const Model& model, const Tokenizer& tokenizer, Activations activations,
                        std::span<const int> text, int context, int steps) {
  Prompt prompt;
  prompt.ids.assign(text.begin(), text.begin() + context);
  prompt.forced_ids.assign(text.begin() + context, text.begin() + context + steps);
  prompt.segments.push_back({"context", 0, 0, context, true});
  const std::string path = (std::filesystem::temp_directory_path() / "decoder_bench.kvtrace.h5").string();
  CpuEngine engine(model, DType::kF16, activations);
  const RunOptions options;
  const TraceInfo info = MakeTraceInfo(model, "", prompt, options);
  Recorder recorder(path, info, {.writer = {.overwrite = true}});
  const RunOutcome outcome = RunPrompt(engine, &tokenizer, prompt, options, info, &recorder);
  recorder.Finish();
  std::filesystem::remove(path);
  return {.prefill_secs = outcome.prefill_secs, .decode_secs = outcome.decode_secs};
}

void Serve(const char* model_path, const char* text_path) {
  double begin = Now();
  const GgufFile gguf = GgufFile::Open(model_path);
  const Tokenizer tokenizer = Tokenizer::FromGguf(gguf);
  const std::unique_ptr<Model> model = LoadModel(gguf);
  std::ifstream file(text_path, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  const std::vector<int> ids = tokenizer.Encode(text.substr(0, 200000), false);
  std::printf("{\"load_secs\": %.4f, \"int8\": \"%s\"}\n", Now() - begin, Int8InstructionSet());
  std::fflush(stdout);
  std::string name;
  for (size_t context, steps; std::cin >> name >> context >> steps;) {
    if (context + steps > ids.size()) throw Error(StrCat(text_path, ": expected a longer text"));
    const Activations activations = name.starts_with("int8") ? Activations::kInt8 : Activations::kFloat;
    const Figures figures =
        name.ends_with("+trace")
            ? MeasureRecorded(*model, tokenizer, activations, ids, static_cast<int>(context), static_cast<int>(steps))
            : MeasureAlone(*model, activations, std::span(ids).first(context), static_cast<int>(steps));
    std::printf(
        "{\"prefill_secs\": %.6f, \"prefill_cpu_secs\": %.6f, \"decode_secs\": %.6f, \"decode_cpu_secs\": %.6f}\n",
        figures.prefill_secs, figures.prefill_cpu_secs, figures.decode_secs, figures.decode_cpu_secs);
    std::fflush(stdout);
  }
}

}  // namespace
}  // namespace kvscope

int main(int argc, char** argv) {
  try {
    if (argc != 4) throw kvscope::Error("usage: decoder_bench MODEL.gguf TEXT THREADS, then requests on stdin");
    const tbb::global_control threads(tbb::global_control::max_allowed_parallelism, std::stoul(argv[3]));
    kvscope::Serve(argv[1], argv[2]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "decoder_bench: %s\n", error.what());
    return 2;
  }
  return 0;
}
