// SPDX-License-Identifier: Apache-2.0
#include "replay/metrics.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>

#include "core/error.h"
#include "kernels/top_k.h"

namespace kvscope {
namespace {

constexpr int kLanes = 16;
constexpr double kPositionBytes = 4;  // int32 per entry
constexpr float kNoValue = std::numeric_limits<float>::quiet_NaN();

double Total(const std::vector<double>& values) {
  double total = 0;
  for (const double value : values) total += value;
  return total;
}

NamedArray MakeArray(std::string name, std::vector<std::string> axes, std::vector<int64_t> shape) {
  NamedArray array{std::move(name), std::move(axes), std::move(shape), {}};
  return array;
}

}  // namespace

double MaskedSum(std::span<const float> weights, std::span<const float> mask) {
  KVSCOPE_CHECK_EQ(weights.size(), mask.size());
  float lanes[kLanes] = {};
  const size_t whole = weights.size() / kLanes * kLanes;
  for (size_t i = 0; i < whole; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) lanes[lane] += weights[i + lane] * mask[i + lane];
  }
  double sum = 0;
  for (const float lane : lanes) sum += lane;
  for (size_t i = whole; i < weights.size(); ++i) sum += weights[i] * mask[i];
  return sum;
}

std::vector<int> TopTokens(std::span<const float> weights, int k) {
  // The k-th largest maximum of kGroups groups of weights is at most the k-th largest weight: few weights reach it.
  constexpr size_t kGroups = 256;
  const size_t whole = weights.size() / kGroups * kGroups;
  if (k <= 0 || static_cast<size_t>(k) >= kGroups || whole < 2 * kGroups) return cpu::TopK(weights, k);
  std::array<float, kGroups> maxima;
  std::copy_n(weights.begin(), kGroups, maxima.begin());
  for (size_t i = kGroups; i < whole; i += kGroups) {
    for (size_t group = 0; group < kGroups; ++group) maxima[group] = std::max(maxima[group], weights[i + group]);
  }
  std::nth_element(maxima.begin(), maxima.begin() + (k - 1), maxima.end(), std::greater<>());
  const float least = maxima[k - 1];
  std::vector<int> tokens;
  std::vector<float> candidates;
  for (size_t i = 0; i < weights.size(); ++i) {
    if (weights[i] < least) continue;
    tokens.push_back(static_cast<int>(i));
    candidates.push_back(weights[i]);
  }
  std::vector<int> best = cpu::TopK(candidates, k);
  for (int& index : best) index = tokens[index];
  return best;
}

double RelativeError(std::span<const float> a, std::span<const float> b) {
  double difference = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
    size += double{b[i]} * b[i];
  }
  if (difference == 0) return 0;
  return std::sqrt(difference / size);
}

LayerMetrics::LayerMetrics(const ModelShape& shape, int num_queries)
    : loss_head(shape.num_heads),
      error_head(shape.num_heads),
      overlap_head(shape.num_heads),
      needle_weight_head(shape.num_heads),
      full_needle_weight_head(shape.num_heads),
      retention_kv_head(shape.num_kv_heads),
      decision_retention_kv_head(shape.num_kv_heads),
      loss_query(num_queries),
      error_query(num_queries),
      retention_query(num_queries),
      bytes_query(num_queries),
      read_bytes_query(num_queries),
      sees_needle_query(num_queries) {}

