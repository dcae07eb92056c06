// SPDX-License-Identifier: Apache-2.0
// A map of weights as pixels: pure functions, no window. Colours are inks (replay/chart_color.h), even in lightness and
// safe for the colour-blind: more is darker on a light theme, lighter on a dark one. What is not exact yet is hatched;
// where no query looks there is background.
#pragma once

#include <memory>
#include <vector>

#include "replay/token_map.h"
#include "replay/weight_map.h"
#include "viewer/image.h"

namespace kvscope {

// From weight to ink. One scale for all maps that are compared.
struct WeightScale {
  bool is_log = true;
  float highest = 1;                 // of full ink
  double InkOf(float weight) const;  // in [0, 1]; on the log scale 1e-6 of the highest and less is 0
  float WeightOf(double ink) const;  // the inverse, for the legend
};

struct HeatmapOptions {
  WeightScale scale;
  bool is_dark = false;
  int masked_tokens = 0;             // the first tokens are drawn as background
  uint32_t background = 0xffffffff;  // 0xAABBGGRR, as OpenGL reads it
};

// The largest weight of the cells that are drawn.
float HighestWeight(const WeightCells& map, int masked_tokens);
// Where the map has more cells than the picture has pixels, a pixel shows the largest of its cells.
Image MakeHeatmapImage(const WeightMap& map, const HeatmapOptions& options, int width, int height);
Image MakeHeatmapImage(const WeightCells& exact, const HeatmapOptions& options, int width, int height);

// Values per token, a line for a layer or a step; tokens beyond a line's end and lines that are null are background.
using SharedLines = std::vector<std::shared_ptr<const std::vector<float>>>;
struct TokenRange {
  int begin = 0, end = 0;
  friend bool operator==(const TokenRange&, const TokenRange&) = default;
};
float HighestWeight(const SharedLines& lines, const TokenRange& range, int masked_tokens);
// Over the tokens of the range; a pixel shows the largest value of its tokens and lines.
Image MakeLinesImage(const SharedLines& lines, const TokenRange& range, const HeatmapOptions& options, int width,
                     int height);
uint32_t InkColor(double ink, bool is_dark);  // 0xAABBGGRR

}  // namespace kvscope
