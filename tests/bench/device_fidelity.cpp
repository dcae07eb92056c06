// SPDX-License-Identifier: Apache-2.0
// A real model on the device against the CPU, one JSON line per comparison; exit code 1 when a bar is missed:
//   device_fidelity MODEL.gguf TEXT [CONTEXT [NEEDLES [ANSWER_TOKENS]]]      1024 3 16
// Layers one by one, each with the CPU's input: q, k, v and what the layer adds below 5e-3 (relative, Frobenius), lse
// below 5e-3 (root mean square: scores of the default model reach 65, where f16 q and k alone move the largest by
// 1e-2). Whole runs of needles in the text: below 3e-2, and the same answers. Four times that in bf16.
// device_fidelity_emulated is the same over the emulated device, for short contexts.
#include <cstdio>
#include <cstdlib>

#include "capture/cpu_engine.h"
#include "capture/run.h"
#include "capture/task_flags.h"
#include "core/error.h"
#include "tests/support/capture_fidelity.h"

namespace kvscope::KVSCOPE_TWIN {
namespace {

constexpr double kLayerBar = 5e-3, kRunBar = 3e-2;
constexpr double kWider = 4;  // for bf16, whose 8 bits round eight times as much as f16's 11

bool Report(const char* what, const char* weights, int tokens, const FidelityErrors& e, double bar, const char* more) {
  const bool is_good = e.q < bar && e.k < bar && e.v < bar && e.out < bar && e.lse < bar;
  std::printf(
      "{\"benchmark\": \"%s\", \"device\": \"%s\", \"weights\": \"%s\", \"tokens\": %d, \"q\": %.2e, \"k\": %.2e, "
      "\"v\": "
      "%.2e, \"out\": %.2e, \"lse\": %.2e, \"largest_lse\": %.2e, \"bar\": %.0e, \"passed\": %s%s}\n",
      what, DeviceName().c_str(), weights, tokens, e.q, e.k, e.v, e.out, e.lse, e.largest_lse, bar,
      is_good ? "true" : "false", more);
  std::fflush(stdout);
  return is_good;
}

bool RunAll(const char* model_path, const TaskFlags& flags) {
  const GgufFile gguf = GgufFile::Open(model_path);
  const Tokenizer tokenizer = Tokenizer::FromGguf(gguf);
  const std::unique_ptr<Model> model = LoadModel(gguf);
  const std::vector<Prompt> prompts = MakePrompts(flags, tokenizer, model->config.context_length);
  bool is_good = true;
  for (const DenseType type : {DenseType::kF16, DenseType::kBF16}) {
    const char* const weights = type == DenseType::kF16 ? "f16" : "bf16";
    const double wider = type == DenseType::kF16 ? 1 : kWider;
    const auto engine = MakeDeviceEngine(*model, {.weights = type});
    const std::span<const int> ids = std::span(prompts[0].ids).first(std::min<size_t>(512, prompts[0].ids.size()));
    FidelityErrors worst;
    for (const FidelityErrors& errors : CompareLayers(*model, *engine, ids)) worst = Worst(worst, errors);
    is_good &=
        Report("layers with the CPU's input", weights, static_cast<int>(ids.size()), worst, kLayerBar * wider, "");
    for (const Prompt& prompt : prompts) {
      RunOptions options;
      options.level = TraceLevel::kQkv;
      CpuEngine cpu(*model, DType::kF16);
      const TraceInfo info = MakeTraceInfo(*model, "", prompt, options);
      MemoryTrace expected(info), found(info);
      MemorySink expected_sink(expected), found_sink(found);
      const RunOutcome on_cpu = RunPrompt(cpu, &tokenizer, prompt, options, info, &expected_sink);
      const RunOutcome on_device = RunPrompt(*engine, &tokenizer, prompt, options, info, &found_sink);
      const bool is_same = on_cpu.answer == on_device.answer;
      FidelityErrors errors;
      if (is_same) errors = CompareTraces(found, expected);
      const std::string more = StrCat(", \"same_answer\": ", is_same ? "true" : "false",
                                      ", \"right\": ", on_device.score > 0 ? "true" : "false");
      is_good &=
          Report("whole run", weights, on_cpu.prompt_tokens + on_cpu.steps, errors, kRunBar * wider, more.c_str());
      is_good &= is_same;
    }
  }
  return is_good;
}

}  // namespace
}  // namespace kvscope::KVSCOPE_TWIN

int main(int argc, char** argv) {
  using namespace kvscope;
  try {
    if (argc < 3 || argc > 6) throw Error("usage: device_fidelity MODEL.gguf TEXT [CONTEXT [NEEDLES [ANSWER_TOKENS]]]");
    TaskFlags flags;
    flags.haystack = argv[2];
    flags.contexts = {argc > 3 ? std::atoi(argv[3]) : 1024};
    flags.repeats = argc > 4 ? std::atoi(argv[4]) : 3;
    flags.max_new = argc > 5 ? std::atoi(argv[5]) : 16;
    if (!KVSCOPE_TWIN::IsAvailable()) throw Error("expected a CUDA device that this build has code for, found none");
    return KVSCOPE_TWIN::RunAll(argv[1], flags) ? 0 : 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "device_fidelity: %s\n", error.what());
    return 2;
  }
}
