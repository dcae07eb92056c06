// SPDX-License-Identifier: Apache-2.0
// kvscope-view: traces and results in a window, or as a picture.
#include <CLI/CLI.hpp>
#include <cstdlib>
#include <filesystem>
#include <iostream>
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
  std::string screenshot, csv, panel, size = "1600x1000";
  std::optional<int> layer, head;
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
  app.add_option("FILE", options.files, "traces (*.kvtrace.h5) and results of kvscope replay");
  app.add_option("--screenshot", options.screenshot, "write a picture instead of opening a window; needs no display");
  app.add_option("--csv", options.csv, "write the table of --panel instead of opening a window; - is stdout");
  app.add_option("--panel", options.panel, "this panel alone")->check(CLI::IsMember(PanelNames(), CLI::ignore_case));
  app.add_option("--size", options.size, "width and height")->capture_default_str();
  app.add_option("--scale", options.scale, "pixels per unit of size; text grows with it")
      ->check(CLI::Range(0.5, 4.0))
      ->capture_default_str();
  app.add_option("--layer", options.layer, "heatmap: the layer, as the model counts them");
  app.add_option("--head", options.head, "heatmap: the query head");
  app.add_option("--step", options.step, "timeline: the decode step")->check(CLI::Range(0, 1 << 30));
  app.add_flag("--linear", options.is_linear, "heatmap: a linear colour scale instead of a logarithmic one");
  app.add_flag("--mask-sinks", options.masks_sinks,
               "heatmap: leave out the first tokens, which often take most weight");
  CLI::Option* const light = app.add_flag("--light", options.is_light, "dark ink on light paper");
  app.add_flag("--dark", options.is_dark, "light ink on dark; a window without either is as it was the last time")
      ->excludes(light);
  app.parse(argc, argv);
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
    if (!fs::is_regular_file(file, failure)) throw Error(StrCat(file, ": expected a trace or results, found no file"));
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
             .view = {.is_log = !options.is_linear, .masks_sinks = options.masks_sinks, .step = options.step},
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
