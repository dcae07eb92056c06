// SPDX-License-Identifier: Apache-2.0
#include "viewer/heatmap_image.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "core/error.h"
#include "replay/chart_color.h"

namespace kvscope {
namespace {

constexpr double kDecades = 6;  // of the log scale
constexpr int kHatchPixels = 6;

}  // namespace

double WeightScale::InkOf(float weight) const {
  if (!(weight > 0) || !(highest > 0)) return 0;
  const double share = std::min(1.0, double{weight} / highest);
  return is_log ? std::max(0.0, 1 + std::log10(share) / kDecades) : share;
}

float WeightScale::WeightOf(double ink) const {
  return static_cast<float>(highest * (is_log ? std::pow(10.0, (ink - 1) * kDecades) : ink));
}

uint32_t InkColor(double ink, bool is_dark) {
  static const std::array<uint32_t, 256> table = [] {
    std::array<uint32_t, 256> colors{};
    for (size_t i = 0; i < colors.size(); ++i) {
      const uint32_t rgb = SequentialRgb(static_cast<double>(i) / (colors.size() - 1));
      colors[i] = 0xff000000 | (rgb & 0xff) << 16 | (rgb & 0xff00) | rgb >> 16;
    }
    return colors;
  }();
  const double shown = std::clamp(is_dark ? 1 - ink : ink, 0.0, 1.0);
  return table[static_cast<size_t>(shown * 255 + 0.5)];
}

float HighestWeight(const WeightMap& map, int masked_tokens) {
  float highest = 0;
  for (int row = 0; row < map.rows(); ++row) {
    for (int column = 0; column < map.columns(); ++column) {
      if (map.TokenBegin(column) < masked_tokens) continue;
      highest = std::max(highest, map.cells()[static_cast<size_t>(row) * map.columns() + column]);
    }
  }
  return highest;
}

Image MakeHeatmapImage(const WeightMap& map, const HeatmapOptions& options, int width, int height) {
  KVSCOPE_CHECK(width > 0 && height > 0);
  Image image{width, height, std::vector<uint32_t>(static_cast<size_t>(width) * height)};
  std::vector<int> column_of(width);
  for (int x = 0; x < width; ++x) column_of[x] = static_cast<int>(int64_t{x} * map.columns() / width);
  for (int y = 0; y < height; ++y) {
    const int row = static_cast<int>(int64_t{y} * map.rows() / height);
    const float* const cells = &map.cells()[static_cast<size_t>(row) * map.columns()];
    uint32_t* const pixels = &image.rgba[static_cast<size_t>(y) * width];
    for (int x = 0; x < width; ++x) {
      const int column = column_of[x];
      const bool is_drawn = cells[column] != WeightMap::kNoWeight && map.TokenBegin(column) >= options.masked_tokens;
      const bool is_hatch = (x + y) % kHatchPixels == 0 && !map.IsExact(row, column);
      pixels[x] =
          is_drawn && !is_hatch ? InkColor(options.scale.InkOf(cells[column]), options.is_dark) : options.background;
    }
  }
  return image;
}

}  // namespace kvscope
