// SPDX-License-Identifier: Apache-2.0
#include "replay/live/study_run.h"

#include <algorithm>
#include <chrono>
#include <filesystem>

#include "capture/cpu_engine.h"
#include "capture/run.h"
#include "capture/run_sink.h"
#include "core/error.h"
#include "core/sha256.h"
#include "replay/live/live_run.h"
#include "replay/sweep.h"

namespace kvscope {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr const char* kHoursCommand = "hours ";  // how a part's time stands among the commands of its file

// One file of a study.
struct Part {
  const ArmPlan* arm = nullptr;
  Prompt prompt;
  int prompt_index = 0;
  size_t round = 0;
  Protocol protocol = Protocol::kPrompt;
  std::string path, key;
};

// Says what was asked: another answer means another run.
std::string KeyOf(const ArmPlan& arm, const Prompt& prompt, int prompt_index, Protocol protocol) {
  std::string text = StrCat(KVSCOPE_VERSION, " ", arm.name, " ", prompt.file_stem, " ", Name(protocol), " ",
                            prompt_index < arm.replayed_prompts, " ", prompt.task.parameters_json);
  for (const PlanRequest& request : arm.requests) {
    text += StrCat(" ", request.spec.text, " ", request.spec.parameters, " ", request.budget.value, " ",
                   request.guards.sinks, " ", request.guards.recent);
  }
  return StrCat("study part ", HexSha256(std::as_bytes(std::span(text))));
}

// In an order that makes a study worth reading early: in rounds, of which each gives every arm one more needle at each
// depth, or a text.
std::vector<Part> PartsOf(const Tokenizer& tokenizer, int context_limit, const std::vector<ArmPlan>& arms,
                          const std::string& folder) {
  std::vector<Part> parts;
  for (const ArmPlan& arm : arms) {
    int prompt_index = 0;
    size_t texts = 0;
    for (const TaskFlags& task : arm.tasks) {
      std::vector<Prompt> prompts = MakePrompts(task, tokenizer, context_limit);
      if (task.task == "text") {
        for (Prompt& prompt : prompts) {
          prompt.file_stem = StrCat(fs::path(task.file).stem().string(), "_", prompt.file_stem);
        }
      }
      const size_t repeats = task.task == "niah" ? task.repeats : 1;
      for (size_t repeat = 0; repeat < repeats; ++repeat) {
        const size_t round = task.task == "text" ? texts++ / 2 : repeat;
        for (size_t i = repeat; i < prompts.size(); i += repeats, ++prompt_index) {
          for (const Protocol protocol : arm.protocols) {
            const std::string path =
                StrCat(folder, "/", arm.name, "_", prompts[i].file_stem, "_", Name(protocol), ".h5");
            const std::string key = KeyOf(arm, prompts[i], prompt_index, protocol);
            parts.push_back({&arm, prompts[i], prompt_index, round, protocol, path, key});
          }
        }
      }
    }
  }
  std::stable_sort(parts.begin(), parts.end(), [](const Part& a, const Part& b) { return a.round < b.round; });
  return parts;
}

bool IsDone(const Part& part) {
  if (!fs::exists(part.path)) return false;
  try {
    const Results results = ReadResults(part.path);
    return !results.commands.empty() && results.commands[0] == part.key;
  } catch (const Error&) {
    return false;  // it is made again
  }
}

// The prompt captured in memory, answer and all, and every request replayed on it.
void Replay(Decoder& decoder, const Tokenizer& tokenizer, const Part& part, Results& results) {
  RunOptions run;
  run.level = TraceLevel::kQkv;
  const TraceInfo info = MakeTraceInfo(decoder.model(), "", part.prompt, run);
  MemoryTrace trace(info);
  MemorySink sink(trace);
  CpuEngine engine(decoder.model(), DType::kF16);
  RunPrompt(engine, &tokenizer, part.prompt, run, info, &sink);
  SweepOptions sweep;
  sweep.protocols = {part.protocol};
  sweep.keeps_kept = false;
  sweep.requests = part.arm->requests;
  sweep.analyzes = part.protocol == Protocol::kPrompt;
  ReplayTrace(trace, part.prompt.file_stem, sweep, results);
}

void RunPart(Decoder& decoder, const Tokenizer& tokenizer, const Part& part) {
  const auto begin = Clock::now();
  LiveOptions live;
  live.protocol = part.protocol;
  live.keeps_kept = false;
  live.measures_speed = part.arm->replayed_prompts > part.prompt_index;
  Results results;
  results.commands.push_back(part.key);
  results.rows = RunLive(decoder, tokenizer, part.prompt, part.arm->requests, live);
  if (part.prompt_index < part.arm->replayed_prompts) Replay(decoder, tokenizer, part, results);
  const double secs = std::chrono::duration<double>(Clock::now() - begin).count();
  results.commands.push_back(StrCat(kHoursCommand, secs / 3600));
  WriteResults(part.path, results);
}

}  // namespace

void RunStudyArms(Decoder& decoder, const Tokenizer& tokenizer, const std::vector<ArmPlan>& arms,
                  const StudyRunOptions& options) {
  fs::create_directories(options.folder);
  const std::vector<Part> parts = PartsOf(tokenizer, decoder.model().config.context_length, arms, options.folder);
  const auto begin = Clock::now();
  int done = 0;
  for (const Part& part : parts) {
    const double minutes = std::chrono::duration<double>(Clock::now() - begin).count() / 60;
    if (options.minutes > 0 && minutes > options.minutes) return;
    if (options.progress) {
      options.progress(part.arm->name, StrCat(part.prompt.file_stem, " ", Name(part.protocol)), done,
                       static_cast<int>(parts.size()));
    }
    if (!IsDone(part)) RunPart(decoder, tokenizer, part);
    ++done;
  }
}

std::vector<StudyArm> ReadStudyArms(const Tokenizer& tokenizer, int context_limit, const std::vector<ArmPlan>& arms,
                                    const std::string& folder, double* hours) {
  std::vector<StudyArm> read;
  const std::vector<Part> parts = PartsOf(tokenizer, context_limit, arms, folder);
  for (const ArmPlan& arm : arms) {
    StudyArm& answer = read.emplace_back();
    answer.name = arm.name;
    answer.question = arm.question;
    for (const Part& part : parts) {
      if (part.arm != &arm) continue;
      ++answer.prompts_planned;
      if (!IsDone(part)) continue;
      ++answer.prompts_done;
      Results results = ReadResults(part.path);
      for (const std::string& command : results.commands) {
        if (command.starts_with(kHoursCommand)) *hours += std::stod(command.substr(std::string(kHoursCommand).size()));
      }
      std::move(results.rows.begin(), results.rows.end(), std::back_inserter(answer.results.rows));
      std::move(results.traces.begin(), results.traces.end(), std::back_inserter(answer.results.traces));
    }
  }
  return read;
}

}  // namespace kvscope
