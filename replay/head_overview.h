// SPDX-License-Identifier: Apache-2.0
// What a head does, at a glance: a thumbnail of its weights and a few numbers to sort heads by, from a sample of its
// query rows. Cheap enough for every head of a model.
#pragma once

#include <atomic>
#include <span>
#include <vector>

#include "core/trace.h"
#include "kernels/attention_rule.h"
#include "replay/weight_map.h"

namespace kvscope {

struct HeadOverview {
  int size = 0;              // rows and columns of the thumbnail, at most
  std::vector<float> cells;  // [size, size], the largest weight of each; WeightMap::kNoWeight where no row looks
  // Means over the sampled rows, each row's weights summing to 1:
  float sink = 0;     // weight on the first kOverviewSinks tokens
  float local = 0;    // weight on the last kOverviewLocal tokens before the query, itself included
  float entropy = 0;  // of the row, in nats
  // The mean over the rows that ask (question, answer): weight on the needle. NaN without either.
  float needle = 0;
};

inline constexpr int kOverviewSinks = 4, kOverviewLocal = 32;

// Of every query head of the KV head's group, in order. needles: the tokens looked for; askers: the query tokens whose
// rows count for it. Empty when cancelled.
std::vector<HeadOverview> OverviewOfKvHead(const KvHeadData& data, std::span<const int> q_token,
                                           const AttentionRule& rule, int size, std::span<const TokenBand> needles,
                                           std::span<const TokenBand> askers, const std::atomic<bool>& is_cancelled);

// What each token gets from one query head, [num_tokens]: the mean weight over the stored rows that ask, of which those
// that do not see it count as 0. Zeros without such rows; empty when cancelled.
std::vector<float> MeanWeights(const KvHeadData& data, std::span<const int> q_token, int member,
                               const AttentionRule& rule, std::span<const TokenBand> askers,
                               const std::atomic<bool>& is_cancelled);

}  // namespace kvscope
