// SPDX-License-Identifier: Apache-2.0
#include "replay/distortion.h"

#include <algorithm>
#include <cmath>
#include <limits>
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

// Of [samples, dim] rows: the squared error of each channel, summed over rows.
std::vector<double> ErrorOfChannels(std::span<const float> packed, std::span<const float> exact, int dim) {
  std::vector<double> squares(dim);
  for (size_t i = 0; i < exact.size(); ++i) {
    const double error = double{packed[i]} - exact[i];
    squares[i % dim] += error * error;
  }
  return squares;
}

double Sum(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0);
}

double Size(std::span<const float> rows) {
  return std::inner_product(rows.begin(), rows.end(), rows.begin(), 0.0, std::plus<>(),
                            [](float a, float b) { return double{a} * b; });
}

// Squared distance of the rows from their mean.
double Spread(std::span<const float> rows, int dim) {
  std::vector<double> sum(dim);
  for (size_t i = 0; i < rows.size(); ++i) sum[i % dim] += rows[i];
  double spread = 0;
  for (size_t i = 0; i < rows.size(); ++i) {
    const double distance = rows[i] - sum[i % dim] * dim / static_cast<double>(rows.size());
    spread += distance * distance;
  }
  return spread;
}

double Ratio(double error, double size) {
  if (size > 0) return error / size;
  return error > 0 ? std::numeric_limits<double>::infinity() : 0;
}

}  // namespace

std::vector<double> MeasureDistortion(const LayerView& view, int kv_head, const Store& store,
                                      std::span<const float> key_factors, Harm harm) {
  const ModelShape& shape = view.shape();
  const int samples = std::min(view.num_tokens(), kSampledTokens);
  const std::vector<float> k = Sample(view.Keys(kv_head), view.num_tokens(), shape.head_dim_k, samples);
  const std::vector<float> v = Sample(view.Values(kv_head), view.num_tokens(), shape.head_dim_v, samples);
  std::vector<int> slots(samples);
  std::iota(slots.begin(), slots.end(), 0);
  std::vector<float> rms;
  if (ReadsQueries(harm)) rms = view.Queries(kv_head).rms;
  const double size_k = Size(k), size_v = Size(v), spread_v = Spread(v, shape.head_dim_v);
  std::vector<float> packed_k(k.size()), packed_v(v.size());
  std::vector<double> distortion;
  for (const uint8_t bits : store.ladder()) {
    const std::unique_ptr<StoredHead> head = store.Make(shape.head_dim_k, shape.head_dim_v);
    if (!key_factors.empty()) head->BalanceKeys(key_factors);
    head->Append(k, v, samples);
    head->Keep(slots, std::vector<uint8_t>(samples, bits));
    head->ReadKeys(0, samples, packed_k.data());
    head->ReadValues(0, samples, packed_v.data());
    const std::vector<double> error_k = ErrorOfChannels(packed_k, k, shape.head_dim_k);
    const double error_v = Sum(ErrorOfChannels(packed_v, v, shape.head_dim_v));
    double error_of_scores = 0;  // mean square
    for (size_t channel = 0; channel < rms.size(); ++channel) {
      error_of_scores += error_k[channel] * rms[channel] * rms[channel] / samples;
    }
    const double relative = (Ratio(Sum(error_k), size_k) + Ratio(error_v, size_v)) / 2;
    switch (harm) {
      case Harm::kNone:
        break;
      case Harm::kRelative:
        distortion.push_back(relative);
        break;
      case Harm::kOutput:
        distortion.push_back(error_of_scores + Ratio(error_v, spread_v));
        break;
      case Harm::kCapped:
        distortion.push_back(error_of_scores < 1 ? relative : 1.0);
        break;
    }
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
  if (balance == KeyBalance::kQueryKey) largest_q = view.Queries(kv_head).largest;
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
