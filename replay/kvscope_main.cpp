// SPDX-License-Identifier: Apache-2.0
// kvscope: the file tools, and the door to the other programs: `kvscope replay ...` runs kvscope-replay beside it.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>

#include "core/error.h"
#include "core/export.h"
#include "core/probe.h"
#include "core/trace_reader.h"
#include "core/trace_summary.h"
#include "core/units.h"

namespace kvscope {
namespace {

struct Sibling {
  const char* name;
  const char* summary;
};
constexpr Sibling kSiblings[] = {
    {"capture", "record a model's attention into a trace (kvscope-capture)"},
    {"replay", "replay cache policies on traces, run them live, report (kvscope-replay)"},
    {"view", "look at traces and results (kvscope-view)"},
};

// Does not return when it works.
void RunSibling(char** argv) {
  std::error_code ignored;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", ignored);
  const std::string program = (self.parent_path() / StrCat("kvscope-", argv[1])).string();
  execv(program.c_str(), argv + 1);
  throw Error(StrCat(program, ": cannot be run (", std::strerror(errno), "); build or install it beside kvscope"));
}

std::unique_ptr<TraceReader> Open(const std::string& path) {
  ProbeTraceInChild(path);
  return TraceReader::Open(path);
}

void WriteOutput(const std::string& path, const std::string& bytes) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  file.close();
  if (!file) throw Error(StrCat(path, ": cannot be written (", std::strerror(errno), ")"));
}

struct Options {
  std::string file, what = "rows", format = "csv", output;
  bool json = false;
  int layer = 0, head = 0;
};

int Info(const Options& options) {
  const auto trace = Open(options.file);
  std::cout << (options.json ? SummaryJson(options.file, *trace) : SummaryText(options.file, *trace));
  return 0;
}

int Verify(const Options& options) {
  const auto trace = Open(options.file);
  const VerifyResult result = VerifyTrace(*trace);
  if (result.rows_checked == 0)
    throw Error(StrCat(options.file, ": holds neither decode rows nor q, k, lse to verify"));
  std::cout << (options.json ? VerifyJson(options.file, result) : VerifyText(options.file, *trace, result));
  return result.ok ? 0 : 1;
}

int Recover(const Options& options) {
  RecoverTrace(options.file);
  const auto trace = Open(options.file);
  std::cout << Escape(options.file) << ": " << Name(trace->status()) << ", "
            << FormatCount(static_cast<int64_t>(trace->tokens().ids.size())) << " tokens and "
            << FormatCount(static_cast<int64_t>(trace->steps().size())) << " steps readable\n";
  return 0;
}

int Export(const Options& options) {
  const ExportFormat format = ExportFormatFromName(options.format);
  const bool is_rows = options.what == "rows";
  if (!is_rows && options.what != "columns") {
    throw Error(StrCat("--what '", options.what, "': expected rows or columns"));
  }
  if (format == ExportFormat::kNpz && options.output.empty() && isatty(STDOUT_FILENO)) {
    throw Error("-t npz writes bytes that a terminal cannot show; give a file with -o");
  }
  const auto trace = Open(options.file);
  const std::string bytes = is_rows ? ExportRows(*trace, options.layer, options.head, format)
                                    : ExportColumns(*trace, options.layer, options.head, format);
  if (options.output.empty()) {
    std::cout << bytes;
  } else {
    std::error_code not_there;
    if (std::filesystem::equivalent(options.output, options.file, not_there)) {
      throw Error(StrCat(options.output, ": is read by this command; write to another file"));
    }
    WriteOutput(options.output, bytes);
  }
  return 0;
}

int Run(int argc, char** argv) {
  for (const Sibling& sibling : kSiblings) {
    if (argc > 1 && std::strcmp(argv[1], sibling.name) == 0) RunSibling(argv);
  }
  Options options;
  const std::string first = argc > 1 ? argv[1] : "-";
  CLI::App app("kvscope: record a model's attention once, replay any KV cache policy against it", "kvscope");
  app.require_subcommand(1);
  const auto add = [&](const char* name, const char* summary) {
    CLI::App* command = app.add_subcommand(name, summary);
    command->add_option("FILE", options.file, "a trace, *.kvtrace.h5")->required();
    return command;
  };
  CLI::App* info = add("info", "say what a trace holds");
  info->add_flag("--json", options.json, "for programs");
  CLI::App* verify =
      add("verify", "compare recorded rows with rows rebuilt from q, k and lse; exit 1 when they differ");
  verify->add_flag("--json", options.json, "for programs");
  CLI::App* recover = add("recover", "make a trace of an interrupted capture open in any HDF5 program");
  CLI::App* export_command = add("export", "write a part of a trace as csv, json or npz");
  export_command
      ->add_option("--what", options.what, "rows: recorded decode rows; columns: statistics of level relevance")
      ->capture_default_str();
  export_command->add_option("--layer", options.layer, "absolute layer")->required();
  export_command->add_option("--head", options.head, "absolute query head")->required();
  export_command->add_option("-t,--type", options.format, "csv, json or npz")->capture_default_str();
  export_command->add_option("-o,--output", options.output, "a file; standard output without it");
  for (const Sibling& sibling : kSiblings) app.add_subcommand(sibling.name, sibling.summary);
  // CLI11 would only say that a subcommand is required.
  if (!first.starts_with('-') &&
      app.get_subcommands([&](CLI::App* command) { return command->check_name(first); }).empty()) {
    throw Error(StrCat("subcommand '", first, "': unknown; see kvscope --help"));
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& help) {
    return app.exit(help);
  } catch (const CLI::ParseError& error) {
    throw Error(StrCat(error.what(), "; see kvscope --help"));
  }
  if (*info) return Info(options);
  if (*verify) return Verify(options);
  if (*recover) return Recover(options);
  return Export(options);
}

}  // namespace
}  // namespace kvscope

int main(int argc, char** argv) {
  try {
    return kvscope::Run(argc, argv);
  } catch (const std::exception& error) {
    std::cerr << "kvscope: " << kvscope::Escape(error.what()) << "\n";
  }
  return 2;
}
