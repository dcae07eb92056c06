// SPDX-License-Identifier: Apache-2.0
#include "replay/evidence.h"

#include <tbb/parallel_for.h>
#include <tbb/task_arena.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/half.h"
#include "kernels/attention_tile.h"
#include "replay/head_rows.h"

namespace kvscope {
namespace {

constexpr int kDimStep = 16;  // the kernels work on this many channels at a time

std::vector<float> Rows(const Buffer& rows, int count, int dim) {
  std::vector<float> floats(static_cast<size_t>(count) * dim);
  ReadFloats(rows, 0, floats);
  return floats;
}

}  // namespace

std::string WhyNotReplayable(const TraceSource& source) {
  const TraceInfo& info = source.info();
  if (info.level == TraceLevel::kRows || info.level == TraceLevel::kRelevance) {
    return StrCat("level ", Name(info.level), " holds no q, k, v; record with level qkv");
  }
  if (info.layers.empty()) return "no layer was recorded";
  const LayerInfo& first = info.layers[0];
  for (const LayerInfo& layer : info.layers) {
    const std::string place = StrCat("layer ", layer.layer, ": ");
    if (layer.kind == "linear") return place + "replay does not know linear attention";
    if (layer.sink) return place + "replay does not know attention with a learned sink";
    if (layer.kv_heads.empty() || layer.heads.size() != layer.kv_heads.size() * layer.HeadsPerKvHead()) {
      return place + "expected all query heads of every recorded KV head";
    }
    if (layer.heads.size() != first.heads.size() || layer.kv_heads.size() != first.kv_heads.size() ||
        layer.head_dim_k != first.head_dim_k || layer.head_dim_v != first.head_dim_v) {
      return place + "its shape differs from the first layer's";
    }
    if (layer.head_dim_k % kDimStep || layer.head_dim_v % kDimStep) {
      return StrCat(place, "expected head dimensions divisible by ", kDimStep, ", found ", layer.head_dim_k, " and ",
                    layer.head_dim_v);
    }
  }
  if (info.prompt_tokens < 1) return "the prompt has no token";
  if (const int tokens = NumTokens(source); tokens < info.prompt_tokens) {
    return StrCat("the trace ends after ", tokens, " of ", info.prompt_tokens, " prompt tokens; record it again");
  }
  return "";
}

ModelShape ShapeOf(const TraceInfo& info) {
  const LayerInfo& layer = info.layers.at(0);
  return {static_cast<int>(info.layers.size()), static_cast<int>(layer.heads.size()),
          static_cast<int>(layer.kv_heads.size()), layer.head_dim_k, layer.head_dim_v};
}

int NumTokens(const TraceSource& source) {
  int tokens = static_cast<int>(source.tokens().ids.size());
  for (size_t layer = 0; layer < source.info().layers.size(); ++layer) {
    const std::vector<int>& q_token = source.q_token(static_cast<int>(layer));
    tokens = std::min(tokens, q_token.empty() ? 0 : q_token.back() + 1);
  }
  return tokens;
}

std::string WhyRowsAreMissing(const TraceSource& source, int begin, int end) {
  for (size_t layer = 0; layer < source.info().layers.size(); ++layer) {
    const std::vector<int>& q_token = source.q_token(static_cast<int>(layer));
    const auto first = std::lower_bound(q_token.begin(), q_token.end(), begin);
    const auto last = std::lower_bound(q_token.begin(), q_token.end(), end);
    if (last - first != end - begin) {
      return StrCat("needs the query rows of tokens ", begin, " to ", end - 1, ", the trace holds ", last - first,
                    " of them (recorded with --query-rows ", source.info().model.query_rows, ")");
    }
  }
  return "";
}

std::span<const float> LayerEvidence::Statistic(const StatisticSpec& spec, int head, int num_tokens) const {
  KVSCOPE_CHECK(num_tokens <= row_end && head >= 0 && head < shape.num_heads);
  StatisticSpec key = spec;
  key.skip_rows += row_end - num_tokens;
  const auto found = statistics.find(key);
  if (found == statistics.end()) {
    throw Error(StrCat("statistic ", ToString(spec), ": asked for but not declared; the policy is broken"));
  }
  return {found->second.data() + static_cast<int64_t>(head) * row_end, static_cast<size_t>(num_tokens)};
}

Evidence::Evidence(const TraceSource& source, int row_end) : source_(source), row_end_(row_end) {}

void Evidence::Add(const StatisticSpec& spec, int num_tokens) {
  KVSCOPE_CHECK_LE(num_tokens, row_end_);
  StatisticSpec key = spec;
  key.skip_rows += row_end_ - num_tokens;
  if (std::find(specs_.begin(), specs_.end(), key) == specs_.end()) specs_.push_back(key);
}

std::vector<LayerEvidence> Evidence::Compute(int layer_begin, int layer_end, std::span<LayerEvidence> known) const {
  const ModelShape shape = ShapeOf(source_.info());
  std::vector<LayerEvidence> layers(layer_end - layer_begin);
  std::vector<StatisticSpec> specs;  // to be computed
  for (int layer = layer_begin; layer < layer_end; ++layer) {
    LayerEvidence& evidence = layers[layer - layer_begin];
    evidence.layer_index = layer;
    evidence.row_end = row_end_;
    evidence.shape = shape;
    evidence.scale = static_cast<float>(source_.info().layers[layer].scale);
    if (!known.empty()) evidence.statistics = std::move(known[layer - layer_begin].statistics);
    if (layer == layer_begin) {
      for (const StatisticSpec& spec : specs_) {
        if (!evidence.statistics.contains(spec)) specs.push_back(spec);
      }
    }
    for (const StatisticSpec& spec : specs) {
      evidence.statistics[spec].resize(static_cast<size_t>(shape.num_heads) * row_end_);
    }
    if (!keeps_rows_) continue;
    evidence.kv_heads.resize(shape.num_kv_heads);
    evidence.q_token = source_.q_token(layer);
  }
  if (specs.empty() && !keeps_rows_ && sampled_tokens_.empty()) return layers;
  const int group = shape.HeadsPerKvHead();
  tbb::parallel_for(0, static_cast<int>(layers.size()) * shape.num_kv_heads, [&](int task) {
    LayerEvidence& evidence = layers[task / shape.num_kv_heads];
    const int kv_head = task % shape.num_kv_heads;
    const auto data = source_.ReadKvHead(evidence.layer_index, kv_head);
    if (keeps_rows_) evidence.kv_heads[kv_head] = data;
    if (data->num_tokens < row_end_ || data->group != group) {
      throw Error(StrCat("layer index ", evidence.layer_index, ", KV head index ", kv_head, ": expected ", row_end_,
                         " tokens and ", group, " query heads, found ", data->num_tokens, " and ", data->group,
                         "; the trace was cut or damaged, record it again"));
    }
    ColumnStatsProblem problem;
    problem.q = data->q.data(), problem.k = data->k.data(), problem.dtype = data->k.dtype();
    problem.lse = data->lse.data(), problem.q_token = source_.q_token(evidence.layer_index);
    problem.group = group, problem.num_rows = data->num_rows, problem.num_tokens = data->num_tokens;
    problem.head_dim = shape.head_dim_k, problem.row_end = row_end_;
    problem.rule = RuleOf(source_.info().layers[evidence.layer_index]);
    std::vector<std::vector<float>> out(specs.size());
    // Isolated, so that a thread that waits here does not load a second KV head.
    tbb::this_task_arena::isolate([&] { cpu_fast::ColumnStats(problem, specs, out); });
    for (size_t s = 0; s < specs.size(); ++s) {
      if (!std::all_of(out[s].begin(), out[s].end(), [](float value) { return std::isfinite(value); })) {
        throw Error(StrCat("layer ", source_.info().layers[evidence.layer_index].layer, ", KV head index ", kv_head,
                           ": expected finite weights; the trace is damaged, see kvscope verify"));
      }
      std::copy(out[s].begin(), out[s].end(),
                evidence.statistics.at(specs[s]).begin() + static_cast<int64_t>(kv_head) * group * row_end_);
    }
    if (!sampled_tokens_.empty()) SeeSampledRows(evidence.layer_index, kv_head, *data);
  });
  return layers;
}

void Evidence::SeeSampledRows(int layer_index, int kv_head, const KvHeadData& data) const {
  const std::vector<int>& q_token = source_.q_token(layer_index);
  const AttentionRule rule = RuleOf(source_.info().layers[layer_index]);
  const int dim = data.head_dim_k, group = data.group;
  std::vector<int64_t> rows;
  for (const int token : sampled_tokens_) {
    const auto found = std::lower_bound(q_token.begin(), q_token.end(), token);
    if (found != q_token.end() && *found == token && token < data.num_tokens) rows.push_back(found - q_token.begin());
  }
  if (rows.empty()) return;
  std::vector<float> q;  // [group, rows, dim]
  for (int head = 0; head < group; ++head) {
    for (const int64_t row : rows) {
      const size_t first = (static_cast<size_t>(head) * data.num_rows + row) * dim, size = q.size();
      q.resize(size + dim);
      ReadFloats(data.q, first, {q.data() + size, static_cast<size_t>(dim)});
    }
  }
  const int num_tokens = q_token[rows.back()] + 1, num_rows = static_cast<int>(rows.size()) * group;
  const int64_t stride = (num_tokens + kPanelTokens - 1) / kPanelTokens * kPanelTokens;
  std::vector<float> panels(PanelFloats(kTileTokens, dim)), weights(num_rows * stride);
  const int first_tile = rule.FirstSeen(q_token[rows.front()]) / kTileTokens * kTileTokens;
  for (int tile = first_tile; tile < num_tokens; tile += kTileTokens) {
    const int count = std::min(kTileTokens, num_tokens - tile);
    PackKeyPanels(data.k.At(static_cast<size_t>(tile) * dim), data.k.dtype(), count, dim, panels.data());
    ScoreTile(q.data(), dim, num_rows, panels.data(), count, dim, rule, weights.data() + tile, stride);
  }
  for (int head = 0; head < group; ++head) {
    for (size_t i = 0; i < rows.size(); ++i) {
      const int token = q_token[rows[i]];
      const std::span<float> row(&weights[(head * rows.size() + i) * stride], token + 1);
      WeightsFromScores(row, 0, token, rule, data.lse[static_cast<size_t>(head) * data.num_rows + rows[i]]);
      see_row_(layer_index, kv_head * group + head, token, row);
    }
  }
}

std::vector<float> EvidenceView::Keys(int kv_head) const {
  if (evidence_.kv_heads.empty()) throw Error("keys: asked for but not declared; the policy is broken");
  return Rows(evidence_.kv_heads.at(kv_head)->k, num_tokens_, evidence_.shape.head_dim_k);
}

std::vector<float> EvidenceView::Values(int kv_head) const {
  if (evidence_.kv_heads.empty()) throw Error("values: asked for but not declared; the policy is broken");
  return Rows(evidence_.kv_heads.at(kv_head)->v, num_tokens_, evidence_.shape.head_dim_v);
}

QueryChannels EvidenceView::Queries(int kv_head) const {
  if (evidence_.kv_heads.empty()) throw Error("queries: asked for but not declared; the policy is broken");
  const KvHeadData& data = *evidence_.kv_heads.at(kv_head);
  const int dim = evidence_.shape.head_dim_k;
  const auto rows = std::lower_bound(evidence_.q_token.begin(), evidence_.q_token.end(), num_tokens_);
  const auto num_rows = std::min<int64_t>(rows - evidence_.q_token.begin(), data.num_rows);
  QueryChannels channels{std::vector<float>(dim), std::vector<float>(dim)};
  std::vector<float> row(dim);
  std::vector<double> squares(dim);
  for (int head = 0; head < data.group; ++head) {
    for (int64_t i = 0; i < num_rows; ++i) {
      const size_t first = static_cast<size_t>(int64_t{head} * data.num_rows + i) * dim;
      ReadFloats(data.q, first, row);
      for (int channel = 0; channel < dim; ++channel) {
        channels.largest[channel] = std::max(channels.largest[channel], std::fabs(row[channel]));
        squares[channel] += double{row[channel]} * row[channel];
      }
    }
  }
  const double rows_seen = std::max<double>(1, static_cast<double>(num_rows) * data.group);
  for (int channel = 0; channel < dim; ++channel) {
    channels.largest[channel] *= evidence_.scale;
    channels.rms[channel] = evidence_.scale * static_cast<float>(std::sqrt(squares[channel] / rows_seen));
  }
  return channels;
}

}  // namespace kvscope
