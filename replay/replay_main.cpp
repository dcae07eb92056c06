// SPDX-License-Identifier: Apache-2.0
// kvscope-replay: traces -> policies -> rows, and what to do with rows. One function per subcommand.
#include <tbb/global_control.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cstdio>
#include <filesystem>
#include <memory>

#include "core/error.h"
#include "core/probe.h"
#include "core/results.h"
#include "core/trace_reader.h"
#include "core/units.h"
#include "kernels/device_choice.h"
#include "replay/evidence.h"
#include "replay/fidelity.h"
#include "replay/list.h"
#include "replay/live/live_command.h"
#include "replay/live/study_command.h"
#include "replay/report.h"
#include "replay/sweep.h"
#include "replay/sweep_flags.h"
#include "replay/text_table.h"

namespace kvscope {
namespace {

namespace fs = std::filesystem;

// The command as one could type it again.
std::string CommandLine(int argc, char** argv) {
  std::string line = "kvscope replay";
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const bool is_plain = !word.empty() && word.find_first_not_of(
                                               "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                               "0123456789-_=+/.,:@&") == std::string::npos;
    line += ' ';
    if (is_plain && word.find('&') == std::string::npos) {
      line += word;
      continue;
    }
    line += '\'';
    for (const char c : word) {
      if (c == '\'') {
        line += "'\\''";
      } else {
        line += c;
      }
    }
    line += '\'';
  }
  return line;
}

// Files as they are; folders give the traces in them, by name.
std::vector<std::string> TracePaths(const std::vector<std::string>& given) {
  std::vector<std::string> paths;
  for (const std::string& path : given) {
    if (!fs::is_directory(path)) {
      paths.push_back(path);
      continue;
    }
    const size_t first = paths.size();
    for (const fs::directory_entry& entry : fs::directory_iterator(path)) {
      if (entry.path().string().ends_with(".kvtrace.h5")) paths.push_back(entry.path().string());
    }
    if (paths.size() == first) throw Error(StrCat(path, ": this folder holds no *.kvtrace.h5; pass a trace file"));
    std::sort(paths.begin() + static_cast<int64_t>(first), paths.end());
  }
  return paths;
}

class ProgressBar {
 public:
  ProgressBar(size_t num_traces) : num_traces_(num_traces), is_shown_(isatty(STDERR_FILENO)) {}
  ~ProgressBar() {
    if (is_shown_) std::fprintf(stderr, "\r\033[K");
  }
  void Begin(size_t trace, const std::string& path) { trace_ = trace, name_ = fs::path(path).filename().string(); }
  void Show(double fraction) const {
    if (!is_shown_) return;
    constexpr int kWidth = 32;
    const int filled = static_cast<int>(fraction * kWidth);
    std::fprintf(stderr, "\r\033[K%zu/%zu %s [%.*s%*s]", trace_ + 1, num_traces_, name_.c_str(), filled,
                 "################################", kWidth - filled, "");
  }

