// SPDX-License-Identifier: Apache-2.0
// The window: GLFW and OpenGL 3.3.
#include <GLFW/glfw3.h>
#include <imgui.h>
#include <imgui_impl_glfw.h>
#include <imgui_impl_opengl3.h>
#include <imgui_internal.h>

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "core/error.h"
#include "viewer/gl_pixels.h"
#include "viewer/gui_context.h"
#include "viewer/shell.h"
#include "viewer/theme.h"

namespace kvscope {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::microseconds kFrameTime(16'600);
// Drawing goes on so long after the last input, as tooltips wait for a pointer that rests, and after any other event.
constexpr std::chrono::milliseconds kStaysAwake(700), kSettles(60);
constexpr float kShareOfScreen = 0.94f;  // leaves room for the window's title
constexpr double kCaretSecs = 0.2;       // a text field's caret blinks

std::string GlfwMessage() {
  const char* text = nullptr;
  glfwGetError(&text);
  return text ? text : "unknown reason";
}

class Window {
 public:
  explicit Window(const ShellOptions& options) {
    if (!glfwInit()) {
      throw Error(StrCat("a window needs a display, found none (", GlfwMessage(),
                         "); with --screenshot FILE.png a picture is made without one"));
    }
    glfwWindowHint(GLFW_CONTEXT_VERSION_MAJOR, 3);
    glfwWindowHint(GLFW_CONTEXT_VERSION_MINOR, 3);
    glfwWindowHint(GLFW_OPENGL_PROFILE, GLFW_OPENGL_CORE_PROFILE);
    glfwWindowHint(GLFW_OPENGL_FORWARD_COMPAT, GLFW_TRUE);
    glfwWindowHint(GLFW_SCALE_TO_MONITOR, GLFW_TRUE);
    glfwWindowHintString(GLFW_X11_CLASS_NAME, "kvscope");
    const auto [width, height] = FittingSize(options);
    window_ = glfwCreateWindow(width, height, options.title.c_str(), nullptr, nullptr);
    if (!window_) {
      const std::string message = GlfwMessage();
      glfwTerminate();
      throw Error(StrCat("a window needs OpenGL 3.3, found none (", message,
                         "); install a driver (Debian: apt-get install libgl1-mesa-dri libglx-mesa0)"));
    }
    glfwMakeContextCurrent(window_);
    glfwSwapInterval(1);
    glfwSetWindowUserPointer(window_, this);
    glfwSetDropCallback(window_, [](GLFWwindow* window, int num_paths, const char** paths) {
      auto& dropped = static_cast<Window*>(glfwGetWindowUserPointer(window))->dropped_;
      dropped.insert(dropped.end(), paths, paths + num_paths);
    });
  }
  ~Window() {
    glfwDestroyWindow(window_);
    glfwTerminate();
  }
  Window(const Window&) = delete;
  Window& operator=(const Window&) = delete;

  GLFWwindow* glfw() const { return window_; }

  // Pixels per unit: the monitor's scale, except where the window system has units of its own.
  float MonitorScale() const {
    float x = 1, y = 1;
    glfwGetWindowContentScale(window_, &x, &y);
    int width = 0, pixels = 0, height = 0;
    glfwGetWindowSize(window_, &width, &height);
    glfwGetFramebufferSize(window_, &pixels, &height);
    return width > 0 && pixels > 0 ? x * static_cast<float>(width) / static_cast<float>(pixels) : x;
  }

  // Files dropped since the last call. Kept until here, as a frame may throw and GLFW's callbacks must not.
  std::vector<std::string> TakeDropped() { return std::exchange(dropped_, {}); }

  bool IsHidden() const {
    int width = 0, height = 0;
    glfwGetFramebufferSize(window_, &width, &height);
    return glfwGetWindowAttrib(window_, GLFW_ICONIFIED) || width == 0 || height == 0;
  }

 private:
  // As asked for, but not larger than the screen. GLFW multiplies it by the monitor's scale.
  static std::pair<int, int> FittingSize(const ShellOptions& options) {
    const float scale = options.scale;
    float width = static_cast<float>(options.width) * scale, height = static_cast<float>(options.height) * scale;
    if (GLFWmonitor* monitor = glfwGetPrimaryMonitor()) {
      int x = 0, y = 0, free_width = 0, free_height = 0;
      float x_scale = 1, y_scale = 1;
      glfwGetMonitorWorkarea(monitor, &x, &y, &free_width, &free_height);
      glfwGetMonitorContentScale(monitor, &x_scale, &y_scale);
      width = std::min(width, kShareOfScreen * static_cast<float>(free_width) / x_scale);
      height = std::min(height, kShareOfScreen * static_cast<float>(free_height) / y_scale);
    }
    return {std::max(1, static_cast<int>(width)), std::max(1, static_cast<int>(height))};
  }

  GLFWwindow* window_ = nullptr;
  std::vector<std::string> dropped_;
};

// Dear ImGui's two backends for this window.
struct Backends {
  explicit Backends(GLFWwindow* window) {
    ImGui_ImplGlfw_InitForOpenGL(window, true);
    ImGui_ImplOpenGL3_Init("#version 330 core");
  }
  ~Backends() {
    ImGui_ImplOpenGL3_Shutdown();
    ImGui_ImplGlfw_Shutdown();
  }
  Backends(const Backends&) = delete;
  Backends& operator=(const Backends&) = delete;
};

void DrawFrame(Frame& frame, GLFWwindow* window) {
  ImGui_ImplOpenGL3_NewFrame();
  ImGui_ImplGlfw_NewFrame();
  ImGui::NewFrame();
  frame.Draw();
  ImGui::Render();
  int width = 0, height = 0;
  glfwGetFramebufferSize(window, &width, &height);
  glViewport(0, 0, width, height);
  const ImVec4 canvas = ImGui::ColorConvertU32ToFloat4(CurrentTheme().palette.canvas);
  glClearColor(canvas.x, canvas.y, canvas.z, 1);
  glClear(GL_COLOR_BUFFER_BIT);
  ImGui_ImplOpenGL3_RenderDrawData(ImGui::GetDrawData());
  ServePictureRequest(frame, width, height);
  glfwSwapBuffers(window);
}

}  // namespace

void RunWindow(Frame& frame, const ShellOptions& options) {
  Window window(options);
  float monitor_scale = window.MonitorScale();
  bool is_dark = options.is_dark;
  const GuiContext gui(options, options.scale * monitor_scale);
  const Backends backends(window.glfw());

  Clock::time_point awake_until = Clock::now() + kStaysAwake;
  while (!glfwWindowShouldClose(window.glfw()) && !frame.IsDone()) {
    const Clock::time_point begin = Clock::now();
    const float wanted_scale = window.MonitorScale();
    const bool wants_dark = frame.WantsDark().value_or(options.is_dark);
    if (wanted_scale != monitor_scale || wants_dark != is_dark) {
      monitor_scale = wanted_scale;
      is_dark = wants_dark;
      ApplyTheme(is_dark, options.scale * monitor_scale);
    }
    if (std::vector<std::string> dropped = window.TakeDropped(); !dropped.empty())
      frame.DroppedFiles(std::move(dropped));
    const bool is_hidden = window.IsHidden();
    if (!is_hidden) DrawFrame(frame, window.glfw());
    if (!is_hidden && (frame.IsBusy() || begin < awake_until)) {
      if (frame.IsBusy()) awake_until = begin + kStaysAwake;
      std::this_thread::sleep_until(begin + kFrameTime);
      glfwPollEvents();
    } else {
      if (!is_hidden && ImGui::GetIO().WantTextInput) {
        glfwWaitEventsTimeout(kCaretSecs);
      } else {
        glfwWaitEvents();
      }
      awake_until = std::max(awake_until, Clock::now() + kSettles);
    }
    if (!ImGui::GetCurrentContext()->InputEventsQueue.empty()) awake_until = Clock::now() + kStaysAwake;
  }
}

}  // namespace kvscope
