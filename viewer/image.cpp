// SPDX-License-Identifier: Apache-2.0
#include "viewer/image.h"

#include <cairo.h>

#include <algorithm>
#include <cstdio>
#include <memory>

#include "core/error.h"

namespace kvscope {
namespace {

using Surface = std::unique_ptr<cairo_surface_t, decltype(&cairo_surface_destroy)>;

// cairo's pixel is 0xAARRGGBB with colours multiplied by alpha.
uint32_t CairoFromRgba(uint32_t rgba) {
  const uint32_t alpha = rgba >> 24;
  const auto times_alpha = [&](uint32_t channel) { return ((channel & 255) * alpha + 127) / 255; };
  return alpha << 24 | times_alpha(rgba) << 16 | times_alpha(rgba >> 8) << 8 | times_alpha(rgba >> 16);
}

uint32_t RgbaFromCairo(uint32_t pixel) {
  const uint32_t alpha = pixel >> 24;
  if (alpha == 0) return 0;
  const auto by_alpha = [&](uint32_t channel) { return std::min(255u, ((channel & 255) * 255 + alpha / 2) / alpha); };
  return alpha << 24 | by_alpha(pixel) << 16 | by_alpha(pixel >> 8) << 8 | by_alpha(pixel >> 16);
}

uint32_t* Row(cairo_surface_t* surface, int y) {
  unsigned char* data = cairo_image_surface_get_data(surface);
  return reinterpret_cast<uint32_t*>(data + static_cast<ptrdiff_t>(y) * cairo_image_surface_get_stride(surface));
}

}  // namespace

void WritePng(const std::string& path, const Image& image) {
  KVSCOPE_CHECK(image.width > 0 && image.height > 0);
  KVSCOPE_CHECK_EQ(image.rgba.size(), static_cast<size_t>(image.width) * image.height);
  const bool is_opaque = std::ranges::all_of(image.rgba, [](uint32_t rgba) { return rgba >> 24 == 255; });
  const Surface surface(
      cairo_image_surface_create(is_opaque ? CAIRO_FORMAT_RGB24 : CAIRO_FORMAT_ARGB32, image.width, image.height),
      &cairo_surface_destroy);
  if (!cairo_image_surface_get_data(surface.get())) {
    throw Error(StrCat(path, ": a picture of ", image.width, " x ", image.height, " pixels is too large"));
  }
  cairo_surface_flush(surface.get());
  for (int y = 0; y < image.height; ++y) {
    const auto row = image.rgba.begin() + static_cast<ptrdiff_t>(y) * image.width;
    std::transform(row, row + image.width, Row(surface.get(), y), CairoFromRgba);
  }
  cairo_surface_mark_dirty(surface.get());
  const cairo_status_t status = cairo_surface_write_to_png(surface.get(), path.c_str());
  if (status != CAIRO_STATUS_SUCCESS) {
    std::remove(path.c_str());
    throw Error(StrCat(path, ": the picture cannot be written (", cairo_status_to_string(status),
                       "); check the folder and free space"));
  }
}

Image ReadPng(const std::string& path) {
  const Surface surface(cairo_image_surface_create_from_png(path.c_str()), &cairo_surface_destroy);
  const cairo_status_t status = cairo_surface_status(surface.get());
  if (status != CAIRO_STATUS_SUCCESS) {
    throw Error(StrCat(path, ": expected a PNG picture, found none (", cairo_status_to_string(status), ")"));
  }
  const cairo_format_t format = cairo_image_surface_get_format(surface.get());
  if (format != CAIRO_FORMAT_RGB24 && format != CAIRO_FORMAT_ARGB32) {
    throw Error(StrCat(path, ": expected 8 bits per colour, found another kind of PNG"));
  }
  Image image{cairo_image_surface_get_width(surface.get()), cairo_image_surface_get_height(surface.get()), {}};
  image.rgba.reserve(static_cast<size_t>(image.width) * image.height);
  const uint32_t opaque = format == CAIRO_FORMAT_RGB24 ? 0xff000000 : 0;  // the fourth byte of RGB24 means nothing
  for (int y = 0; y < image.height; ++y) {
    const uint32_t* row = Row(surface.get(), y);
    for (int x = 0; x < image.width; ++x) image.rgba.push_back(RgbaFromCairo(row[x] | opaque));
  }
  return image;
}

}  // namespace kvscope