 private:
  size_t num_traces_, trace_ = 0;
  bool is_shown_;
  std::string name_;
};

void CheckOutputs(const std::string& output, const std::string& csv, std::vector<std::string> inputs) {
  CheckOutput(output, inputs);
  inputs.push_back(output);
  CheckOutput(csv, inputs);
}

void WriteAll(const Results& results, const std::string& output, const std::string& csv) {
  WriteResults(output, results);
  if (!csv.empty()) WriteCsv(csv, results);
}

struct RunFlags {
  std::vector<std::string> traces;
  SweepFlags sweep;
  bool is_bare = false, skips_analysis = false, skips_kept = false;
  int threads = 0;
  std::string device = "auto", output, csv;
};

void Run(const RunFlags& flags, const std::string& command) {
  ChooseDevice(flags.device, /*can_use_cuda=*/false);
  SweepOptions options = OptionsOf(flags.sweep);
  options.is_bare = flags.is_bare;
  options.analyzes = !flags.skips_analysis;
  options.keeps_kept = !flags.skips_kept;
  ParsePolicies(options);  // mistakes show before any file is opened
  const std::vector<std::string> paths = TracePaths(flags.traces);
  CheckOutputs(flags.output, flags.csv, paths);
  std::unique_ptr<tbb::global_control> control;
  if (flags.threads > 0) {
    control = std::make_unique<tbb::global_control>(tbb::global_control::max_allowed_parallelism, flags.threads);
  }
  for (const std::string& path : paths) ProbeTraceInChild(path);
  Results results;
  results.commands.push_back(command);
  bool any_replayable = false;
  {
    ProgressBar bar(paths.size());
    options.progress = [&](double fraction) { bar.Show(fraction); };
    for (size_t i = 0; i < paths.size(); ++i) {
      bar.Begin(i, paths[i]);
      const auto trace = TraceReader::Open(paths[i]);
      any_replayable |= WhyNotReplayable(*trace).empty();
      try {
        ReplayTrace(*trace, paths[i], options, results);
      } catch (const Error& error) {
        const std::string message = error.what();  // says where in the trace, but not always in which
        if (message.find(paths[i]) != std::string::npos) throw;
        throw Error(StrCat(paths[i], ": ", message));
      }
    }
  }
  if (!any_replayable) {
    throw Error(StrCat(paths[0], ": nothing can be replayed: ", results.rows.at(0).figures.Text("refused_reason")));
  }
  WriteAll(results, flags.output, flags.csv);
  if (flags.csv != "-") std::fputs(SummaryTable(results).c_str(), stdout);
  if (const std::string refusal = RefusalText(results); !refusal.empty())
    std::fprintf(stderr, "kvscope-replay: %s\n", refusal.c_str());
}

void AddRun(CLI::App& app, const std::string& command) {
  auto flags = std::make_shared<RunFlags>();
  CLI::App* run = app.add_subcommand("run", "replay policies on traces");
  run->add_option("traces", flags->traces, "trace files, or folders of them")->required();
  AddSweepFlags(*run, flags->sweep);
  run->add_option("--seed", flags->sweep.seed, "of random policies")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 53))
      ->capture_default_str();
  run->add_flag("--bare", flags->is_bare, "without the full cache, random entries and the oracle beside");
  run->add_flag("--no-analysis", flags->skips_analysis, "only rows, not what each trace shows");
  run->add_flag("--no-kept", flags->skips_kept, "do not store which entries each policy kept");
  run->add_option("--device", flags->device, "cpu or auto")->capture_default_str();
  run->add_option("--threads", flags->threads, "0: all")->check(CLI::Range(0, 1 << 14))->capture_default_str();
  run->add_option("-o,--output", flags->output, "results file (HDF5)")->required();
  run->add_option("--csv", flags->csv, "also as CSV; - is stdout");
  run->callback([flags, command] { Run(*flags, command); });
}

std::vector<Results> ReadAll(const std::vector<std::string>& paths) {
  std::vector<Results> inputs;
  for (const std::string& path : paths) inputs.push_back(ReadResults(path));
  return inputs;
}

void AddReport(CLI::App& app) {
  struct Flags {
    std::vector<std::string> inputs;
    ReportOptions options;
    bool no_png = false;
  };
  auto flags = std::make_shared<Flags>();
  CLI::App* report = app.add_subcommand("report", "one page from results of replay and live");
  report->add_option("results", flags->inputs, "results files")->required();
  report->add_option("-o,--output", flags->options.path, "the page (HTML)")->capture_default_str();
  report->add_option("--title", flags->options.title, "headline");
  report->add_option("--pictures", flags->options.pictures, "folder for the PNGs");
  report->add_flag("--no-png", flags->no_png, "no PNGs beside the page");
  report->callback([flags] {
    flags->options.write_png = !flags->no_png;
    CheckOutput(flags->options.path, flags->inputs);
    for (const std::string& path : WriteReport(ReadAll(flags->inputs), flags->options)) std::puts(path.c_str());
    std::puts(flags->options.path.c_str());
  });
}

