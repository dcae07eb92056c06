// SPDX-License-Identifier: Apache-2.0
#include "viewer/texture.h"

#include <imgui.h>
#include <imgui_internal.h>

#include <cstring>

namespace kvscope {

Texture::Texture() = default;

Texture::~Texture() {
  if (!ImGui::GetCurrentContext()) return;  // the renderer went first, and its textures with it
  if (data_) retired_.push_back(std::move(data_));
  for (auto& texture : retired_) ImGui::UnregisterUserTexture(texture.get());
}

void Texture::Set(const Image& image) {
  std::erase_if(retired_, [](const std::unique_ptr<ImTextureData>& texture) {
    if (texture->Status != ImTextureStatus_Destroyed) return false;
    ImGui::UnregisterUserTexture(texture.get());
    return true;
  });
  if (data_ && (data_->Width != image.width || data_->Height != image.height)) {
    data_->WantDestroyNextFrame = true;
    data_->SetStatus(ImTextureStatus_WantDestroy);
    retired_.push_back(std::move(data_));
  }
  const bool is_new = !data_;
  if (is_new) {
    data_ = std::make_unique<ImTextureData>();
    data_->Create(ImTextureFormat_RGBA32, image.width, image.height);
    data_->UseColors = true;
    ImGui::RegisterUserTexture(data_.get());
  }
  std::memcpy(data_->GetPixels(), image.rgba.data(), image.rgba.size() * sizeof(uint32_t));
  if (is_new || data_->Status == ImTextureStatus_WantCreate) {
    data_->SetStatus(ImTextureStatus_WantCreate);
    return;
  }
  const ImTextureRect all{0, 0, static_cast<unsigned short>(image.width), static_cast<unsigned short>(image.height)};
  data_->UpdateRect = data_->UsedRect = all;
  data_->Updates.resize(0);
  data_->Updates.push_back(all);
  data_->SetStatus(ImTextureStatus_WantUpdates);
}

ImTextureRef Texture::Ref() const {
  return data_->GetTexRef();
}

}  // namespace kvscope
