// SPDX-License-Identifier: Apache-2.0
// A picture on the graphics card, for maps: thousands of rectangles a frame are slow, one textured rectangle is not.
#pragma once

#include "viewer/image.h"

struct ImDrawList;
struct ImTextureData;
struct ImTextureRef;
struct ImVec2;

namespace kvscope {

// Use it inside Frame::Draw only, except for making and destroying it. It outlives the shell it was drawn in.
class Texture {
 public:
  Texture() = default;
  ~Texture() { Clear(); }
  Texture(const Texture&) = delete;
  Texture& operator=(const Texture&) = delete;

  // Takes another picture, of any size up to 16384 x 16384 (what drivers have). It is uploaded before this frame is
  // seen.
  void Set(const Image& image);
  void Clear();
  bool is_set() const { return data_ != nullptr; }
  int width() const { return width_; }
  int height() const { return height_; }

  // Fills the rectangle. A pixel of the picture becomes a sharp cell. In a smaller rectangle pixels are left out:
  // reduce the picture first, so that nothing rare disappears.
  void Draw(ImDrawList& draw, const ImVec2& from, const ImVec2& to) const;
  // For ImGui::Image and ImPlot::PlotImage, which smooth it.
  ImTextureRef Ref() const;

 private:
  ImTextureData* data_ = nullptr;
  int width_ = 0, height_ = 0;
};

// For shells: call when the renderer is shut down and before Dear ImGui's context goes.
void DetachTextures();

}  // namespace kvscope
