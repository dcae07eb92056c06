// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <random>

#include "replay/registry.h"

namespace kvscope {
namespace {

using testing::Each;
using testing::ElementsAre;
using testing::Ge;

// Entries of each layer; a window of `window` tokens is laid over the priorities.
std::vector<int> AllocateWith(std::vector<PerSlot> priority, int window, int entries, const std::string& r_max = "10") {
  Params params("test", {{"r_max", r_max}});
  const int num_layers = static_cast<int>(priority.size()), num_kv_heads = static_cast<int>(priority[0].size()),
            num_tokens = static_cast<int>(priority[0][0].size());
  for (PerSlot& layer : priority) {
    for (std::vector<float>& head : layer) {
      for (int token = num_tokens - window; token < num_tokens; ++token) head[token] = ProtectedPriority(token);
    }
  }
  const ModelShape shape{num_layers, num_kv_heads, num_kv_heads, 4, 4};
  const Budgets budgets = Allocators().at("dynamic").make(params)->Allocate({shape, num_tokens, entries, priority});
  std::vector<int> layers;
  for (const std::vector<int>& layer : budgets) {
    EXPECT_EQ(layer, std::vector<int>(num_kv_heads, layer[0]));
    layers.push_back(layer[0]);
  }
  return layers;
}

// One KV head of 20 tokens and a window of 2: the first `count` tokens have `value`.
PerSlot Head(int count, float value) {
  std::vector<float> head(22);
  std::fill_n(head.begin(), count, value);
  return {head};
}

TEST(Dynamic, SharesByTheBestOfAllLayers) {
  // b = 4 - 2 = 2: of the four best of both layers, 9 8 7 6, the lower one holds three.
  const std::vector<PerSlot> priority{{{9, 8, 7, 1, 0, 0}}, {{6, 2, 0, 0, 0, 0}}};
  EXPECT_THAT(AllocateWith(priority, 2, 4), ElementsAre(5, 3));
  EXPECT_THAT(AllocateWith(priority, 2, 4, "1"), ElementsAre(4, 4)) << "a layer starts with b entries";
  // Two KV heads: of the eight best the lower layer holds six, three a head.
  EXPECT_THAT(AllocateWith({{{9, 8, 7, 1, 0, 0}, {9, 8, 7, 1, 0, 0}}, {{6, 2, 0, 0, 0, 0}, {6, 2, 0, 0, 0, 0}}}, 2, 4),
              ElementsAre(5, 3));
}

TEST(Dynamic, WhatARevisionTookDoesNotComeBack) {
  // b = 4. After four layers: of 16 best entries layer 0 holds all, so of 4 * 5 entries it gets 20, the others none.
  // At the end: of 20 best it holds 16, layers 1 and 4 two each. Layer 1 has nothing left; layers 0 and 4 get one more.
  const std::vector<PerSlot> priority{Head(16, 9), Head(2, 1), Head(0, 0), Head(0, 0), Head(2, 5)};
  EXPECT_THAT(AllocateWith(priority, 2, 6), ElementsAre(2 + 17, 2, 2, 2, 2 + 3));
}

TEST(Dynamic, TheLastLayersAreRevisedToo) {
  // 4 layers alike, then one with more: its share is above the uniform one, theirs below, with no revision due at 6.
  std::vector<PerSlot> priority(6, Head(20, 1));
  priority[5] = Head(20, 2);
  const std::vector<int> layers = AllocateWith(priority, 2, 6);
  EXPECT_EQ(layers[5], 2 + 20) << "its 20 entries are above all others";
  EXPECT_EQ(std::accumulate(layers.begin(), layers.end(), 0), 36);
}

TEST(Dynamic, LayersAlikeGetTheSame) {
  std::mt19937 random(3);
  for (const int num_layers : {1, 2, 4, 5, 30, 32}) {
    std::vector<float> head(300);
    for (float& value : head) value = static_cast<float>(random() % 1000);
    const std::vector<PerSlot> priority(num_layers, PerSlot(2, head));
    EXPECT_EQ(AllocateWith(priority, 8, 64), std::vector<int>(num_layers, 64));
    EXPECT_EQ(AllocateWith(std::vector<PerSlot>(num_layers, PerSlot(2, std::vector<float>(300))), 8, 64),
              std::vector<int>(num_layers, 64))
        << "ties everywhere";
  }
}

TEST(Dynamic, IsUniformWhereThereIsNothingToShare) {
  const std::vector<PerSlot> priority{Head(16, 9), Head(2, 1)};
  EXPECT_THAT(AllocateWith(priority, 6, 6), ElementsAre(6, 6)) << "the window takes all";
  EXPECT_THAT(AllocateWith(priority, 6, 3), ElementsAre(3, 3));
  EXPECT_THAT(AllocateWith(priority, 2, 22), ElementsAre(22, 22)) << "everything stays";
}

TEST(Dynamic, TotalsAreExactAndWithinThePrompt) {
  std::mt19937 random(5);
  for (int repeat = 0; repeat < 200; ++repeat) {
    const int num_layers = 1 + random() % 32, num_tokens = 1 + random() % 200, entries = 1 + random() % num_tokens;
    const int window = random() % std::min(num_tokens + 1, 17);
    std::vector<PerSlot> priority(num_layers, PerSlot(2, std::vector<float>(num_tokens)));
    for (PerSlot& layer : priority) {
      const auto scale = static_cast<float>(1 + random() % 5);
      for (std::vector<float>& head : layer) {
        for (float& value : head) value = scale * static_cast<float>(random() % 50);
      }
    }
    const std::vector<int> layers = AllocateWith(priority, window, entries);
    EXPECT_EQ(std::accumulate(layers.begin(), layers.end(), 0), num_layers * entries)
        << num_layers << " layers, " << num_tokens << " tokens, " << entries << " entries, window " << window;
    EXPECT_THAT(layers, Each(Ge(std::min(entries, std::max(window, 1)))));
    for (const int layer : layers) EXPECT_LE(layer, num_tokens);
  }
}

TEST(Dynamic, ALayerWithAllTheMassGetsMore) {
  for (int heavy = 0; heavy < 9; ++heavy) {
    std::vector<PerSlot> priority(9, Head(20, 0.1f));
    priority[heavy] = Head(20, 3);
    const std::vector<int> layers = AllocateWith(priority, 2, 6);
    for (int layer = 0; layer < 9; ++layer) {
      if (layer == heavy) continue;
      EXPECT_GT(layers[heavy], layers[layer]) << heavy;
    }
  }
}

TEST(Dynamic, IsDynamicKvWithSnapKv) {
  EXPECT_EQ(Combinations().at("dynamic_kv").spec, "snapkv+dynamic:window=8:pool=7");
}

}  // namespace
}  // namespace kvscope
