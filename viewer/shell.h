// SPDX-License-Identifier: Apache-2.0
// Where the viewer draws: a window, or a picture made without a display. A Frame does not know which.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "viewer/image.h"

namespace kvscope {

// A part of what was drawn, in units of Dear ImGui, and who wants its pixels.
struct PictureRequest {
  float left = 0, top = 0, right = 0, bottom = 0;
  std::function<void(const Image&)> take;
};

// What is drawn. Everything is called on the thread that runs the shell.
class Frame {
 public:
  virtual ~Frame() = default;
  virtual void Draw() = 0;  // Dear ImGui and ImPlot calls of one frame, over the whole viewport
  // True while something in the background may change what is seen: drawing goes on.
  virtual bool IsBusy() const { return false; }
  virtual bool IsDone() const { return false; }  // true closes the window
  virtual void DroppedFiles(std::vector<std::string>) {}
  // Asked when a frame was drawn; offscreen, the last one.
  virtual std::optional<PictureRequest> TakePictureRequest() { return {}; }
  // Dark or light, when the frame chooses that itself. A window asks before every frame.
  virtual std::optional<bool> WantsDark() const { return {}; }
};

struct ShellOptions {
  std::string title = "kvscope";
  int width = 1600, height = 1000;  // in units; a unit is `scale` pixels (times the monitor's own scale in a window)
  float scale = 1;
  bool is_dark = true;
  std::string ini_path = {};  // where the layout is kept between runs; empty: nowhere. Its folder must exist
};

// Opens a window and returns when it is closed. Draws after input and while the frame is busy, 60 times a second at
// most; otherwise it sleeps.
void RunWindow(Frame& frame, const ShellOptions& options);

// Draws frames until the frame was not busy for two in a row and returns the last one, [height * scale, width * scale]
// pixels, opaque. Needs EGL, no display.
Image RenderOffscreen(Frame& frame, const ShellOptions& options, double timeout_secs);

// Both throw Error, with a sentence that says what to install, when OpenGL is not to be had.

}  // namespace kvscope
