// SPDX-License-Identifier: Apache-2.0
#include "replay/live/live_command.h"

#include <tbb/global_control.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <climits>
#include <cstdio>
#include <memory>

#include "capture/activations_flag.h"
#include "capture/run.h"
#include "capture/task_flags.h"
#include "core/error.h"
#include "kernels/device_choice.h"
#include "replay/live/live_run.h"
#include "replay/sweep.h"
#include "replay/sweep_flags.h"
#include "replay/text_table.h"

namespace kvscope {
namespace {

struct Flags {
  std::string model, device = "auto", kv_dtype = "f16", activations = "float", output, csv;
  TaskFlags task;
  SweepFlags sweep;
  int prefill_chunk = 512, fork_mib = 4096, threads = 0;
  bool is_bare = false, measures_speed = true;
};

std::vector<PlanRequest> RequestsOf(const SweepOptions& options) {
  std::vector<PlanRequest> requests;
  for (const PolicySpec& spec : ParsePolicies(options)) {
    for (const BudgetSpec& budget : options.budgets) {
      PlanRequest request;
      request.spec = spec;
      request.budget = budget;
      request.guards = options.guards;
      requests.push_back(request);
      if (spec.Needs({1, 1, 1, 16, 16}).fixed_rate) break;  // one row, whatever the budget
    }
  }
  return requests;
}

void Run(const Flags& flags, const std::string& command) {
  ChooseDevice(flags.device, /*can_use_cuda=*/false);
  SweepOptions sweep = OptionsOf(flags.sweep);
  sweep.is_bare = flags.is_bare;
  const std::vector<PlanRequest> requests = RequestsOf(sweep);
  const GgufFile gguf = GgufFile::Open(flags.model);
  std::vector<std::string> inputs = gguf.paths();
  inputs.insert(inputs.end(), {flags.task.haystack, flags.task.file});
  CheckOutput(flags.output, inputs);
  inputs.push_back(flags.output);
  CheckOutput(flags.csv, inputs);
  std::unique_ptr<tbb::global_control> threads;
  if (flags.threads > 0)
    threads = std::make_unique<tbb::global_control>(tbb::global_control::max_allowed_parallelism, flags.threads);
  const Tokenizer tokenizer = Tokenizer::FromGguf(gguf);
  const std::vector<Prompt> prompts =
      MakePrompts(flags.task, tokenizer, ReadModelConfig(gguf, /*max_tokens=*/INT_MAX).context_length);
  const std::unique_ptr<Model> model = LoadModel(gguf, LongestRun(prompts));
  LiveOptions options;
  options.kv_dtype = flags.kv_dtype == "f32" ? DType::kF32 : DType::kF16;
  options.prefill_chunk = flags.prefill_chunk;
  options.seed = flags.task.seed;
  options.fork_bytes = int64_t{flags.fork_mib} << 20;
  options.measures_speed = flags.measures_speed;
  const Activations activations = ActivationsFromName(flags.activations);
  if (activations == Activations::kInt8) ReportInt8("kvscope-replay", *model, prompts.front().ids);
  Decoder decoder(*model, activations);
  const bool has_terminal = isatty(STDERR_FILENO);
  Results results;
  results.commands.push_back(command);
  for (size_t i = 0; i < prompts.size(); ++i) {
    if (has_terminal) {
      options.progress = [&](const std::string& stage, int done, int total) {
        std::fprintf(stderr, "\r\033[K%zu/%zu %s: %s %d/%d", i + 1, prompts.size(), prompts[i].file_stem.c_str(),
                     stage.c_str(), done, total);
      };
    }
    for (const Protocol protocol : sweep.protocols) {
      options.protocol = protocol;
      for (Results::Row& row : RunLive(decoder, tokenizer, prompts[i], requests, options))
        results.rows.push_back(std::move(row));
    }
  }
  if (has_terminal) std::fprintf(stderr, "\r\033[K");
  WriteResults(flags.output, results);
  if (!flags.csv.empty()) WriteCsv(flags.csv, results);
  if (flags.csv != "-") std::fputs(SummaryTable(results).c_str(), stdout);
  if (const std::string refusal = RefusalText(results); !refusal.empty())
    std::fprintf(stderr, "kvscope-replay: %s\n", refusal.c_str());
}

}  // namespace

void AddLiveCommand(CLI::App& app, const std::string& command) {
  CLI::App* live = app.add_subcommand("live", "run policies inside the decoder, over caches that really shrink");
  const auto flags = std::make_shared<Flags>();
  live->add_option("--model", flags->model, "GGUF file, or any part of a split one")->required();
  AddTaskOptions(*live, flags->task);
  AddSweepFlags(*live, flags->sweep);
  live->add_flag("--bare", flags->is_bare, "without the full cache, random entries and the oracle beside");
  live->add_option("--kv-dtype", flags->kv_dtype, "f16 or f32")
      ->check(CLI::IsMember({"f16", "f32"}))
      ->capture_default_str();
  AddActivationsOption(*live, flags->activations);
  live->add_option("--prefill-chunk", flags->prefill_chunk, "tokens")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  live->add_option("--fork-mib", flags->fork_mib, "memory for the forks' caches; they advance in groups that fit")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  live->add_flag("!--no-speed", flags->measures_speed, "do not measure tokens/s of each fork alone");
  live->add_option("--device", flags->device, "cpu or auto")->capture_default_str();
  live->add_option("--threads", flags->threads, "0: all")->check(CLI::Range(0, 1 << 14))->capture_default_str();
  live->add_option("-o,--output", flags->output, "results file (HDF5)")->required();
  live->add_option("--csv", flags->csv, "also as CSV; - is stdout");
  live->callback([flags, command] { Run(*flags, command); });
}

}  // namespace kvscope