void PlanMetrics::FillRow(double full_bytes, ResultRow& figures, std::vector<NamedArray>& arrays) const {
  const int64_t num_layers = shape.num_layers, num_heads = shape.num_heads, num_kv_heads = shape.num_kv_heads;
  double decision_bytes = 0, decision_entries = 0, loss = 0, error = 0, overlap = 0;
  double needle = 0, full_needle = 0, retention = 0, bits = 0, needle_bits = 0, prefill_peak = 0;
  std::vector<double> bytes(num_queries), read_bytes(num_queries), loss_step(num_queries), retention_step(num_queries);
  NamedArray loss_array = MakeArray("attention_loss", {"layer", "head"}, {num_layers, num_heads});
  NamedArray error_array = MakeArray("output_error", {"layer", "head"}, {num_layers, num_heads});
  NamedArray weight_array = MakeArray("needle_weight", {"layer", "head"}, {num_layers, num_heads});
  NamedArray retention_array = MakeArray("needle_retention", {"layer", "kv_head"}, {num_layers, num_kv_heads});
  const double per_query = num_queries ? 1.0 / num_queries : 0,
               per_answer = num_answer_queries ? 1.0 / num_answer_queries : 0;
  // KV heads of the layers whose window holds some of the needle.
  double heads_with_needle = 0, heads_with_needle_at_decision = 0;
  std::vector<double> heads_with_needle_step(num_queries);
  for (const LayerMetrics& layer : layers) {
    heads_with_needle_at_decision += layer.sees_needle_at_decision ? shape.num_kv_heads : 0;
    for (int query = 0; query < num_queries; ++query)
      heads_with_needle_step[query] += layer.sees_needle_query[query] ? shape.num_kv_heads : 0;
  }
  for (const LayerMetrics& layer : layers) {
    decision_bytes += layer.decision_bytes;
    decision_entries += static_cast<double>(layer.decision_entries);
    bits += layer.decision_bits, prefill_peak += layer.prefill_peak_bytes;
    loss += Total(layer.loss_head), error += Total(layer.error_head), overlap += Total(layer.overlap_head);
    needle += Total(layer.needle_weight_head), full_needle += Total(layer.full_needle_weight_head);
    for (int head = 0; head < num_heads; ++head) {
      loss_array.values.push_back(static_cast<float>(layer.loss_head[head] * per_query));
      error_array.values.push_back(static_cast<float>(layer.error_head[head] * per_query));
      weight_array.values.push_back(static_cast<float>(layer.needle_weight_head[head] * per_answer));
    }
    // Without answer queries, what the decision left is all there is to say.
    const auto answers = std::span(layer.sees_needle_query).last(num_answer_queries);
    const auto seeing = static_cast<double>(std::ranges::count(answers, true));
    const bool sees_needle = num_answer_queries ? seeing > 0 : layer.sees_needle_at_decision;
    if (sees_needle) {
      heads_with_needle += static_cast<double>(num_kv_heads);
      needle_bits += num_answer_queries ? layer.needle_bits / seeing : layer.decision_needle_bits;
    }
    for (int kv_head = 0; kv_head < num_kv_heads; ++kv_head) {
      const double kept =
          num_answer_queries ? layer.retention_kv_head[kv_head] / seeing : layer.decision_retention_kv_head[kv_head];
      if (sees_needle) retention += kept;
      retention_array.values.push_back(sees_needle ? static_cast<float>(kept) : kNoValue);
    }
    for (int query = 0; query < num_queries; ++query) {
      bytes[query] += layer.bytes_query[query], read_bytes[query] += layer.read_bytes_query[query];
      loss_step[query] += layer.loss_query[query] / static_cast<double>(num_layers * num_heads);
      if (heads_with_needle_step[query] == 0) retention_step[query] = kNoValue;
      if (layer.sees_needle_query[query])
        retention_step[query] += layer.retention_query[query] / heads_with_needle_step[query];
    }
  }
  const double per_head = 1.0 / static_cast<double>(num_layers * num_heads),
               per_kv_head = 1.0 / static_cast<double>(num_layers * num_kv_heads);
  figures.Set("full_bytes", full_bytes);
  figures.Set("kept_bytes_prefill", decision_bytes);
  figures.Set("kept_fraction", decision_bytes / full_bytes);
  figures.Set("kept_tokens", decision_entries * per_kv_head);
  figures.Set("metadata_bytes", decision_entries * kPositionBytes);
  figures.Set("bits", bits / decision_entries);
  figures.Set("prefill_bytes_peak", prefill_peak > 0 ? prefill_peak : full_bytes);
  figures.Set("kept_bytes_peak",
              num_queries ? std::max(decision_bytes, *std::max_element(bytes.begin(), bytes.end())) : decision_bytes);
  if (num_queries) {
    figures.Set("kept_bytes_mean", Total(bytes) * per_query);
    figures.Set("read_bytes_step", Total(read_bytes) * per_query);
    figures.Set("attention_loss", loss * per_head * per_query);
    figures.Set("output_error", error * per_head * per_query);
    figures.Set("topk_overlap", overlap * per_head * per_query);
    arrays.push_back(std::move(loss_array));
    arrays.push_back(std::move(error_array));
    arrays.push_back(MakeArray("attention_loss_step", {"query"}, {num_queries}));
    arrays.back().values.assign(loss_step.begin(), loss_step.end());
  }
  if (!has_needle) return;
  if (heads_with_needle > 0) {
    figures.Set("needle_retention", retention / heads_with_needle);
    figures.Set("needle_bits", needle_bits / heads_with_needle / num_needle_tokens);
  }
  arrays.push_back(std::move(retention_array));
  if (num_answer_queries && full_needle > 0) {
    figures.Set("needle_weight_ratio", needle / full_needle);
    arrays.push_back(std::move(weight_array));
  }
  if (num_queries) {
    arrays.push_back(MakeArray("needle_retention_step", {"query"}, {num_queries}));
    arrays.back().values.assign(retention_step.begin(), retention_step.end());
  }
  const double whole = 1 - 1e-9;
  double kept = heads_with_needle_at_decision > 0 ? 0 : 1;
  for (const LayerMetrics& layer : layers) {
    if (!layer.sees_needle_at_decision) continue;
    kept += Total(layer.decision_retention_kv_head) / heads_with_needle_at_decision;
  }
  const auto lost =
      std::find_if(retention_step.begin(), retention_step.end(), [&](double share) { return share < whole; });
  if (kept < whole) {
    figures.Set("needle_first_lost_step", 0.0);
  } else if (lost != retention_step.end()) {
    figures.Set("needle_first_lost_step", static_cast<double>(lost - retention_step.begin()));
  }
}

}  // namespace kvscope
