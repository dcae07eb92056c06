// SPDX-License-Identifier: Apache-2.0
#include "viewer/kept_map.h"

#include <tbb/parallel_for.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "replay/chart_color.h"

namespace kvscope {
uint32_t Blend(uint32_t from, uint32_t to, double share) {
  uint32_t color = 0;
  for (int shift = 0; shift < 32; shift += 8) {
    const double a = from >> shift & 255, b = to >> shift & 255;
    color |= static_cast<uint32_t>(std::lround(a + (b - a) * share)) << shift;
  }
  return color;
}

KeptMap MakeKeptMap(const CacheHistory& history, int query_token, int max_columns) {
  const ModelShape& shape = history.plan().shape;
  KeptMap map;
  map.num_tokens = query_token + 1;
  map.columns = std::min(max_columns, map.num_tokens);
  map.rows = shape.num_layers * shape.num_kv_heads;
  map.kept.resize(static_cast<size_t>(map.rows) * map.columns);
  map.bits.resize(map.kept.size());
  map.outside.resize(map.kept.size());
  tbb::parallel_for(0, map.rows, [&](int row) {
    const int layer = row / shape.num_kv_heads, in_window = history.FirstInWindow(layer, query_token);
    const std::vector<uint8_t> bits = history.BitsAfter(layer, row % shape.num_kv_heads, query_token);
    for (int column = 0; column < map.columns; ++column) {
      const int begin = map.TokenBegin(column), end = map.TokenBegin(column + 1);
      int kept = 0, sum = 0;
      for (int token = begin; token < end; ++token) kept += bits[token] > 0, sum += bits[token];
      const size_t cell = static_cast<size_t>(row) * map.columns + column;
      map.kept[cell] = static_cast<float>(kept) / static_cast<float>(end - begin);
      map.bits[cell] = static_cast<float>(sum) / static_cast<float>(end - begin);
      map.outside[cell] =
          static_cast<float>(std::clamp(in_window, begin, end) - begin) / static_cast<float>(end - begin);
    }
  });
  return map;
}

std::vector<float> RetentionAfter(const CacheHistory& history, std::span<const int> tokens, int query_token) {
  const ModelShape& shape = history.plan().shape;
  std::vector<float> retention(static_cast<size_t>(shape.num_layers) * shape.num_kv_heads);
  if (tokens.empty()) return retention;
  tbb::parallel_for(size_t{0}, retention.size(), [&](size_t row) {
    const auto layer = static_cast<int>(row) / shape.num_kv_heads, kv_head = static_cast<int>(row) % shape.num_kv_heads;
    const std::vector<uint8_t> bits = history.BitsAfter(layer, kv_head, query_token);
    const int first = history.FirstInWindow(layer, query_token);
    const auto in_window = std::ranges::count_if(tokens, [&](int token) { return token >= first; });
    const auto kept = std::ranges::count_if(tokens, [&](int token) { return bits.at(token) > 0; });
    retention[row] = static_cast<float>(kept) / static_cast<float>(in_window);  // NaN where none is
  });
  return retention;
}

LossCount CountLosses(const CacheHistory& history, std::span<const int> counted, int query_token) {
  const ModelShape& shape = history.plan().shape;
  LossCount count;
  for (int layer = 0; layer < shape.num_layers; ++layer) {
    const int first = history.FirstInWindow(layer, history.plan().request.FirstDecision() - 1);
    const auto had = std::ranges::count_if(counted, [&](int token) { return token >= first; });
    for (int kv_head = 0; kv_head < shape.num_kv_heads && had > 0; ++kv_head) {
      const std::vector<TokenLoss> losses = history.LossesUntil(layer, kv_head, counted, query_token);
      const auto early = std::ranges::count(losses, true, &TokenLoss::is_at_decision);
      ++count.num_heads;
      count.num_entries += static_cast<int>(had);
      count.at_decision += static_cast<int>(early);
      count.later += static_cast<int>(std::ssize(losses) - early);
      count.heads_without += std::ssize(losses) == had;
    }
  }
  return count;
}

double BitsInk(double bits) {
  return std::min(1.0, std::log2(1 + bits) / std::log2(1 + kFullBits));
}

uint32_t OutsideColor(double share, const HeatmapColors& colors) {
  constexpr uint32_t kGrey = 0xff808080;
  constexpr double kFaint = 0.2;
  return Blend(colors.background, kGrey, kFaint * share);
}

uint32_t DifferenceColor(double difference, const HeatmapColors& colors) {
  const uint32_t rgb = DivergingRgb(difference < 0 ? -1 : 1);
  const uint32_t end = 0xff000000 | (rgb & 0xff) << 16 | (rgb & 0xff00) | rgb >> 16;
  return Blend(colors.background, end, std::min(1.0, std::fabs(difference)));
}

Image MakeKeptImage(const KeptMap& map, KeptMapKind kind, const KeptMap& first, const HeatmapColors& colors) {
  KVSCOPE_CHECK(map.rows > 0 && map.columns > 0);
  const bool is_comparable =
      first.rows == map.rows && first.columns == map.columns && first.num_tokens == map.num_tokens;
  Image image{map.columns, map.rows, std::vector<uint32_t>(map.kept.size(), colors.background)};
  for (size_t cell = 0; cell < map.kept.size(); ++cell) {
    image.rgba[cell] = OutsideColor(map.outside[cell], colors);
    if (kind == KeptMapKind::kDifference) {
      if (is_comparable && map.bits[cell] != first.bits[cell])
        image.rgba[cell] = DifferenceColor((map.bits[cell] - first.bits[cell]) / kFullBits, colors);
      continue;
    }
    const double ink = kind == KeptMapKind::kKept ? map.kept[cell] : BitsInk(map.bits[cell]);
    if (ink > 0) image.rgba[cell] = InkColor(ink, colors.is_dark);
  }
  return image;
}

}  // namespace kvscope
