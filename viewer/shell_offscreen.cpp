// SPDX-License-Identifier: Apache-2.0
// Pictures without a display: an EGL context of our own that draws into a framebuffer object. Mesa does it on the CPU.
#define GL_GLEXT_PROTOTYPES
#include <EGL/egl.h>
#include <EGL/eglext.h>
#include <GL/gl.h>
#include <GL/glext.h>
#include <imgui.h>
#include <imgui_impl_opengl3.h>

#include <chrono>
#include <cmath>
#include <string_view>
#include <thread>

#include "core/error.h"
#include "viewer/gl_pixels.h"
#include "viewer/gui_context.h"
#include "viewer/shell.h"

namespace kvscope {
namespace {

using Clock = std::chrono::steady_clock;

bool HasWord(const char* words, std::string_view word) {
  const std::string padded = StrCat(" ", words ? words : "", " ");
  return padded.find(StrCat(" ", word, " ")) != std::string::npos;
}

// An OpenGL 3.3 context that is current on this thread while the object lives.
class EglContext {
 public:
  EglContext() {
    const char* extensions = eglQueryString(EGL_NO_DISPLAY, EGL_EXTENSIONS);
    const bool is_current =
        HasWord(extensions, "EGL_EXT_platform_base") && (TrySurfaceless(extensions) || TryDevices(extensions));
    if (is_current || Try(eglGetDisplay(EGL_DEFAULT_DISPLAY))) return;
    throw Error(
        "a picture needs OpenGL 3.3 through EGL, found no driver that has it; install one (Debian: apt-get install "
        "libegl-mesa0 libgl1-mesa-dri, no GPU needed)");
  }
  ~EglContext() { Close(); }
  EglContext(const EglContext&) = delete;
  EglContext& operator=(const EglContext&) = delete;

 private:
  // Mesa, with or without a GPU.
  bool TrySurfaceless(const char* extensions) {
    return HasWord(extensions, "EGL_MESA_platform_surfaceless") &&
           TryPlatform(EGL_PLATFORM_SURFACELESS_MESA, EGL_DEFAULT_DISPLAY);
  }

  // NVIDIA's driver.
  bool TryDevices(const char* extensions) {
    if (!HasWord(extensions, "EGL_EXT_platform_device")) return false;
    const auto query = reinterpret_cast<PFNEGLQUERYDEVICESEXTPROC>(eglGetProcAddress("eglQueryDevicesEXT"));
    EGLDeviceEXT devices[16];
    EGLint num_devices = 0;
    if (!query || !query(16, devices, &num_devices)) return false;
    for (EGLint device = 0; device < num_devices; ++device) {
      if (TryPlatform(EGL_PLATFORM_DEVICE_EXT, devices[device])) return true;
    }
    return false;
  }

  bool TryPlatform(EGLenum platform, void* native) {
    const auto get = reinterpret_cast<PFNEGLGETPLATFORMDISPLAYEXTPROC>(eglGetProcAddress("eglGetPlatformDisplayEXT"));
    return get && Try(get(platform, native, nullptr));
  }

  bool Try(EGLDisplay display) {
    if (display == EGL_NO_DISPLAY || !eglInitialize(display, nullptr, nullptr)) return false;
    display_ = display;
    if (MakeCurrent()) return true;
    Close();
    return false;
  }

  bool MakeCurrent() {
    if (!eglBindAPI(EGL_OPENGL_API)) return false;
    const bool is_surfaceless = HasWord(eglQueryString(display_, EGL_EXTENSIONS), "EGL_KHR_surfaceless_context");
    const EGLint wanted[] = {EGL_RENDERABLE_TYPE, EGL_OPENGL_BIT, EGL_SURFACE_TYPE,
                             is_surfaceless ? 0 : EGL_PBUFFER_BIT, EGL_NONE};
    EGLConfig config = nullptr;
    EGLint num_configs = 0;
    if (!eglChooseConfig(display_, wanted, &config, 1, &num_configs) || num_configs == 0) return false;
    const EGLint version[] = {
        EGL_CONTEXT_MAJOR_VERSION,           3,       EGL_CONTEXT_MINOR_VERSION, 3, EGL_CONTEXT_OPENGL_PROFILE_MASK,
        EGL_CONTEXT_OPENGL_CORE_PROFILE_BIT, EGL_NONE};
    context_ = eglCreateContext(display_, config, EGL_NO_CONTEXT, version);
    if (context_ == EGL_NO_CONTEXT) return false;
    if (!is_surfaceless) {
      const EGLint smallest[] = {EGL_WIDTH, 1, EGL_HEIGHT, 1, EGL_NONE};
      surface_ = eglCreatePbufferSurface(display_, config, smallest);
    }
    return eglMakeCurrent(display_, surface_, surface_, context_);
  }

