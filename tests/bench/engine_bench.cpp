// SPDX-License-Identifier: Apache-2.0
// What capture costs a decoder on the device at hand: random weights of a large model's shape, one JSON line per
// figure.
//   engine_bench [SHAPE [CONTEXT [STEPS [FOLDER]]]]      llama-3.1-8b 32768 64 /tmp
// Levels take turns, so that all see the same machine; figures are medians of the rounds. While steps are timed nothing
// leaves the ring: that is the cost until a ring of the printed size is full. The rate that lasts, with the file on
// FOLDER's disk, is measured apart, on a shorter context.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <vector>

#include "capture/device_engine.h"
#include "capture/recorder.h"
#include "capture/run.h"
#include "capture/synthetic.h"
#include "core/error.h"
#include "kernels/device.h"

namespace kvscope {
namespace {

constexpr int kWarmUps = 6, kRounds = 3, kChunk = 2048;
constexpr int kDiskContext = 4096, kDiskSteps = 256;

double Seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}
double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

double CopyBytesPerSec() {
  const size_t bytes = size_t{1} << 30;
  const cuda::DeviceBuffer from(bytes), to(bytes);
  std::vector<double> rates;
  for (int round = 0; round < 23; ++round) {
    const double begin = Seconds();
    for (int i = 0; i < 8; ++i)
      KVSCOPE_CHECK_CUDA(cudaMemcpyAsync(to.data(), from.data(), bytes, cudaMemcpyDeviceToDevice, nullptr));
    cuda::Synchronize();
    if (round >= 3) rates.push_back(2.0 * 8 * static_cast<double>(bytes) / (Seconds() - begin));
  }
  return Median(rates);
}

// Keeps what it is given until it is emptied, so that nothing but the copies runs beside the model.
class HoldingSink final : public RunSink {
 public:
  explicit HoldingSink(TraceLevel level) : level_(level) {}
  void AppendTokens(TraceTokens) override {}
  bool wants_vectors() const override { return level_ == TraceLevel::kQkvRows || level_ == TraceLevel::kQkv; }
  void AppendChunk(int, int, LayerChunk) override {}
  bool wants_rows() const override { return level_ == TraceLevel::kQkvRows; }
  void AppendRows(int, int, std::vector<Half>) override {}
  void AppendStep(StepInfo) override {}
  void SetLogprobs(int, std::vector<float>) override {}
  void SetSegments(std::vector<Segment>, std::vector<Span>) override {}
  void SetAnswer(TraceAnswer) override {}
  void Defer(std::function<void(RunSink&)> job) override {
    if (is_holding) held_.push_back(std::move(job));  // else its piece of the ring is free at once
  }
  void CountStall(int64_t ns) override { stall_ns += ns; }
  void Empty() { held_.clear(); }

  bool is_holding = false;
  int64_t stall_ns = 0;

