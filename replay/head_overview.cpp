// SPDX-License-Identifier: Apache-2.0
#include "replay/head_overview.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "kernels/attention_tile.h"
#include "replay/head_rows.h"
#include "replay/token_map.h"

namespace kvscope {
namespace {

bool IsIn(int token, std::span<const TokenBand> bands) {
  return std::ranges::any_of(
      bands, [token](const TokenBand& band) { return token >= band.token_begin && token < band.token_end; });
}

// Stored rows that are looked at: `size` spread evenly, the last one included, and those that ask.
struct Sample {
  std::vector<int> rows;        // of those stored, the newest first
  std::vector<int> thumb_row;   // [sample] row of the thumbnail, or -1
  std::vector<bool> is_asking;  // [sample]
};

Sample SampleRows(std::span<const int> q_token, int num_tokens, int size, std::span<const TokenBand> askers) {
  Sample sample;
  int last = -1;  // thumbnail row of the row before
  for (int row = static_cast<int>(q_token.size()) - 1; row >= 0; --row) {
    // Going back, the first stored query of each stripe of tokens stands for it.
    const int stripe = static_cast<int>(int64_t{q_token[row]} * size / num_tokens);
    const bool is_asking = IsIn(q_token[row], askers);
    if (stripe != last || is_asking) {
      sample.rows.push_back(row);
      sample.thumb_row.push_back(stripe != last ? stripe : -1);
      sample.is_asking.push_back(is_asking);
    }
    last = stripe;
  }
  return sample;
}

// A row's weights over tokens 0 .. query, of which it sees those from first_seen on, summed up.
void AddRow(std::span<const float> weights, int first_seen, int num_tokens, int thumb_row, bool is_asking,
            std::span<const TokenBand> needles, HeadOverview& head, double (&sums)[4], int& askers) {
  const int seen = static_cast<int>(weights.size());
  if (is_asking) {
    ++askers;
    for (const TokenBand& needle : needles) {
      for (int token = std::max(needle.token_begin, first_seen); token < std::min(needle.token_end, seen); ++token) {
        sums[3] += weights[token];
      }
    }
  }
  if (thumb_row < 0) return;
  float* const cells = &head.cells[static_cast<size_t>(thumb_row) * head.size];
  for (int token = first_seen; token < seen; ++token) {
    const float weight = weights[token];
    float& cell = cells[int64_t{token} * head.size / num_tokens];
    cell = std::max(cell, weight);
    if (token < kOverviewSinks) sums[0] += weight;
    if (token >= seen - kOverviewLocal) sums[1] += weight;
    if (weight > 0) sums[2] -= weight * std::log(weight);
  }
}

}  // namespace

std::vector<HeadOverview> OverviewOfKvHead(const KvHeadData& data, std::span<const int> q_token,
                                           const AttentionRule& rule, int size, std::span<const TokenBand> needles,
                                           std::span<const TokenBand> askers, const std::atomic<bool>& is_cancelled) {
  const int tokens = data.num_tokens, dim = data.head_dim_k;
  KVSCOPE_CHECK(size > 0);
  size = std::min(size, std::max(1, tokens));
  const Sample sample = SampleRows(q_token, std::max(1, tokens), size, askers);
  const int num_rows = static_cast<int>(sample.rows.size());
  std::vector<HeadOverview> heads(data.group);
  std::vector<float> q(static_cast<size_t>(num_rows) * dim), panels(PanelFloats(kTileTokens, dim));
  std::vector<float> weights(static_cast<size_t>(num_rows) * (tokens + kTileTokens));
  const int64_t stride = tokens + kTileTokens;
  for (int member = 0; member < data.group; ++member) {
    HeadOverview& head = heads[member];
    head.size = size;
    head.cells.assign(static_cast<size_t>(size) * size, WeightMap::kNoWeight);
    for (int i = 0; i < num_rows; ++i) {
      ReadFloats(data.q, (static_cast<size_t>(member) * data.num_rows + sample.rows[i]) * dim,
                 std::span(q).subspan(static_cast<size_t>(i) * dim, dim));
    }
    for (int begin = 0; begin < tokens; begin += kTileTokens) {
      if (is_cancelled) return {};
      const int count = std::min(kTileTokens, tokens - begin);
      PackKeyPanels(data.k.At(static_cast<size_t>(begin) * dim), data.k.dtype(), count, dim, panels.data());
      ScoreTile(q.data(), dim, num_rows, panels.data(), count, dim, rule, &weights[begin], stride);
    }
    double sums[4] = {};
    int asking = 0, striped = 0;
    for (int i = 0; i < num_rows; ++i) {
      const int seen = std::min(q_token[sample.rows[i]] + 1, tokens);
      const int first_seen = rule.FirstSeen(seen - 1);
      const std::span<float> row(&weights[static_cast<size_t>(i) * stride], seen);
      ExpShifted(row.subspan(first_seen), data.lse[static_cast<size_t>(member) * data.num_rows + sample.rows[i]]);
      AddRow(row, first_seen, tokens, sample.thumb_row[i], sample.is_asking[i], needles, head, sums, asking);
      striped += sample.thumb_row[i] >= 0;
    }
    head.sink = static_cast<float>(sums[0] / std::max(1, striped));
    head.local = static_cast<float>(sums[1] / std::max(1, striped));
    head.entropy = static_cast<float>(sums[2] / std::max(1, striped));
    head.needle =
        asking > 0 && !needles.empty() ? static_cast<float>(sums[3] / asking) : std::numeric_limits<float>::quiet_NaN();
  }
  return heads;
}

std::vector<float> MeanWeights(const KvHeadData& data, std::span<const int> q_token, int member,
                               const AttentionRule& rule, std::span<const TokenBand> askers,
                               const std::atomic<bool>& is_cancelled) {
  std::vector<int> rows;
  for (size_t row = 0; row < q_token.size(); ++row) {
    if (IsIn(q_token[row], askers)) rows.push_back(static_cast<int>(row));
  }
  return ReduceRows({data, q_token, rule, {&member, 1}, rows}, RowReduction::kMean, is_cancelled);
}

}  // namespace kvscope
