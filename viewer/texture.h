// SPDX-License-Identifier: Apache-2.0
// A picture that panels draw; uploaded by whatever renders the frames.
#pragma once

#include <memory>
#include <vector>

#include "viewer/image.h"

struct ImTextureData;
struct ImTextureRef;

namespace kvscope {

class Texture {
 public:
  Texture();
  ~Texture();
  void Set(const Image& image);
  bool IsEmpty() const { return !data_; }
  ImTextureRef Ref() const;

 private:
  std::unique_ptr<ImTextureData> data_;
  std::vector<std::unique_ptr<ImTextureData>> retired_;  // until the renderer has let go of them
};

}  // namespace kvscope
