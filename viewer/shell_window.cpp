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

#include "core/error.h"
#include "viewer/gui_context.h"
#include "viewer/shell.h"
#include "viewer/theme.h"

namespace kvscope {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::microseconds kFrameTime(16'600);
// Drawing goes on so long after the last input, as tooltips wait for a pointer that rests, and after any other event.
constexpr std::chrono::milliseconds kStaysAwake(700), kSettles(60);
constexpr double kCaretSecs = 0.2;  // a text field's caret blinks

std::string GlfwMessage() {
  const char* text = nullptr;
  glfwGetError(&text);
  return text ? text : "unknown reason";
}

class Window {
 public:
  Window(Frame& frame, const ShellOptions& options) : frame_(frame) {
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
    window_ = glfwCreateWindow(static_cast<int>(static_cast<float>(options.width) * options.scale),
                               static_cast<int>(static_cast<float>(options.height) * options.scale),
                               options.title.c_str(), nullptr, nullptr);
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
      static_cast<Window*>(glfwGetWindowUserPointer(window))
          ->frame_.DroppedFiles(std::vector<std::string>(paths, paths + num_paths));
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

  bool IsHidden() const {
    int width = 0, height = 0;
    glfwGetFramebufferSize(window_, &width, &height);
    return glfwGetWindowAttrib(window_, GLFW_ICONIFIED) || width == 0 || height == 0;
  }

 private:
  Frame& frame_;
  GLFWwindow* window_ = nullptr;
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
  glfwSwapBuffers(window);
}

}  // namespace

void RunWindow(Frame& frame, const ShellOptions& options) {
  const Window window(frame, options);
  float monitor_scale = window.MonitorScale();
  const GuiContext gui(options, options.scale * monitor_scale);
  const Backends backends(window.glfw());

  Clock::time_point awake_until = Clock::now() + kStaysAwake;
  while (!glfwWindowShouldClose(window.glfw()) && !frame.IsDone()) {
    const Clock::time_point begin = Clock::now();
    if (const float scale = window.MonitorScale(); scale != monitor_scale) {
      monitor_scale = scale;
      ApplyTheme(options.is_dark, options.scale * monitor_scale);
    }
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
