// SPDX-License-Identifier: Apache-2.0
// Prefill and decode of a real text with and without recording, side by side: one JSON line per figure.
//   capture_bench MODEL.gguf TEXT [CONTEXT ...]
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <vector>

#include "capture/cpu_engine.h"
#include "capture/recorder.h"
#include "capture/run.h"
#include "core/error.h"

namespace kvscope {
namespace {

constexpr int kSteps = 24, kRounds = 3;

struct Figures {
  std::vector<double> prefill, decode;
  double file_bytes = 0;
};

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

void Measure(const Model& model, const Tokenizer& tokenizer, const std::vector<int>& text, int context) {
  Prompt prompt;
  prompt.ids.assign(text.begin(), text.begin() + context);
  prompt.forced_ids.assign(text.begin() + context, text.begin() + context + kSteps);
  prompt.segments.push_back({"context", 0, 0, context, true});
  const std::string path = (std::filesystem::temp_directory_path() / "capture_bench.kvtrace.h5").string();
  CpuEngine engine(model, DType::kF16);
  Figures plain, qkv, rows;
  const auto run = [&](TraceLevel level, bool is_recorded, Figures& figures) {
    RunOptions options;
    options.level = level;
    const TraceInfo info = MakeTraceInfo(model, "", prompt, options);
    std::unique_ptr<Recorder> recorder;
    if (is_recorded)
      recorder = std::make_unique<Recorder>(path, info, Recorder::Options{.writer = {.overwrite = true}});
    const RunOutcome outcome = RunPrompt(engine, &tokenizer, prompt, options, info, recorder.get());
    if (recorder) {
      recorder->Finish();
      figures.file_bytes = static_cast<double>(std::filesystem::file_size(path));
    }
    figures.prefill.push_back(context / outcome.prefill_secs);
    figures.decode.push_back(kSteps / outcome.decode_secs);
  };
  for (int round = 0; round < kRounds; ++round) {
    run(TraceLevel::kQkvRows, false, plain);
    run(TraceLevel::kQkv, true, qkv);
    run(TraceLevel::kQkvRows, true, rows);
  }
  std::filesystem::remove(path);
  for (const auto& [name, figures] : {std::pair{"none", &plain}, {"qkv", &qkv}, {"qkv+rows", &rows}}) {
    std::printf(
        "{\"benchmark\": \"capture\", \"context\": %d, \"level\": \"%s\", \"prefill_tokens_per_s\": %.1f, "
        "\"decode_tokens_per_s\": %.1f, \"prefill_cost\": %.4f, \"decode_cost\": %.4f, \"file_bytes\": %.0f}\n",
        context, name, Median(figures->prefill), Median(figures->decode),
        Median(plain.prefill) / Median(figures->prefill) - 1, Median(plain.decode) / Median(figures->decode) - 1,
        figures->file_bytes);
  }
}

}  // namespace
}  // namespace kvscope

int main(int argc, char** argv) {
  try {
    if (argc < 3) throw kvscope::Error("usage: capture_bench MODEL.gguf TEXT [CONTEXT ...]");
    const kvscope::GgufFile gguf = kvscope::GgufFile::Open(argv[1]);
    const kvscope::Tokenizer tokenizer = kvscope::Tokenizer::FromGguf(gguf);
    const std::unique_ptr<kvscope::Model> model = kvscope::LoadModel(gguf);
    std::ifstream file(argv[2], std::ios::binary);
    const std::string text{std::istreambuf_iterator<char>(file), {}};
    const std::vector<int> ids = tokenizer.Encode(text.substr(0, 200000), false);
    std::vector<int> contexts;
    for (int i = 3; i < argc; ++i) contexts.push_back(std::atoi(argv[i]));
    if (contexts.empty()) contexts = {2048, 4096};
    for (const int context : contexts) kvscope::Measure(*model, tokenizer, ids, context);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "capture_bench: %s\n", error.what());
    return 2;
  }
  return 0;
}
