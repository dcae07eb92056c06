// SPDX-License-Identifier: Apache-2.0
#include "viewer/gl_pixels.h"

#include <GL/gl.h>
#include <imgui.h>

#include <algorithm>
#include <cmath>

namespace kvscope {

Image ReadPixels(int left, int bottom, int width, int height) {
  Image image{width, height, std::vector<uint32_t>(static_cast<size_t>(width) * height)};
  std::vector<uint32_t> upside_down(image.rgba.size());
  glPixelStorei(GL_PACK_ALIGNMENT, 4);
  glReadPixels(left, bottom, width, height, GL_RGBA, GL_UNSIGNED_BYTE, upside_down.data());
  for (int y = 0; y < height; ++y) {
    const uint32_t* from = &upside_down[static_cast<size_t>(height - 1 - y) * width];
    uint32_t* to = &image.rgba[static_cast<size_t>(y) * width];
    for (int x = 0; x < width; ++x) to[x] = from[x] | 0xff000000;
  }
  return image;
}

void ServePictureRequest(Frame& frame, int framebuffer_width, int framebuffer_height) {
  const std::optional<PictureRequest> request = frame.TakePictureRequest();
  if (!request) return;
  const ImVec2 scale = ImGui::GetIO().DisplayFramebufferScale;
  const auto pixel = [](float at, float pixels_per_unit, int most) {
    return std::clamp(static_cast<int>(std::lround(at * pixels_per_unit)), 0, most);
  };
  const int left = pixel(request->left, scale.x, framebuffer_width),
            right = pixel(request->right, scale.x, framebuffer_width),
            top = pixel(request->top, scale.y, framebuffer_height),
            bottom = pixel(request->bottom, scale.y, framebuffer_height);
  if (left >= right || top >= bottom) return request->take({});
  request->take(ReadPixels(left, framebuffer_height - bottom, right - left, bottom - top));
}

}  // namespace kvscope
