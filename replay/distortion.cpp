// SPDX-License-Identifier: Apache-2.0
#include "replay/distortion.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace kvscope {
namespace {

constexpr int kSampledTokens = 128;  // of each KV head, evenly spaced

std::vector<float> Sample(const std::vector<float>& rows, int num_tokens, int dim, int samples) {
  std::vector<float> sampled;
  for (int i = 0; i < samples; ++i) {
    const auto row = rows.begin() + int64_t{i} * num_tokens / samples * dim;
    sampled.insert(sampled.end(), row, row + dim);
  }
  return sampled;
}

struct Squares {
  double error = 0, size = 0;
  void Add(std::span<const float> packed, std::span<const float> exact) {
    for (size_t i = 0; i < exact.size(); ++i) {
      error += (double{packed[i]} - exact[i]) * (double{packed[i]} - exact[i]);
      size += double{exact[i]} * exact[i];
    }
  }
  double Relative() const { return size > 0 ? error / size : 0; }
};

}  // namespace

std::vector<double> MeasureDistortion(const LayerView& view, const Store& store,
                                      std::span<const std::vector<float>> key_factors) {
  const ModelShape& shape = view.shape();
  const int samples = std::min(view.num_tokens(), kSampledTokens);
  const std::span<const uint8_t> ladder = store.ladder();
  std::vector<Squares> keys(ladder.size()), values(ladder.size());
  std::vector<int> slots(samples);
  std::iota(slots.begin(), slots.end(), 0);
  for (int kv_head = 0; kv_head < shape.num_kv_heads; ++kv_head) {
    const std::vector<float> k = Sample(view.Keys(kv_head), view.num_tokens(), shape.head_dim_k, samples);
    const std::vector<float> v = Sample(view.Values(kv_head), view.num_tokens(), shape.head_dim_v, samples);
    std::vector<float> packed_k(k.size()), packed_v(v.size());
    for (size_t step = 0; step < ladder.size(); ++step) {
      const std::unique_ptr<StoredHead> head = store.Make(shape.head_dim_k, shape.head_dim_v);
      if (!key_factors.empty()) head->BalanceKeys(key_factors[kv_head]);
      head->Append(k, v, samples);
      head->Keep(slots, std::vector<uint8_t>(samples, ladder[step]));
      head->ReadKeys(0, samples, packed_k.data());
      head->ReadValues(0, samples, packed_v.data());
      keys[step].Add(packed_k, k);
      values[step].Add(packed_v, v);
    }
  }
  std::vector<double> distortion;
  for (size_t step = 0; step < ladder.size(); ++step) {
    distortion.push_back((keys[step].Relative() + values[step].Relative()) / 2);
  }
  return distortion;
}

std::vector<float> KeyFactors(const LayerView& view, int kv_head, KeyBalance balance) {
  constexpr float kSmallest = 1e-4f;
  const int dim = view.shape().head_dim_k;
  const std::vector<float> k = view.Keys(kv_head);
  std::vector<float> largest_k(dim, 0.0f), largest_q(dim, 1.0f);
  for (size_t i = 0; i < k.size(); ++i) {
    float& largest = largest_k[i % dim];
    largest = std::max(largest, std::fabs(k[i]));
  }
  if (balance == KeyBalance::kQueryKey) largest_q = view.LargestQuery(kv_head);
  std::vector<float> factors(dim);
  double log_sum = 0;
  for (int channel = 0; channel < dim; ++channel) {
    const int pair = dim % 2 == 0 ? (channel + dim / 2) % dim : channel;
    const float q = std::max({largest_q[channel], largest_q[pair], kSmallest});
    factors[channel] = std::sqrt(q / std::max({largest_k[channel], largest_k[pair], kSmallest}));
    log_sum += std::log(factors[channel]);
  }
  const auto mean = static_cast<float>(std::exp(log_sum / dim));
  for (float& factor : factors) factor /= mean;
  return factors;
}

}  // namespace kvscope
