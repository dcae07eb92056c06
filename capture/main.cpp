// SPDX-License-Identifier: Apache-2.0
// kvscope-capture: options -> model -> prompts -> decoder -> trace files.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <climits>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <optional>

#include "capture/activations_flag.h"
#include "capture/cpu_engine.h"
#include "capture/device_engine.h"
#include "capture/recorder.h"
#include "capture/run.h"
#include "capture/synthetic.h"
#include "capture/task_flags.h"
#include "core/error.h"
#include "core/units.h"
#include "kernels/device_choice.h"

namespace kvscope {
namespace {

namespace fs = std::filesystem;

struct Flags {
  TaskFlags task;
  std::string model, synthetic, output;
  std::string level = "qkv+rows", device = "auto", weights = "f16", kv_dtype = "f16", query_rows = "all",
              activations = "float";
  std::vector<int> layers, kv_heads;
  int prefill_chunk = 512, queue_mib = 512;
  double flush_secs = 1.0;
  bool logprobs = false, force = false;
};

bool IsFolder(const std::string& output) {
  return output.ends_with('/') || fs::is_directory(output);
}

// One file for one prompt, a folder for several or when the name ends in '/'; never one of the inputs. Checked before
// the model's weights are read; makes nothing.
std::vector<std::string> OutputPaths(const Flags& flags, const std::vector<Prompt>& prompts,
                                     std::vector<std::string> inputs) {
  inputs.insert(inputs.end(), {flags.task.haystack, flags.task.file});
  const bool is_folder = IsFolder(flags.output);
  if (!is_folder && prompts.size() > 1) {
    throw Error(StrCat("-o ", flags.output, ": ", prompts.size(),
                       " runs were asked for; expected a folder, for example -o ", flags.output, "/"));
  }
  std::vector<std::string> paths;
  for (const Prompt& prompt : prompts) {
    paths.push_back(is_folder ? (fs::path(flags.output) / (prompt.file_stem + ".kvtrace.h5")).string() : flags.output);
    if (fs::exists(paths.back()) && !flags.force)
      throw Error(StrCat(paths.back(), ": exists already; remove it or pass --force"));
    for (const std::string& input : inputs) {
      std::error_code not_there;
      if (fs::equivalent(paths.back(), input, not_there))
        throw Error(StrCat(paths.back(), ": is read by this command; write to another file"));
    }
    if (!is_folder) CheckTraceTarget(paths.back(), flags.force);
  }
  return paths;
}

void MakeFolder(const std::string& output) {
  std::error_code failure;
  if (IsFolder(output)) fs::create_directories(output, failure);
  if (failure) throw Error(StrCat(output, ": cannot make this folder: ", failure.message()));
}

void PrintProgress(const std::string& name, int done, int total) {
  constexpr int kWidth = 32;
  const int filled = total > 0 ? done * kWidth / total : 0;
  std::fprintf(stderr, "\r%-28s [%.*s%*s] %d/%d tokens ", name.c_str(), filled, "################################",
               kWidth - filled, "", done, total);
}

void PrintOutcome(const std::string& path, const RunOutcome& run, int64_t bytes) {
  std::printf("%s  %d + %d tokens  %s  prefill %.0f tokens/s", Escape(path).c_str(), run.prompt_tokens, run.steps,
              FormatBytes(bytes).c_str(), run.prompt_tokens / run.prefill_secs);
  if (run.steps > 0) std::printf("  decode %.1f tokens/s", run.steps / run.decode_secs);
  if (!std::isnan(run.mean_nll)) std::printf("  perplexity %.3f", std::exp(run.mean_nll));
  if (!std::isnan(run.score)) std::printf("  %s", run.score > 0 ? "right" : "wrong");
  if (!run.answer.empty()) std::printf("  \"%s\"", Escape(run.answer).c_str());
  std::printf("\n");
  std::fflush(stdout);
}

// A GGUF file and what is asked of it, or the same with random weights: no file, no tokenizer, no model in memory.
struct Work {
  std::optional<Tokenizer> tokenizer;
  std::unique_ptr<Model> model;
  ModelConfig config;
  std::vector<Prompt> prompts;
  std::vector<std::string> paths;  // [prompt], of the traces
  std::string sha256;
};

Work MakeWork(const Flags& flags) {
  Work work;
  if (!flags.synthetic.empty()) {
    if (!flags.model.empty()) throw Error("--model and --synthetic: expected one of them");
    if (flags.activations != "float") {
      throw Error(StrCat("--synthetic ", flags.synthetic, ": runs on a CUDA device only, where --activations ",
                         flags.activations, " is unknown; leave the latter out"));
    }
    work.config = SyntheticConfig(flags.synthetic);
    work.prompts = SyntheticPrompts(work.config, flags.task.contexts, flags.task.max_new, flags.task.seed);
    work.paths = OutputPaths(flags, work.prompts, {});
    return work;
  }
  const GgufFile gguf = GgufFile::Open(flags.model);
  const int context_limit = ReadModelConfig(gguf, /*max_tokens=*/INT_MAX).context_length;
  work.tokenizer = Tokenizer::FromGguf(gguf);
  work.prompts = MakePrompts(flags.task, *work.tokenizer, context_limit);
  work.paths = OutputPaths(flags, work.prompts, gguf.paths());
  work.model = LoadModel(gguf, LongestRun(work.prompts));
  work.config = work.model->config;
  work.sha256 = gguf.HexSha256OfFiles();
  return work;
}

std::unique_ptr<Engine> MakeEngine(const Flags& flags, const DeviceChoice& device, Work& work) {
  if (!device.is_cuda) {
    if (!work.model)
      throw Error(StrCat("--synthetic ", flags.synthetic,
                         ": runs on a CUDA device only; expected one, and neither --device cpu nor --kv-dtype f32"));
    const Activations activations = ActivationsFromName(flags.activations);
    if (activations == Activations::kInt8) ReportInt8("kvscope-capture", *work.model, work.prompts.front().ids);
    return std::make_unique<CpuEngine>(*work.model, flags.kv_dtype == "f32" ? DType::kF32 : DType::kF16, activations);
  }
  cuda::UseDevice(device.index);
  const DeviceOptions options{.weights = flags.weights == "f16" ? DenseType::kF16 : DenseType::kBF16,
                              .ring_bytes = int64_t{flags.queue_mib} << 20};
  if (!work.model) return cuda::MakeRandomEngine(work.config, options);
  auto engine = cuda::MakeDeviceEngine(*work.model, options);
  work.model.reset();  // the device has it now
  return engine;
}

// The device's attention reads f16: an f32 cache is the CPU's, and so are int8 activations. Where neither a device nor
// the CPU was asked for, Run chooses by the model too.
DeviceChoice DeviceOf(const Flags& flags) {
  if (flags.activations != "float" && flags.device.starts_with("cuda")) {
    throw Error(StrCat("--activations ", flags.activations,
                       ": runs on the CPU only; expected --device cpu or auto, or ", "--activations float"));
  }
  if (flags.kv_dtype == "f16") return ChooseDevice(flags.device, /*can_use_cuda=*/true);
  if (flags.device == "auto") return {};
  const DeviceChoice device = ChooseDevice(flags.device, /*can_use_cuda=*/true);
  if (device.is_cuda) throw Error(StrCat("--kv-dtype f32: runs on the CPU only; expected --device cpu"));
  return device;
}

void Run(const Flags& flags) {
  if (flags.model.empty() && flags.synthetic.empty()) throw Error("--model is required; see --help");
  if (flags.output.empty()) throw Error("--output is required; see --help");
  DeviceChoice device = DeviceOf(flags);
  if (std::isnan(flags.flush_secs)) throw Error("--flush-secs: expected a number from 0.01 to 3600, found nan");
  RunOptions options;
  options.kv_dtype = flags.kv_dtype == "f32" ? DType::kF32 : DType::kF16;
  options.level = TraceLevelFromName(flags.level);
  options.prefill_chunk = flags.prefill_chunk;
  options.logprobs = flags.logprobs;
  options.layers = flags.layers;
  options.kv_heads = flags.kv_heads;
  options.query_rows = flags.query_rows;
  Work work = MakeWork(flags);
  const std::vector<Prompt>& prompts = work.prompts;
  if (device.is_cuda && flags.device == "auto") {
    const std::string why = WhyNotOnDevice(work.config, ActivationsFromName(flags.activations));
    if (!why.empty()) {
      std::fprintf(stderr, "kvscope-capture: no device computes %s yet: the model runs on the CPU\n", why.c_str());
      device = {};
    }
  }
  const std::unique_ptr<Engine> engine = MakeEngine(flags, device, work);
  std::vector<TraceInfo> infos;
  for (const Prompt& prompt : prompts)
    infos.push_back(MakeTraceInfo(work.config, engine->info(), work.sha256, prompt, options));
  MakeFolder(flags.output);
  const bool has_terminal = isatty(STDERR_FILENO);
  for (size_t i = 0; i < prompts.size(); ++i) {
    if (has_terminal)
      options.progress = [&](int done, int total) {
        PrintProgress(fs::path(work.paths[i]).stem().stem(), done, total);
      };
    Recorder::Options recording;
    recording.writer.flush_interval_secs = flags.flush_secs;
    recording.writer.overwrite = flags.force;
    recording.queue_bytes = int64_t{flags.queue_mib} << 20;
    Recorder recorder(work.paths[i], infos[i], recording);
    const RunOutcome outcome =
        RunPrompt(*engine, work.tokenizer ? &*work.tokenizer : nullptr, prompts[i], options, infos[i], &recorder);
    recorder.Finish();
    if (has_terminal) std::fprintf(stderr, "\r\033[K");
    PrintOutcome(work.paths[i], outcome, recorder.bytes_written());
    if (recorder.total_stall_ns() > 0) {
      std::fprintf(stderr,
                   "kvscope-capture: the model waited %.1f s for the disk; a larger --queue-mib hides more of it\n",
                   recorder.total_stall_ns() * 1e-9);
    }
    if (const auto* const on_device = dynamic_cast<const DeviceEngine*>(engine.get())) {
      const CaptureMemory memory = on_device->capture_memory();
      std::fprintf(stderr, "kvscope-capture: recording took %s on the device and a ring of %s in memory\n",
                   FormatBytes(memory.device_bytes).c_str(), FormatBytes(memory.host_bytes).c_str());
    }
  }
}

}  // namespace
}  // namespace kvscope