  void Close() {
    if (display_ == EGL_NO_DISPLAY) return;
    eglMakeCurrent(display_, EGL_NO_SURFACE, EGL_NO_SURFACE, EGL_NO_CONTEXT);
    if (surface_ != EGL_NO_SURFACE) eglDestroySurface(display_, surface_);
    if (context_ != EGL_NO_CONTEXT) eglDestroyContext(display_, context_);
    eglTerminate(display_);
    display_ = EGL_NO_DISPLAY;
    context_ = EGL_NO_CONTEXT;
    surface_ = EGL_NO_SURFACE;
  }

  EGLDisplay display_ = EGL_NO_DISPLAY;
  EGLContext context_ = EGL_NO_CONTEXT;
  EGLSurface surface_ = EGL_NO_SURFACE;
};

class Framebuffer {
 public:
  Framebuffer(int width, int height) : width_(width), height_(height) {
    GLint most = 0;
    glGetIntegerv(GL_MAX_RENDERBUFFER_SIZE, &most);
    if (width > most || height > most) {
      throw Error(
          StrCat("a picture of ", width, " x ", height, " pixels: the driver draws at most ", most, " x ", most));
    }
    glGenRenderbuffers(1, &color_);
    glBindRenderbuffer(GL_RENDERBUFFER, color_);
    glRenderbufferStorage(GL_RENDERBUFFER, GL_RGBA8, width, height);
    glGenFramebuffers(1, &framebuffer_);
    glBindFramebuffer(GL_FRAMEBUFFER, framebuffer_);
    glFramebufferRenderbuffer(GL_FRAMEBUFFER, GL_COLOR_ATTACHMENT0, GL_RENDERBUFFER, color_);
    if (glCheckFramebufferStatus(GL_FRAMEBUFFER) != GL_FRAMEBUFFER_COMPLETE || glGetError() != GL_NO_ERROR) {
      throw Error(StrCat("a picture of ", width, " x ", height, " pixels: the driver has no room for it"));
    }
  }
  ~Framebuffer() {
    glDeleteFramebuffers(1, &framebuffer_);
    glDeleteRenderbuffers(1, &color_);
  }
  Framebuffer(const Framebuffer&) = delete;
  Framebuffer& operator=(const Framebuffer&) = delete;

  void Clear() const {
    glBindFramebuffer(GL_FRAMEBUFFER, framebuffer_);
    glViewport(0, 0, width_, height_);
    glClearColor(0, 0, 0, 1);
    glClear(GL_COLOR_BUFFER_BIT);
  }

  // OpenGL's first row is the lowest.
  Image Read() const {
    glBindFramebuffer(GL_FRAMEBUFFER, framebuffer_);
    return ReadPixels(0, 0, width_, height_);
  }

 private:
  int width_, height_;
  GLuint color_ = 0, framebuffer_ = 0;
};

// Dear ImGui's OpenGL renderer, for this context.
struct Renderer {
  Renderer() {
    if (!ImGui_ImplOpenGL3_Init("#version 330 core")) throw Error("OpenGL 3.3 was found, but its functions were not");
  }
  ~Renderer() { ImGui_ImplOpenGL3_Shutdown(); }
  Renderer(const Renderer&) = delete;
  Renderer& operator=(const Renderer&) = delete;
};

// Windows that size themselves and new docks need a few frames, whatever the frame says.
constexpr int kFewestFrames = 4, kSettledFrames = 2;

}  // namespace

Image RenderOffscreen(Frame& frame, const ShellOptions& options, double timeout_secs) {
  const int width = static_cast<int>(std::lround(options.width * static_cast<double>(options.scale)));
  const int height = static_cast<int>(std::lround(options.height * static_cast<double>(options.scale)));
  KVSCOPE_CHECK(width > 0 && height > 0);
  const EglContext egl;
  const Framebuffer framebuffer(width, height);
  ShellOptions unkept = options;
  unkept.ini_path.clear();
  const GuiContext gui(unkept, options.scale);
  const Renderer renderer;
  ImGui::GetIO().DisplaySize = {static_cast<float>(width), static_cast<float>(height)};

  const Clock::time_point deadline =
      Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(timeout_secs));
  for (int frames = 1, settled = 0;; ++frames) {
    ImGui_ImplOpenGL3_NewFrame();
    ImGui::GetIO().DeltaTime = 1.0f / 60;
    ImGui::NewFrame();
    frame.Draw();
    ImGui::Render();
    const bool is_busy = frame.IsBusy();
    settled = is_busy ? 0 : settled + 1;
    if (frames >= kFewestFrames && settled >= kSettledFrames) break;
    // Only the last frame is rasterised; the others take part in loading textures.
    for (ImTextureData* texture : ImGui::GetPlatformIO().Textures) {
      if (texture->Status != ImTextureStatus_OK) ImGui_ImplOpenGL3_UpdateTexture(texture);
    }
    if (!is_busy) continue;
    if (Clock::now() > deadline) {
      throw Error(
          StrCat("the picture was not complete after ", timeout_secs, " s; the file may be too large for that"));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  framebuffer.Clear();
  ImGui_ImplOpenGL3_RenderDrawData(ImGui::GetDrawData());
  ServePictureRequest(frame, width, height);
  return framebuffer.Read();
}

}  // namespace kvscope