 private:
  TraceLevel level_;
  std::vector<std::function<void(RunSink&)>> held_;
};

struct Case {
  const char* name;
  TraceLevel level;
  bool is_recorded;
  std::vector<double> step_secs{}, prefill_secs{};
  CaptureMemory memory{};
  int64_t stall_ns = 0;
};

void Measure(const ModelConfig& config, DeviceEngine& engine, int context, int steps, double copy_rate) {
  const Prompt prompt = SyntheticPrompts(config, {context}, kWarmUps + steps, 1)[0];
  std::vector<Case> cases{{.name = "none", .level = TraceLevel::kQkv, .is_recorded = false},
                          {.name = "relevance", .level = TraceLevel::kRelevance, .is_recorded = true},
                          {.name = "qkv", .level = TraceLevel::kQkv, .is_recorded = true},
                          {.name = "qkv+rows", .level = TraceLevel::kQkvRows, .is_recorded = true}};
  for (int round = 0; round < kRounds; ++round) {
    for (Case& one : cases) {
      const TraceInfo info =
          MakeTraceInfo(config, engine.info(), "", prompt, {.level = one.level, .prefill_chunk = kChunk});
      HoldingSink sink(one.level);
      engine.Begin(info, one.is_recorded ? &sink : nullptr, context + kWarmUps + steps);
      double begin = Seconds();
      for (int first = 0; first < context; first += kChunk)
        engine.Run(std::span(prompt.ids).subspan(first, std::min(kChunk, context - first)), /*is_step=*/false);
      int id = engine.Best(1).ids[0];
      one.prefill_secs.push_back(Seconds() - begin);
      sink.is_holding = true;
      for (int step = 0; step < kWarmUps + steps; ++step) {
        if (step == kWarmUps) begin = Seconds();
        engine.Run({&id, 1}, /*is_step=*/true);
        id = engine.Best(1).ids[0];
      }
      one.step_secs.push_back((Seconds() - begin) / steps);
      sink.Empty();
      one.memory = engine.capture_memory();
      one.stall_ns = sink.stall_ns;
    }
  }
  // Read at every step: all weights but the embedding's rows, and the cache.
  const double cache = 4.0 * config.num_layers * config.num_kv_heads * config.head_dim * (context + steps / 2);
  const double weights = static_cast<double>(engine.weight_bytes()) - 2.0 * config.vocab * config.hidden;
  const double plain = Median(cases[0].step_secs);
  for (const Case& one : cases) {
    const double secs = Median(one.step_secs);
    std::printf(
        "{\"benchmark\": \"decode\", \"shape\": \"%s\", \"context\": %d, \"steps\": %d, \"level\": \"%s\", "
        "\"tokens_per_s\": %.1f, \"cost\": %.4f, \"share_of_copy_bandwidth\": %.3f, \"prefill_tokens_per_s\": %.0f, "
        "\"capture_device_bytes\": %lld, \"ring_bytes\": %lld, \"stall_ms\": %.1f}\n",
        config.name.c_str(), context, steps, one.name, 1 / secs, 1 - plain / secs, (weights + cache) / secs / copy_rate,
        context / Median(one.prefill_secs), static_cast<long long>(one.memory.device_bytes),
        static_cast<long long>(one.memory.host_bytes), 1e-6 * static_cast<double>(one.stall_ns));
    std::fflush(stdout);
  }
}

void MeasureDisk(const ModelConfig& config, DeviceEngine& engine, const std::string& folder) {
  const Prompt prompt = SyntheticPrompts(config, {kDiskContext}, kDiskSteps, 2)[0];
  const RunOptions options{.level = TraceLevel::kQkvRows, .prefill_chunk = kChunk};
  const TraceInfo info = MakeTraceInfo(config, engine.info(), "", prompt, options);
  const std::string path = (std::filesystem::path(folder) / "engine_bench.kvtrace.h5").string();
  Recorder recorder(path, info, {.writer = {.overwrite = true}});
  const double begin = Seconds();
  const RunOutcome outcome = RunPrompt(engine, nullptr, prompt, options, info, &recorder);
  const double decoded = Seconds();
  recorder.Finish();
  std::printf(
      "{\"benchmark\": \"capture to disk\", \"shape\": \"%s\", \"context\": %d, \"steps\": %d, \"level\": "
      "\"qkv+rows\", "
      "\"tokens_per_s\": %.1f, \"stall_secs\": %.2f, \"file_bytes\": %lld, \"bytes_per_s\": %.0f, "
      "\"secs_after_the_last_step\": %.2f}\n",
      config.name.c_str(), kDiskContext, outcome.steps, outcome.steps / outcome.decode_secs,
      1e-9 * static_cast<double>(recorder.total_stall_ns()), static_cast<long long>(recorder.bytes_written()),
      static_cast<double>(recorder.bytes_written()) / (Seconds() - begin), Seconds() - decoded);
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace kvscope

int main(int argc, char** argv) {
  using namespace kvscope;
  try {
    if (argc > 5) throw Error("usage: engine_bench [SHAPE [CONTEXT [STEPS [FOLDER]]]]");
    const int context = argc > 2 ? std::atoi(argv[2]) : 32768, steps = argc > 3 ? std::atoi(argv[3]) : 64;
    if (context < 1 || steps < 1) throw Error("engine_bench: expected a context and steps of 1 or more");
    const ModelConfig config = SyntheticConfig(argc > 1 ? argv[1] : "llama-3.1-8b");
    if (!cuda::IsAvailable()) throw Error("expected a CUDA device that this build has code for, found none");
    // Room for every timed step's rows: nothing is taken out meanwhile.
    const int64_t rows = int64_t{2} * config.num_layers * config.num_heads * (context + steps + 64);
    const int64_t ring = (steps + kWarmUps + 2) * (rows + rows / 8) + (int64_t{64} << 20);
    const double copy_rate = CopyBytesPerSec();
    std::printf("{\"device\": \"%s\", \"copy_gb_per_s\": %.0f}\n", cuda::DeviceName().c_str(), 1e-9 * copy_rate);
    const auto engine = cuda::MakeRandomEngine(config, {.ring_bytes = ring});
    Measure(config, *engine, context, steps, copy_rate);
    MeasureDisk(config, *engine, argc > 4 ? argv[4] : std::filesystem::temp_directory_path().string());
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "engine_bench: %s\n", error.what());
    return 2;
  }
}
