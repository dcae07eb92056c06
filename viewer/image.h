// SPDX-License-Identifier: Apache-2.0
// A picture in memory and as a PNG file.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace kvscope {

struct Image {
  int width = 0, height = 0;
  std::vector<uint32_t> rgba;  // [height, width], top row first; bytes R, G, B, A in memory: 0xAABBGGRR
};

// Throws Error; no file is left on failure. Opaque pixels survive a round trip exactly; the colours of translucent ones
// lose bits, as cairo multiplies them by alpha.
void WritePng(const std::string& path, const Image& image);
Image ReadPng(const std::string& path);

}  // namespace kvscope
