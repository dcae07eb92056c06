// SPDX-License-Identifier: Apache-2.0
#include "replay/live/study_command.h"

#include <tbb/global_control.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <thread>

#include "core/error.h"
#include "replay/live/study_run.h"
#include "replay/sweep_flags.h"

namespace kvscope {
namespace {

namespace fs = std::filesystem;

struct Flags {
  std::string method, model, output = "traces/out";
  StudyTexts texts{"traces/cache/kjv.txt", "traces/cache/austen.txt"};
  bool is_quick = false, is_full = false, only_page = false;
  double minutes = 0;
  int threads = 0;
};

std::string Machine() {
  std::ifstream cpu("/proc/cpuinfo");
  std::string name = "unknown processor";
  for (std::string line; std::getline(cpu, line);) {
    if (!line.starts_with("model name")) continue;
    name = line.substr(line.find(':') + 2);
    break;
  }
  return StrCat(std::thread::hardware_concurrency(), " cores, ", name, ", -march=", KVSCOPE_MARCH_NAME);
}

void WriteText(const std::string& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary);
  file << text;
  if (!file.flush()) throw Error(StrCat(path, ": cannot be written; is the disk full?"));
}

// The rows of all arms as one table, without arrays.
Results Table(const Study& study) {
  Results table;
  table.commands.push_back(study.command);
  for (const StudyArm& arm : study.arms) {
    for (const Results::Row& row : arm.results.rows) table.rows.push_back({row.figures, {}});
  }
  return table;
}

void Run(const Flags& flags, const std::string& command) {
  if (flags.method != "adkvc") {
    throw Error(StrCat("study '", flags.method, "': expected adkvc, the only method with a study"));
  }
  for (const std::string& text : {flags.texts.haystack, flags.texts.second}) {
    if (!fs::exists(text)) throw Error(StrCat(text, ": no such text; run traces/make_texts traces/cache"));
  }
  std::unique_ptr<tbb::global_control> threads;
  if (flags.threads > 0) {
    threads = std::make_unique<tbb::global_control>(tbb::global_control::max_allowed_parallelism, flags.threads);
  }
  const StudySize size = flags.is_quick ? StudySize::kQuick : flags.is_full ? StudySize::kFull : StudySize::kNormal;
  const std::vector<ArmPlan> arms = AdkvcArms(size, flags.texts);
  const GgufFile gguf = GgufFile::Open(flags.model);
  const Tokenizer tokenizer = Tokenizer::FromGguf(gguf);
  const std::unique_ptr<Model> model = LoadModel(gguf);
  Decoder decoder(*model);
  StudyRunOptions options;
  options.folder = StrCat(flags.output, "/", flags.method,
                          flags.is_quick  ? "_quick"
                          : flags.is_full ? "_full"
                                          : "",
                          "_parts");
  options.minutes = flags.minutes;
  const bool has_terminal = isatty(STDERR_FILENO);
  options.progress = [&](const std::string& arm, const std::string& prompt, int done, int total) {
    std::fprintf(stderr, has_terminal ? "\r\033[K%d/%d %s: %s" : "%d/%d %s: %s\n", done, total, arm.c_str(),
                 prompt.c_str());
  };
  if (!flags.only_page) RunStudyArms(decoder, tokenizer, arms, options);
  if (has_terminal) std::fprintf(stderr, "\r\033[K");

  Study study;
  study.method = flags.method;
  study.command = command;
  const std::string only_page = " --page";  // it says how to show runs, not how to make them
  if (const size_t at = study.command.find(only_page); at != std::string::npos)
    study.command.erase(at, only_page.size());
  study.machine = Machine();
  study.arms = ReadStudyArms(tokenizer, model->config.context_length, arms, options.folder, &study.hours);
  const std::string stem = StrCat(flags.output, "/", flags.method, flags.is_quick ? "_quick" : "");
  for (const std::string& path : WriteStudyPage(study, stem + ".html", stem + "_pictures")) std::puts(path.c_str());
  WriteText(stem + ".md", StudyMarkdown(study));
  WriteCsv(stem + ".csv", Table(study));
  for (const char* ending : {".html", ".md", ".csv"}) std::puts((stem + ending).c_str());
}

}  // namespace

void AddStudyCommand(CLI::App& app, const std::string& command) {
  CLI::App* study = app.add_subcommand("study", "a method's whole comparison, resumable; writes one page");
  const auto flags = std::make_shared<Flags>();
  study->add_option("method", flags->method, "adkvc")->required();
  study->add_option("--model", flags->model, "GGUF file")->required();
  study->add_option("--haystack", flags->texts.haystack, "text around the needles, and first text of perplexity")
      ->capture_default_str();
  study->add_option("--second", flags->texts.second, "second text of perplexity")->capture_default_str();
  CLI::Option* quick = study->add_flag("--quick", flags->is_quick, "the same arms at 512 tokens: a few minutes");
  study->add_flag("--full", flags->is_full, "every combination, without a bound on time")->excludes(quick);
  study->add_option("--minutes", flags->minutes, "begin no new run after so many; 0: no bound")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str();
  study->add_flag("--page", flags->only_page, "only write the page from the runs that are there");
  study->add_option("--threads", flags->threads, "0: all")->check(CLI::Range(0, 1 << 14))->capture_default_str();
  study->add_option("-o,--output", flags->output, "folder of the page and of the runs")->capture_default_str();
  study->callback([flags, command] { Run(*flags, command); });
}

}  // namespace kvscope
