// SPDX-License-Identifier: Apache-2.0
#include "viewer/heatmap_image.h"

#include <gtest/gtest.h>

#include <cmath>

#include "replay/chart_color.h"

namespace kvscope {
namespace {

// Token 0 takes most of what later tokens look at; everyone looks at themselves a little.
std::shared_ptr<const KvHeadData> MakeHead(int tokens) {
  auto data = std::make_shared<KvHeadData>();
  data->num_tokens = data->num_rows = tokens, data->group = 1, data->head_dim_k = data->head_dim_v = 16;
  data->k = Buffer(DType::kF16, size_t(tokens) * 16);
  data->q = Buffer(DType::kF16, size_t(tokens) * 16);
  for (int token = 0; token < tokens; ++token) {
    data->q.halves()[size_t(token) * 16] = HalfFromFloat(1);
    data->k.halves()[size_t(token) * 16] = HalfFromFloat(token == 0 ? 8 : 0);
    data->lse.push_back(static_cast<float>(std::log(std::exp(8.0) + token)));
  }
  return data;
}

std::vector<int> Numbers(int count) {
  std::vector<int> numbers;
  for (int i = 0; i < count; ++i) numbers.push_back(i);
  return numbers;
}

const std::atomic<bool> kGoOn{false};

TEST(HeatmapImage, DrawsWeightsMasksAndBackground) {
  const auto head = MakeHead(100);
  WeightMap map(head, Numbers(100), 0, {.scale = 1}, {0, 100, 0, 100}, 100, 100, {});
  while (map.Refine(1000, kGoOn)) {
  }
  HeatmapOptions options{.scale = {true, HighestWeight(map.known(), 0)}, .background = 0xff112233};
  EXPECT_NEAR(options.scale.highest, 1, 1e-5);
  Image image = MakeHeatmapImage(map, options, 200, 200);
  const auto pixel = [&](int x, int y) { return image.rgba[size_t(y) * 200 + x]; };
  EXPECT_EQ(pixel(0, 199), InkColor(options.scale.InkOf(map.cells()[99 * 100]), false)) << "the sink, seen last";
  EXPECT_EQ(pixel(199, 0), 0xff112233u) << "a token that comes later";
  EXPECT_NE(pixel(100, 199), pixel(0, 199));
  options.masked_tokens = 4;
  options.scale.highest = HighestWeight(map.known(), 4);
  EXPECT_LT(options.scale.highest, 1e-3) << "the sink does not set the scale";
  image = MakeHeatmapImage(map, options, 200, 200);
  EXPECT_EQ(pixel(0, 199), 0xff112233u);
  EXPECT_EQ(pixel(8, 8), InkColor(options.scale.InkOf(map.cells()[4 * 100 + 4]), false));
}

// As tokens that come later do, those that left the window lie on the background.
TEST(HeatmapImage, DrawsNothingOutsideTheWindow) {
  WeightMap map(MakeHead(100), Numbers(100), 0, {.scale = 1, .window = 20}, {0, 100, 0, 100}, 100, 100, {});
  while (map.Refine(1000, kGoOn)) {
  }
  const HeatmapOptions options{.scale = {true, 1}, .background = 0xff112233};
  const Image image = MakeHeatmapImage(map, options, 100, 100);
  for (int query = 0; query < 100; ++query) {
    for (int token = 0; token < 100; ++token) {
      const bool is_seen = token <= query && token > query - 20;
      ASSERT_EQ(image.rgba[size_t(query) * 100 + token] != options.background, is_seen) << query << " " << token;
    }
  }
}

TEST(HeatmapImage, HatchesWhatIsNotExact) {
  const auto head = MakeHead(100);
  WeightMap map(head, Numbers(100), 0, {.scale = 1}, {0, 100, 0, 100}, 10, 10, {});
  map.Refine(10, kGoOn);
  const HeatmapOptions options{.scale = {true, 1}, .background = 0xff112233};
  const auto hatched = [&] {
    const Image image = MakeHeatmapImage(map, options, 100, 100);
    int count = 0;
    for (int x = 0; x < 10; ++x) count += image.rgba[99 * 100 + x] == options.background;
    return count;
  };
  EXPECT_GT(hatched(), 0);
  while (map.Refine(1000, kGoOn)) {
  }
  EXPECT_EQ(hatched(), 0);
}

TEST(HeatmapImage, ASmallerPictureKeepsTheLargestWeights) {
  const auto head = MakeHead(100);
  WeightMap map(head, Numbers(100), 0, {.scale = 1}, {0, 100, 0, 100}, 100, 100, {});
  while (map.Refine(1000, kGoOn)) {
  }
  const HeatmapOptions options{.scale = {true, 1}, .background = 0xff112233};
  const Image image = MakeHeatmapImage(map, options, 7, 7);
  for (int y = 0; y < 7; ++y)
    EXPECT_EQ(image.rgba[size_t(y) * 7], InkColor(options.scale.InkOf(map.cells()[size_t(y * 100 / 7) * 100]), false))
        << "the sink is one token of the fourteen of a pixel";
}

TEST(HeatmapImage, DrawsLines) {
  std::vector<float> first(1000, 1e-4f), second(600, 1e-4f);
  first[500] = 0.5f;  // a needle of one token
  second[0] = 0.9f;
  const SharedLines lines{std::make_shared<const std::vector<float>>(first),
                          std::make_shared<const std::vector<float>>(second), nullptr};
  EXPECT_EQ(HighestWeight(lines, {0, 1000}, 0), 0.9f);
  EXPECT_EQ(HighestWeight(lines, {0, 1000}, 4), 0.5f);
  EXPECT_EQ(HighestWeight(lines, {600, 1000}, 0), 1e-4f);
  HeatmapOptions options{.scale = {true, 0.9f}, .masked_tokens = 4, .background = 0xff112233};
  const auto ink = [&](float weight) { return InkColor(options.scale.InkOf(weight), false); };
  Image image = MakeLinesImage(lines, {0, 1000}, options, 100, 9);
  const auto pixel = [&](int x, int y) { return image.rgba[size_t(y) * image.width + x]; };
  EXPECT_EQ(pixel(50, 0), ink(0.5f)) << "the needle is seen among ten tokens of a pixel";
  EXPECT_EQ(pixel(49, 0), ink(1e-4f));
  EXPECT_EQ(pixel(0, 4), ink(1e-4f)) << "the sink is masked";
  EXPECT_EQ(pixel(59, 3), ink(1e-4f));
  EXPECT_EQ(pixel(60, 3), options.background) << "its queries saw no such token";
  EXPECT_EQ(pixel(50, 8), options.background) << "not known yet";
  image = MakeLinesImage(lines, {498, 503}, options, 100, 1);
  EXPECT_EQ(pixel(50, 0), ink(0.5f)) << "three lines in a pixel: the largest of them";
  EXPECT_EQ(pixel(39, 0), ink(1e-4f));
}

TEST(WeightScale, InvertsItself) {
  for (const bool is_log : {false, true}) {
    const WeightScale scale{is_log, 0.7f};
    for (const float weight : {0.7f, 0.1f, 1e-3f, 2e-5f}) {
      EXPECT_NEAR(scale.WeightOf(scale.InkOf(weight)), weight, 1e-5 * weight) << is_log;
    }
    EXPECT_EQ(scale.InkOf(0), 0);
    EXPECT_EQ(scale.InkOf(2), 1);
  }
}

TEST(InkColor, IsEvenAndTurnsWithTheTheme) {
  const auto lightness = [](uint32_t abgr) {
    return Lightness((abgr & 0xff) << 16 | (abgr & 0xff00) | (abgr >> 16 & 0xff));
  };
  for (int i = 0; i < 20; ++i) {
    EXPECT_GT(lightness(InkColor(i / 20.0, false)), lightness(InkColor((i + 1) / 20.0, false)));
    EXPECT_LT(lightness(InkColor(i / 20.0, true)), lightness(InkColor((i + 1) / 20.0, true)));
  }
}

}  // namespace
}  // namespace kvscope
