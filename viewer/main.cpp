// SPDX-License-Identifier: Apache-2.0
// kvscope-view: traces and results in a window, or as a picture.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <iterator>
#include <optional>

#include "core/error.h"
#include "core/units.h"
#include "viewer/app.h"
#include "viewer/export.h"
#include "viewer/image.h"
#include "viewer/shell.h"

namespace kvscope {
namespace {

namespace fs = std::filesystem;

constexpr double kPictureTimeoutSecs = 300;
constexpr int kSmallestSide = 64, kLargestSide = 16384;

struct Options {
  std::vector<std::string> files;
  std::string screenshot, csv, panel, figure, size = "1600x1000", kind = "query", reduction = "max";
  std::optional<int> layer, head;
  std::string policies, protocol = "prompt", kept_map = "bits";
  double keep_fraction = 0.25;
  int step = 0;
  float scale = 1;
  bool is_light = false, is_dark = false, is_linear = false, masks_sinks = false;
};

// "1600x1000"
void ReadSize(const std::string& text, ShellOptions& shell) {
  char rest = 0;
  const bool is_size = std::sscanf(text.c_str(), "%dx%d%c", &shell.width, &shell.height, &rest) == 2;
  const auto fits = [](int side) { return side >= kSmallestSide && side <= kLargestSide; };
  if (!is_size || !fits(shell.width) || !fits(shell.height)) {
    throw Error(StrCat("--size '", text, "': expected WIDTHxHEIGHT, each from ", kSmallestSide, " to ", kLargestSide,
                       ", for example 1600x1000"));
  }
}

void CheckFigure(const std::string& figure) {
  if (figure.empty()) return;
  std::string all;
  for (const CurveMetric& metric : CurveMetrics()) {
    if (figure == metric.column) return;
    all += StrCat(all.empty() ? "" : ", ", metric.column);
  }
  throw Error(StrCat("--figure '", figure, "': expected one of ", all));
}

// Where layout, preferences and recent files are kept between runs; empty when there is no place for them.
std::string StateFolder() {
  const char* state = std::getenv("XDG_STATE_HOME");
  const char* home = std::getenv("HOME");
  if (!(state && *state) && !(home && *home)) return "";
  const fs::path folder = (state && *state ? fs::path(state) : fs::path(home) / ".local/state") / "kvscope";
  std::error_code failure;
  fs::create_directories(folder, failure);
  return failure ? "" : folder.string();
}

void Parse(int argc, char** argv, Options& options, CLI::App& app) {
  app.add_option("FILE", options.files, "traces (*.kvtrace.h5), results of kvscope replay, and folders of them");
  app.add_option("--screenshot", options.screenshot, "write a picture instead of opening a window; needs no display");
  app.add_option("--csv", options.csv, "write the table of --panel instead of opening a window; - is stdout");
  app.add_option("--panel", options.panel, "this panel alone")->check(CLI::IsMember(PanelNames(), CLI::ignore_case));
  app.add_option("--size", options.size, "width and height")->capture_default_str();
  app.add_option("--scale", options.scale, "pixels per unit of size; text grows with it")
      ->check(CLI::Range(0.5, 4.0))
      ->capture_default_str();
  app.add_option("--layer", options.layer, "heatmap: the layer, as the model counts them");
  app.add_option("--head", options.head, "heatmap: the query head; by layer all heads without it");
  app.add_option("--kind", options.kind, "heatmap: what stands over the tokens: queries, layers or decode steps")
      ->check(CLI::IsMember({"query", "layer", "step"}))
      ->capture_default_str();
  app.add_option("--reduce", options.reduction,
                 "heatmap by layer or step: of the queries' weights; none, by step: each step's own")
      ->check(CLI::IsMember(std::vector<std::string>(std::begin(kRowReductionNames), std::end(kRowReductionNames))))
      ->capture_default_str();
  app.add_option("--policy", options.policies, "policies to try side by side, up to 4; all panels follow the first");
  app.add_option("--keep-fraction", options.keep_fraction, "what they keep, of the fp16 cache's bytes")
      ->check(CLI::Range(0.01, 1.0))
      ->capture_default_str();
  app.add_option("--decide-at", options.protocol, "when they decide: after the prompt, or before the question")
      ->check(CLI::IsMember({"prompt", "context"}))
      ->capture_default_str();
  app.add_option("--map", options.kept_map, "policies: what the maps show")
      ->check(CLI::IsMember({"kept", "bits", "difference"}))
      ->capture_default_str();
  app.add_option("--step", options.step, "timeline: the decode step")->check(CLI::Range(0, 1 << 30));
  app.add_flag("--linear", options.is_linear, "heatmap: a linear colour scale instead of a logarithmic one");
  app.add_flag("--mask-sinks", options.masks_sinks,
               "heatmap: leave out the first tokens, which often take most weight");
  app.add_option(
      "--figure", options.figure,
      "curves: a column of the results, for example answer_nll; grid: needle_retention instead of the answer");
  CLI::Option* const light = app.add_flag("--light", options.is_light, "dark ink on light paper");
  app.add_flag("--dark", options.is_dark, "light ink on dark; a window without either is as it was the last time")
      ->excludes(light);
  app.parse(argc, argv);
}

// Throws Error for what replay would not take.
std::vector<PolicyChoice> ChoicesOf(const std::string& list, double keep_fraction) {
  std::vector<PolicyChoice> choices;
  for (const std::string& text : SplitSpecs(list)) choices.push_back({PolicySpec::Parse(text).text, keep_fraction});
  if (choices.size() > kMostPolicies)
    throw Error(StrCat("--policy: expected at most ", kMostPolicies, " policies, found ", choices.size()));
  return choices;
}

ViewState ViewOf(const Options& options) {
  ViewState view{.is_log = !options.is_linear, .masks_sinks = options.masks_sinks, .step = options.step};
  view.heatmap_kind = options.kind == "layer"  ? HeatmapKind::kLayer
                      : options.kind == "step" ? HeatmapKind::kStep
                                               : HeatmapKind::kQuery;
  view.reduction = static_cast<RowReduction>(std::ranges::find(kRowReductionNames, options.reduction) -
                                             std::begin(kRowReductionNames));
  if (view.reduction == RowReduction::kNone && view.heatmap_kind != HeatmapKind::kStep)
    throw Error("--reduce none: only a step has a row of its own; use it with --kind step");
  if (options.head) view.layer_heads = LayerHeads::kOne;
  view.protocol = options.protocol == "prompt" ? Protocol::kPrompt : Protocol::kContext;
  view.kept_map = options.kept_map == "kept"   ? KeptMapKind::kKept
                  : options.kept_map == "bits" ? KeptMapKind::kBits
                                               : KeptMapKind::kDifference;
  for (PolicyChoice& choice : view.policies) choice.keep_fraction = options.keep_fraction;
  if (!options.policies.empty()) view.policies = ChoicesOf(options.policies, options.keep_fraction);
  view.follows_policies = !options.policies.empty();
  CheckFigure(options.figure);
  view.curve_column = options.figure;
  view.grid_shows_retention = options.figure == "needle_retention";
  return view;
}

int Run(int argc, char** argv) {
  // Drivers would add lines of their own to our one.
  setenv("EGL_LOG_LEVEL", "fatal", /*overwrite=*/0);
  setenv("LIBGL_DEBUG", "quiet", /*overwrite=*/0);
  Options options;
  CLI::App app("kvscope view: look at traces and results", "kvscope view");
  try {
    Parse(argc, argv, options, app);
  } catch (const CLI::Success& help) {
    return app.exit(help);
  } catch (const CLI::ParseError& error) {
    throw Error(StrCat(error.what(), "; see kvscope view --help"));
  }
  ShellOptions shell{.scale = options.scale, .is_dark = !options.is_light};
  ReadSize(options.size, shell);
  for (const std::string& file : options.files) {
    std::error_code failure;
    if (!fs::is_regular_file(file, failure) && !fs::is_directory(file, failure))
      throw Error(StrCat(file, ": expected a trace, results or a folder of them, found no file"));
  }
  if (!options.files.empty()) shell.title = fs::path(options.files.front()).filename().string() + " - kvscope";

  const bool has_window = options.screenshot.empty() && options.csv.empty();
  if (!options.csv.empty() && (options.panel.empty() || options.files.empty()))
    throw Error("--csv writes the table of one panel; add --panel NAME and a trace");
  const std::string state_folder = has_window ? StateFolder() : "";
  App frame({.paths = options.files,
             .only_panel = options.panel,
             .layer = options.layer,
             .head = options.head,
             .view = ViewOf(options),
             .is_dark = options.is_light || options.is_dark ? std::optional(options.is_dark) : std::nullopt,
             .state_folder = state_folder,
             .follows = has_window});
  if (has_window) {
    if (!state_folder.empty()) shell.ini_path = state_folder + "/view.ini";
    RunWindow(frame, shell);
    return 0;
  }
  const Image picture = RenderOffscreen(frame, shell, kPictureTimeoutSecs);
  if (!frame.failure().empty()) throw Error(frame.failure());
  if (!options.screenshot.empty()) WritePng(options.screenshot, picture);
  if (!options.csv.empty()) WriteTable(options.csv, frame.Csv(options.panel));
  // A table on stdout is all that is there.
  for (const std::string& path : {options.screenshot, options.csv}) {
    if (!path.empty() && options.csv != "-") std::cout << path << "\n";
  }
  return 0;
}

}  // namespace
}  // namespace kvscope

int main(int argc, char** argv) {
  try {
    return kvscope::Run(argc, argv);
  } catch (const std::exception& error) {
    std::cerr << "kvscope view: " << kvscope::Escape(error.what()) << "\n";
  }
  return 2;
}
