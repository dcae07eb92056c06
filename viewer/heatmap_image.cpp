// SPDX-License-Identifier: Apache-2.0
#include "viewer/heatmap_image.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <span>

#include "core/error.h"
#include "replay/chart_color.h"

namespace kvscope {
namespace {

constexpr double kDecades = 6;  // of the log scale
constexpr int kHatchPixels = 6;

// Part `index` of 0 .. size-1 cut in `count`: at least one place, in order.
struct Part {
  int begin, end;
};
Part PartOf(int size, int count, int index) {
  const auto begin = static_cast<int>(int64_t{size} * index / count);
  return {begin, std::max(begin + 1, static_cast<int>(int64_t{size} * (index + 1) / count))};
}

// Cells [rows, columns] as pixels; the first columns are masked.
template <typename IsExact>
Image Paint(std::span<const float> cells, int rows, int columns, int masked_columns, const IsExact& is_exact,
            const HeatmapOptions& options, int width, int height) {
  KVSCOPE_CHECK(width > 0 && height > 0);
  Image image{width, height, std::vector<uint32_t>(static_cast<size_t>(width) * height)};
  std::vector<Part> columns_of(width);
  for (int x = 0; x < width; ++x) columns_of[x] = PartOf(columns, width, x);
  for (int y = 0; y < height; ++y) {
    const Part in_rows = PartOf(rows, height, y);
    uint32_t* const pixels = &image.rgba[static_cast<size_t>(y) * width];
    for (int x = 0; x < width; ++x) {
      float weight = WeightMap::kNoWeight;
      bool is_hatch = (x + y) % kHatchPixels == 0, is_pixel_exact = true;
      for (int row = in_rows.begin; row < in_rows.end; ++row) {
        for (int column = std::max(columns_of[x].begin, masked_columns); column < columns_of[x].end; ++column) {
          weight = std::max(weight, cells[static_cast<size_t>(row) * columns + column]);
          if (is_hatch) is_pixel_exact = is_pixel_exact && is_exact(row, column);
        }
      }
      is_hatch = is_hatch && !is_pixel_exact;
      pixels[x] = weight != WeightMap::kNoWeight && !is_hatch ? InkColor(options.scale.InkOf(weight), options.is_dark)
                                                              : options.background;
    }
  }
  return image;
}

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
  int masked_columns = 0;
  while (masked_columns < map.columns() && map.TokenBegin(masked_columns) < options.masked_tokens) ++masked_columns;
  return Paint(
      map.cells(), map.rows(), map.columns(), masked_columns,
      [&](int row, int column) { return map.IsExact(row, column); }, options, width, height);
}

float HighestWeight(const SharedLines& lines, const TokenRange& range, int masked_tokens) {
  float highest = 0;
  for (const auto& line : lines) {
    for (int token = std::max(range.begin, masked_tokens); line && token < range.end; ++token) {
      if (token >= static_cast<int>(line->size())) break;
      highest = std::max(highest, (*line)[token]);
    }
  }
  return highest;
}

Image MakeLinesImage(const SharedLines& lines, const TokenRange& range, const HeatmapOptions& options, int width,
                     int height) {
  KVSCOPE_CHECK(!lines.empty() && range.begin >= 0 && range.begin < range.end);
  const int rows = static_cast<int>(lines.size()), tokens = range.end - range.begin, columns = std::min(width, tokens);
  std::vector<float> cells(static_cast<size_t>(rows) * columns, WeightMap::kNoWeight);
  for (int row = 0; row < rows; ++row) {
    for (int column = 0; lines[row] && column < columns; ++column) {
      const Part part = PartOf(tokens, columns, column);
      const int begin = std::max(range.begin + part.begin, options.masked_tokens),
                end = std::min(range.begin + part.end, static_cast<int>(lines[row]->size()));
      float& cell = cells[static_cast<size_t>(row) * columns + column];
      for (int token = begin; token < end; ++token) cell = std::max(cell, (*lines[row])[token]);
    }
  }
  return Paint(
      cells, rows, columns, 0, [](int, int) { return true; }, options, width, height);
}

}  // namespace kvscope
