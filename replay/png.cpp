// SPDX-License-Identifier: Apache-2.0
#include "replay/png.h"

#include <cairo.h>
#include <librsvg/rsvg.h>

#include <cmath>
#include <cstdio>
#include <fstream>
#include <memory>

#include "core/error.h"

namespace kvscope {
namespace {

using Surface = std::unique_ptr<cairo_surface_t, decltype(&cairo_surface_destroy)>;

std::string Encoded(cairo_surface_t* surface) {
  std::string bytes;
  const auto append = [](void* out, const unsigned char* data, unsigned length) {
    static_cast<std::string*>(out)->append(reinterpret_cast<const char*>(data), length);
    return CAIRO_STATUS_SUCCESS;
  };
  const cairo_status_t status = cairo_surface_write_to_png_stream(surface, append, &bytes);
  if (status != CAIRO_STATUS_SUCCESS)
    throw Error(StrCat("PNG: encoding failed (", cairo_status_to_string(status), ")"));
  return bytes;
}

std::string Message(GError* error) {
  const std::string text = error ? error->message : "unknown reason";
  if (error) g_error_free(error);
  return text;
}

// The picture on a surface of its natural size times scale.
Surface Drawn(const std::string& svg, double scale) {
  GError* error = nullptr;
  const auto* bytes = reinterpret_cast<const guint8*>(svg.data());
  const std::unique_ptr<RsvgHandle, decltype(&g_object_unref)> handle(
      rsvg_handle_new_from_data(bytes, svg.size(), &error), &g_object_unref);
  if (!handle) throw Error("PNG: the SVG cannot be read (" + Message(error) + ")");
  double width = 0, height = 0;
  if (!rsvg_handle_get_intrinsic_size_in_pixels(handle.get(), &width, &height)) {
    throw Error("PNG: the SVG has no size in pixels");
  }
  Surface surface(cairo_image_surface_create(CAIRO_FORMAT_RGB24, static_cast<int>(std::ceil(width * scale)),
                                             static_cast<int>(std::ceil(height * scale))),
                  &cairo_surface_destroy);
  const std::unique_ptr<cairo_t, decltype(&cairo_destroy)> context(cairo_create(surface.get()), &cairo_destroy);
  cairo_set_source_rgb(context.get(), 1, 1, 1);
  cairo_paint(context.get());
  cairo_scale(context.get(), scale, scale);
  const RsvgRectangle viewport{0, 0, width, height};
  if (!rsvg_handle_render_document(handle.get(), context.get(), &viewport, &error)) {
    throw Error("PNG: drawing failed (" + Message(error) + ")");
  }
  return surface;
}

}  // namespace

void WritePng(const std::string& path, const std::string& svg_document, double scale) {
  const std::string bytes = Encoded(Drawn(svg_document, scale).get());
  std::ofstream out(path, std::ios::binary);
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  out.close();
  if (!out) {
    std::remove(path.c_str());
    throw Error(StrCat(path, ": the picture cannot be written; check the folder and free space"));
  }
}

std::string PngFromPixels(std::span<const uint32_t> rgb, int width, int height) {
  KVSCOPE_CHECK(width > 0 && height > 0);
  KVSCOPE_CHECK_EQ(rgb.size(), static_cast<size_t>(width) * height);
  const Surface surface(cairo_image_surface_create(CAIRO_FORMAT_RGB24, width, height), &cairo_surface_destroy);
  unsigned char* data = cairo_image_surface_get_data(surface.get());
  if (!data) throw Error(StrCat("PNG: a picture of ", width, " x ", height, " pixels is too large"));
  const int stride = cairo_image_surface_get_stride(surface.get());
  cairo_surface_flush(surface.get());
  for (int y = 0; y < height; ++y) {
    auto* row = reinterpret_cast<uint32_t*>(data + static_cast<ptrdiff_t>(y) * stride);
    for (int x = 0; x < width; ++x) row[x] = rgb[static_cast<size_t>(y) * width + x];
  }
  cairo_surface_mark_dirty(surface.get());
  return Encoded(surface.get());
}

}  // namespace kvscope
