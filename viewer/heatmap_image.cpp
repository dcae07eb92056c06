// SPDX-License-Identifier: Apache-2.0
#include "viewer/heatmap_image.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

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

// The first columns are not drawn.
struct Cells {
  int rows, columns, masked_columns;
};

int MaskedColumns(const WeightCells& map, int masked_tokens) {
  int columns = 0;
  while (columns < map.columns && map.TokenBegin(columns) < masked_tokens) ++columns;
  return columns;
}

auto CellsOf(const WeightCells& map) {
  return [&map](int row, int column) { return map.cells[static_cast<size_t>(row) * map.columns + column]; };
}

bool AlwaysExact(int, int) {
  return true;
}

// Fills an image of a given size.
template <typename WeightOf, typename IsExact>
Image Paint(const Cells& cells, const WeightOf& weight_of, const IsExact& is_exact, const HeatmapOptions& options,
            Image image) {
  KVSCOPE_CHECK(image.width > 0 && image.height > 0);
  image.rgba.resize(static_cast<size_t>(image.width) * image.height);
  std::vector<Part> columns_of(image.width);
  for (int x = 0; x < image.width; ++x) columns_of[x] = PartOf(cells.columns, image.width, x);
  for (int y = 0; y < image.height; ++y) {
    const Part in_rows = PartOf(cells.rows, image.height, y);
    uint32_t* const pixels = &image.rgba[static_cast<size_t>(y) * image.width];
    for (int x = 0; x < image.width; ++x) {
      float weight = WeightMap::kNoWeight;
      const bool is_stroke = (x + y) % kHatchPixels == 0;
      bool is_hatched = false;
      for (int row = in_rows.begin; row < in_rows.end; ++row) {
        for (int column = std::max(columns_of[x].begin, cells.masked_columns); column < columns_of[x].end; ++column) {
          weight = std::max(weight, weight_of(row, column));
          is_hatched = is_hatched || (is_stroke && !is_exact(row, column));
        }
      }
      pixels[x] = weight != WeightMap::kNoWeight && !is_hatched ? InkColor(options.scale.InkOf(weight), options.is_dark)
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

float HighestWeight(const WeightCells& map, int masked_tokens) {
  const int masked_columns = MaskedColumns(map, masked_tokens);
  float highest = 0;
  for (int row = 0; row < map.rows; ++row) {
    const auto begin = map.cells.begin() + int64_t{row} * map.columns;
    highest = std::accumulate(begin + masked_columns, begin + map.columns, highest,
                              [](float a, float b) { return std::max(a, b); });
  }
  return highest;
}

Image MakeHeatmapImage(const WeightMap& map, const HeatmapOptions& options, int width, int height) {
  const WeightCells& known = map.known();
  const auto weight_of = [&](int row, int column) {
    const float weight = known.cells[static_cast<size_t>(row) * known.columns + column];
    if (weight != WeightCells::kNoWeight) return weight;
    return known.cells[static_cast<size_t>(map.ShownRow(row)) * known.columns + column];
  };
  const auto is_exact = [&](int row, int column) { return map.IsExact(row, column); };
  return Paint({known.rows, known.columns, MaskedColumns(known, options.masked_tokens)}, weight_of, is_exact, options,
               {width, height, {}});
}

Image MakeHeatmapImage(const WeightCells& exact, const HeatmapOptions& options, int width, int height) {
  return Paint({exact.rows, exact.columns, MaskedColumns(exact, options.masked_tokens)}, CellsOf(exact), AlwaysExact,
               options, {width, height, {}});
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
  const int rows = static_cast<int>(lines.size()), columns = std::min(width, range.end - range.begin);
  WeightCells map{{0, rows, range.begin, range.end},
                  rows,
                  columns,
                  std::vector<float>(size_t(rows) * columns, WeightMap::kNoWeight)};
  for (int row = 0; row < rows; ++row) {
    for (int column = 0; lines[row] && column < columns; ++column) {
      const int begin = std::max(map.TokenBegin(column), options.masked_tokens),
                end = std::min(map.TokenBegin(column + 1), static_cast<int>(lines[row]->size()));
      float& cell = map.cells[static_cast<size_t>(row) * columns + column];
      for (int token = begin; token < end; ++token) cell = std::max(cell, (*lines[row])[token]);
    }
  }
  return Paint({rows, columns, 0}, CellsOf(map), AlwaysExact, options, {width, height, {}});
}

}  // namespace kvscope
