// SPDX-License-Identifier: Apache-2.0
#include "capture/full_cache.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "core/half.h"

namespace kvscope {
namespace {

constexpr int kDim = 16, kHeads = 4, kKvHeads = 2;

// Layer 0 sees everything; layer 1 has a window and a soft cap.
class FullCacheRules : public testing::TestWithParam<DType> {
 protected:
  FullCacheRules() {
    config_.num_layers = 2, config_.num_heads = kHeads, config_.num_kv_heads = kKvHeads, config_.head_dim = kDim;
    config_.layers = {{.attention = {.scale = 0.25f}, .rope_set = 0},
                      {.attention = {.scale = 0.25f, .softcap = 3, .window = kWindow}, .rope_set = 0}};
  }
  static constexpr int kWindow = 300;

  std::vector<float> Random(size_t size) {
    std::normal_distribution<float> normal;
    std::vector<float> values(size);
    for (float& value : values) value = FloatFromHalf(HalfFromFloat(2 * normal(random_)));
    return values;
  }

  Buffer Stored(std::span<const float> values) const {
    Buffer buffer(GetParam(), values.size());
    if (GetParam() == DType::kF16) {
      HalvesFromFloats(values, buffer.halves());
    } else {
      std::copy(values.begin(), values.end(), buffer.floats().begin());
    }
    return buffer;
  }

  void Append(FullCache& cache, int num_tokens) {
    for (int layer = 0; layer < 2; ++layer) {
      LayerChunk chunk;
      chunk.num_tokens = num_tokens;
      const size_t size = size_t{kKvHeads} * num_tokens * kDim;
      chunk.k = Stored(Random(size)), chunk.v = Stored(Random(size));
      cache.Append(layer, chunk);
    }
  }

  static double Key(const FullCache& cache, int layer, int kv_head, int token, int dim) {
    const int64_t at = int64_t{token} * kDim + dim;
    const void* keys = cache.Keys(layer, kv_head);
    return GetParam() == DType::kF16 ? FloatFromHalf(static_cast<const Half*>(keys)[at])
                                     : static_cast<const float*>(keys)[at];
  }

  std::mt19937 random_{7};
  ModelConfig config_;
};

TEST_P(FullCacheRules, BillsNoEntryOutsideTheWindow) {
  FullCache cache(config_, GetParam());
  const double entry = 2.0 * kKvHeads * kDim * static_cast<double>(ElementBytes(GetParam()));
  EXPECT_EQ(cache.Bytes(), 0);
  Append(cache, 290);
  EXPECT_EQ(cache.Bytes(), entry * (290 + 290));
  Append(cache, 10);
  EXPECT_EQ(cache.Bytes(), entry * (300 + 300));
  Append(cache, 400);
  EXPECT_EQ(cache.Bytes(), entry * (700 + 300));
  EXPECT_EQ(cache.Fork()->Bytes(), cache.Bytes());
}

TEST_P(FullCacheRules, RecordedRowsAreTheWeightsThatTheOutputWasMadeOf) {
  FullCache cache(config_, GetParam());
  cache.KeepScores();
  for (const int tokens : {5, 290, 1, 400}) {
    Append(cache, tokens);
    for (int layer = 0; layer < 2; ++layer) {
      const AttentionRule& rule = config_.layers[layer].attention;
      const std::vector<float> q = Random(size_t{kHeads} * kDim);
      std::vector<float> out(q.size()), lse(kHeads);
      cache.Attend({.layer = layer,
                    .num_queries = 1,
                    .q = q.data(),
                    .out = out.data(),
                    .out_stride = kHeads * kDim,
                    .lse = lse.data()});
      std::vector<Half> weights(static_cast<size_t>(kHeads) * cache.num_tokens(), HalfFromFloat(7));
      cache.WeightRows(layer, lse.data(), weights);
      const int first_seen = rule.FirstSeen(cache.num_tokens() - 1);
      EXPECT_EQ(first_seen, layer == 1 ? std::max(0, cache.num_tokens() - kWindow) : 0);
      for (int head = 0; head < kHeads; ++head) {
        double sum = 0;
        for (int token = 0; token < cache.num_tokens(); ++token) {
          const float weight = FloatFromHalf(weights[static_cast<size_t>(head) * cache.num_tokens() + token]);
          double product = 0;
          for (int dim = 0; dim < kDim; ++dim)
            product += q[size_t{kDim} * head + dim] * Key(cache, layer, head / (kHeads / kKvHeads), token, dim);
          const double expected = token < first_seen ? 0 : std::exp(rule.Score(product) - lse[head]);
          ASSERT_NEAR(weight, expected, 5e-4 * expected + 6e-8) << "token " << token;  // half precision
          sum += expected;
        }
        EXPECT_NEAR(sum, 1, 1e-5) << "layer " << layer << ", head " << head;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Types, FullCacheRules, testing::Values(DType::kF16, DType::kF32));

}  // namespace
}  // namespace kvscope
