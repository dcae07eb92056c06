// SPDX-License-Identifier: Apache-2.0
#include "replay/sweep_flags.h"

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <sstream>

#include "core/error.h"

namespace kvscope {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> SplitCommas(const std::vector<std::string>& lists) {
  std::vector<std::string> parts;
  for (const std::string& list : lists) {
    std::istringstream stream(list);
    for (std::string part; std::getline(stream, part, ',');) parts.push_back(part);
    if (list.empty() || list.back() == ',') parts.push_back("");
  }
  return parts;
}

double ParseNumber(const std::string& flag, const std::string& text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || !std::isfinite(value)) {
    throw Error(StrCat(flag, ": expected numbers separated by commas, found '", text, "'"));
  }
  return value;
}

}  // namespace

Guards ParseGuards(const std::string& text) {
  Guards guards;
  for (const std::string& part : SplitCommas({text})) {
    const size_t equals = part.find('=');
    const std::string key = part.substr(0, equals);
    int value = -1;
    if (equals != std::string::npos) {
      const char* const end = part.data() + part.size();
      const auto [stop, error] = std::from_chars(part.data() + equals + 1, end, value);
      if (error != std::errc{} || stop != end || value > 1 << 22) value = -1;
    }
    if (value < 0 || (key != "sinks" && key != "recent")) {
      throw Error(StrCat("--guard: expected sinks=N,recent=N with N of at least 0, found '", part, "'"));
    }
    (key == "sinks" ? guards.sinks : guards.recent) = value;
  }
  return guards;
}

void AddSweepFlags(CLI::App& app, SweepFlags& flags) {
  app.add_option("--policy", flags.policies, "SPEC[,SPEC...]; see list. May be repeated")->required();
  app.add_option("--keep-fraction", flags.keep_fractions, "share of the fp16 cache's bytes to keep: 0.5,0.25");
  app.add_option("--keep-tokens", flags.keep_tokens, "entries per KV head to keep");
  app.add_option("--compression-ratio", flags.compression_ratios, "share of the entries to REMOVE, as kvpress counts");
  app.add_option("--decide-at", flags.decide_at, "prompt (default), context, or both: prompt,context");
  app.add_option("--guard", flags.guard, "sinks=4,recent=32: entries kept whatever the policy says");
}

SweepOptions OptionsOf(const SweepFlags& flags) {
  SweepOptions options;
  for (const std::string& list : flags.policies) {
    for (const std::string& spec : SplitSpecs(list)) options.policies.push_back(spec);
  }
  const auto add_budgets = [&](const char* flag, const std::vector<std::string>& lists, BudgetSpec::Unit unit) {
    for (const std::string& text : SplitCommas(lists)) {
      options.budgets.push_back({unit, ParseNumber(flag, text)});
      options.budgets.back().Check();
    }
  };
  add_budgets("--keep-fraction", flags.keep_fractions, BudgetSpec::Unit::kFraction);
  add_budgets("--keep-tokens", flags.keep_tokens, BudgetSpec::Unit::kTokens);
  add_budgets("--compression-ratio", flags.compression_ratios, BudgetSpec::Unit::kCompressionRatio);
  if (options.budgets.empty()) {
    throw Error("expected a budget: --keep-fraction 0.5,0.25, --keep-tokens 128 or --compression-ratio 0.5");
  }
  if (!flags.decide_at.empty()) options.protocols.clear();
  for (const std::string& text : SplitCommas(flags.decide_at)) {
    if (text != "prompt" && text != "context") {
      throw Error(StrCat("--decide-at: expected prompt or context, found '", text, "'"));
    }
    options.protocols.push_back(text == "prompt" ? Protocol::kPrompt : Protocol::kContext);
  }
  if (!flags.guard.empty()) options.guards = ParseGuards(flags.guard);
  options.seed = flags.seed;
  return options;
}

void CheckOutput(const std::string& path, const std::vector<std::string>& inputs) {
  if (path.empty() || path == "-") return;
  for (const std::string& input : inputs) {
    std::error_code not_there;
    if (input == path || fs::equivalent(path, input, not_there)) {
      throw Error(StrCat(path, ": is read by this command; write to another file"));
    }
  }
  if (fs::is_directory(path)) throw Error(StrCat(path, ": expected a file to write to, found a folder"));
  const fs::path folder = fs::path(path).has_parent_path() ? fs::path(path).parent_path() : fs::path(".");
  if (!fs::is_directory(folder)) throw Error(StrCat(folder.string(), ": no such folder; make it first"));
  if (access(folder.c_str(), W_OK) != 0) throw Error(StrCat(folder.string(), ": this folder cannot be written to"));
}

}  // namespace kvscope