// Results of one mode, replay or live.
Results ReadMode(const std::string& path, const std::string& mode) {
  Results results = ReadResults(path);
  std::erase_if(results.rows, [&](const Results::Row& row) { return row.figures.Text("mode") != mode; });
  if (results.rows.empty()) throw Error(StrCat(path, ": expected results of ", mode, ", found none; pass REPLAY LIVE"));
  return results;
}

void AddFidelity(CLI::App& app) {
  auto inputs = std::make_shared<std::vector<std::string>>();
  CLI::App* fidelity = app.add_subcommand("fidelity", "how well replay predicted live");
  fidelity->add_option("results", *inputs, "results of replay, then of live")->required()->expected(2);
  fidelity->callback([inputs] {
    const Fidelity compared = CompareFidelity(ReadMode(inputs->at(0), "replay"), ReadMode(inputs->at(1), "live"));
    std::fputs(FidelityTable(compared).c_str(), stdout);
  });
}

void AddMerge(CLI::App& app) {
  struct Flags {
    std::vector<std::string> inputs;
    std::string output, csv;
  };
  auto flags = std::make_shared<Flags>();
  CLI::App* merge = app.add_subcommand("merge", "several results files as one");
  merge->add_option("results", flags->inputs, "results files")->required();
  merge->add_option("-o,--output", flags->output, "results file (HDF5)")->required();
  merge->add_option("--csv", flags->csv, "also as CSV; - is stdout");
  merge->callback([flags] {
    CheckOutputs(flags->output, flags->csv, flags->inputs);
    WriteAll(MergeResults(ReadAll(flags->inputs)), flags->output, flags->csv);
  });
}

void AddList(CLI::App& app) {
  auto as_json = std::make_shared<bool>(false), as_markdown = std::make_shared<bool>(false);
  CLI::App* list = app.add_subcommand("list", "policies, allocators, stores and combinations");
  CLI::Option* json = list->add_flag("--json", *as_json, "for programs");
  list->add_flag("--markdown", *as_markdown, "as replay/policies/README.md")->excludes(json);
  list->callback([as_json, as_markdown] {
    std::fputs((*as_json ? ListJson() : *as_markdown ? ListMarkdown() : ListText()).c_str(), stdout);
  });
}

void AddExplain(CLI::App& app) {
  auto name = std::make_shared<std::string>();
  CLI::App* explain = app.add_subcommand("explain", "one policy, allocator, store or combination in full");
  explain->add_option("name", *name, "as in list")->required();
  explain->callback([name] { std::fputs(Explain(*name).c_str(), stdout); });
}

}  // namespace
}  // namespace kvscope

int main(int argc, char** argv) {
  CLI::App app("Replay KV cache policies on recorded attention.", "kvscope-replay");
  app.set_version_flag("--version", "kvscope " KVSCOPE_VERSION);
  app.require_subcommand(1);
  try {
    kvscope::AddRun(app, kvscope::CommandLine(argc, argv));
    kvscope::AddLiveCommand(app, kvscope::CommandLine(argc, argv));
    kvscope::AddStudyCommand(app, kvscope::CommandLine(argc, argv));
    kvscope::AddReport(app);
    kvscope::AddFidelity(app);
    kvscope::AddMerge(app);
    kvscope::AddList(app);
    kvscope::AddExplain(app);
    // CLI11 would only say that a subcommand is required.
    if (argc > 1 && argv[1][0] != '-' &&
        app.get_subcommands([&](CLI::App* command) { return command->check_name(argv[1]); }).empty()) {
      throw kvscope::Error(kvscope::StrCat("subcommand '", argv[1], "': unknown; see kvscope-replay --help"));
    }
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    std::fprintf(stderr, "kvscope-replay: %s; see --help\n", kvscope::Escape(error.what()).c_str());
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "kvscope-replay: %s\n", kvscope::Escape(error.what()).c_str());
    return 2;
  }
  return 0;
}
