// SPDX-License-Identifier: Apache-2.0
// Pictures as PNG: an SVG drawn through librsvg, or plain pixels. The only place that knows librsvg and cairo.
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace kvscope {

// Draws an SVG document at `scale` device pixels per unit and writes it. Throws Error; no file is left on failure.
void WritePng(const std::string& path, const std::string& svg_document, double scale = 2);

// The bytes of a PNG file. rgb: [height, width], 0xRRGGBB.
std::string PngFromPixels(std::span<const uint32_t> rgb, int width, int height);

}  // namespace kvscope
