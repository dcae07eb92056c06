// SPDX-License-Identifier: Apache-2.0
// Dear ImGui's renderer creates, updates and destroys the textures that are registered with its context.
#include "viewer/texture.h"

#include <imgui.h>
#include <imgui_internal.h>

#include <cstring>
#include <vector>

#include "core/error.h"

namespace kvscope {
namespace {

struct Entry {
  ImTextureData* data;
  bool is_registered, is_dying;
};
std::vector<Entry> entries;

Entry& EntryOf(const ImTextureData* data) {
  for (Entry& entry : entries) {
    if (entry.data == data) return entry;
  }
  CheckFailed(__FILE__, __LINE__, "EntryOf(data)", "unknown texture");
}

void Register(const ImTextureData* data) {
  Entry& entry = EntryOf(data);
  if (!entry.is_registered) ImGui::RegisterUserTexture(entry.data);
  entry.is_registered = true;
}

// What the renderer has let go of. A texture that dies in a frame may still be drawn in it.
void DeleteDead() {
  std::erase_if(entries, [](const Entry& entry) {
    if (!entry.is_dying || (entry.is_registered && entry.data->Status != ImTextureStatus_Destroyed)) return false;
    if (entry.is_registered) ImGui::UnregisterUserTexture(entry.data);
    IM_DELETE(entry.data);
    return true;
  });
}

}  // namespace

void Texture::Set(const Image& image) {
  KVSCOPE_CHECK(image.width > 0 && image.height > 0);
  KVSCOPE_CHECK_EQ(image.rgba.size(), static_cast<size_t>(image.width) * image.height);
  Clear();
  DeleteDead();
  data_ = IM_NEW(ImTextureData)();
  data_->Create(ImTextureFormat_RGBA32, image.width, image.height);
  data_->UseColors = true;
  std::memcpy(data_->GetPixels(), image.rgba.data(), image.rgba.size() * sizeof(uint32_t));
  data_->SetStatus(ImTextureStatus_WantCreate);
  entries.push_back({data_, false, false});
  width_ = image.width;
  height_ = image.height;
}

void Texture::Clear() {
  if (!data_) return;
  data_->WantDestroyNextFrame = true;
  Entry& entry = EntryOf(data_);
  entry.is_dying = true;
  data_ = nullptr;
  width_ = height_ = 0;
  if (!entry.is_registered) DeleteDead();  // nothing has drawn it
}

void Texture::Draw(ImDrawList& draw, const ImVec2& from, const ImVec2& to) const {
  const ImGuiPlatformIO& platform = ImGui::GetPlatformIO();
  draw.AddCallback(platform.DrawCallback_SetSamplerNearest, nullptr);
  draw.AddImage(Ref(), from, to);
  draw.AddCallback(platform.DrawCallback_SetSamplerLinear, nullptr);
}

ImTextureRef Texture::Ref() const {
  KVSCOPE_CHECK(is_set());
  Register(data_);
  return data_->GetTexRef();
}

void DetachTextures() {
  for (Entry& entry : entries) {
    if (entry.is_registered) ImGui::UnregisterUserTexture(entry.data);
    entry.is_registered = false;
  }
  DeleteDead();
}

}  // namespace kvscope