int main(int argc, char** argv) {
  using kvscope::Flags;
  Flags flags;
  CLI::App app{"Records what a model's attention saw, one trace file per run.", "kvscope capture"};
  app.add_option("--model", flags.model, "GGUF file, or any part of a split one");
  app.add_option("--synthetic", flags.synthetic,
                 "instead of --model, for performance only: random weights of the shape llama-3.1-8b, qwen2.5-7b or "
                 "llama-3.1-70b-layer, on a CUDA device");
  kvscope::AddTaskOptions(app, flags.task);
  app.add_option("--level", flags.level, "qkv+rows, qkv, rows or relevance")->capture_default_str();
  app.add_option("--kv-dtype", flags.kv_dtype, "f16 or f32")
      ->check(CLI::IsMember({"f16", "f32"}))
      ->capture_default_str();
  app.add_option("--layers", flags.layers, "record these layers only")->delimiter(',');
  app.add_option("--kv-heads", flags.kv_heads, "record these KV heads (and their query heads) only")->delimiter(',');
  app.add_option("--query-rows", flags.query_rows, "rows of q and lse to keep: all, or last:64+stride:64")
      ->capture_default_str();
  app.add_flag("--logprobs", flags.logprobs, "also record the log-probability of every prompt token");
  app.add_option("--prefill-chunk", flags.prefill_chunk, "tokens")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--flush-secs", flags.flush_secs, "what a kill can lose at most, in seconds")
      ->check(CLI::Range(0.01, 3600.0))
      ->capture_default_str();
  app.add_option("--queue-mib", flags.queue_mib, "memory for what the disk has not taken yet")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--device", flags.device, "cpu, cuda:0, or auto: a CUDA device where there is one")
      ->capture_default_str();
  app.add_option("--weights", flags.weights, "f16 or bf16: on a CUDA device the weights become this")
      ->check(CLI::IsMember({"f16", "bf16"}))
      ->capture_default_str();
  kvscope::AddActivationsOption(app, flags.activations);
  app.add_flag("--force", flags.force, "overwrite");
  app.add_option("-o,--output", flags.output, "trace file, or a folder for a grid");
  try {
    app.parse(argc, argv);
    kvscope::Run(flags);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help
    std::fprintf(stderr, "kvscope-capture: %s; see --help\n", kvscope::Escape(error.what()).c_str());
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "kvscope-capture: %s\n", kvscope::Escape(error.what()).c_str());
    return 2;
  }
  return 0;
}
