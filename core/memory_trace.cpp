// SPDX-License-Identifier: Apache-2.0
#include "core/memory_trace.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace kvscope {

void AppendTo(TraceTokens& tokens, const TraceTokens& more) {
  const size_t count = more.ids.size();
  KVSCOPE_CHECK(more.positions.empty() || more.positions.size() == count);
  KVSCOPE_CHECK(more.pieces.empty() || more.pieces.size() == count);
  KVSCOPE_CHECK(more.logprobs.empty() || more.logprobs.size() == count);
  for (size_t i = 0; i < count; ++i) {
    tokens.positions.push_back(more.positions.empty() ? static_cast<int>(tokens.ids.size()) : more.positions[i]);
    tokens.ids.push_back(more.ids[i]);
    tokens.pieces.push_back(more.pieces.empty() ? std::string() : more.pieces[i]);
    tokens.logprobs.push_back(more.logprobs.empty() ? NAN : more.logprobs[i]);
  }
}

void SelectRows(const QueryRows& query_rows, const LayerInfo& layer, int first_token, LayerChunk& chunk,
                std::vector<int>& q_token) {
  const int num_heads = static_cast<int>(layer.heads.size()), rows = chunk.num_tokens;
  KVSCOPE_CHECK_EQ(chunk.q.size(), size_t(num_heads) * rows * layer.head_dim_k);
  KVSCOPE_CHECK_EQ(chunk.lse.size(), size_t(num_heads) * rows);
  std::vector<int> kept;
  for (int row = 0; row < rows; ++row) {
    if (query_rows.Keeps(first_token + row)) kept.push_back(row);
  }
  for (const int row : kept) q_token.push_back(first_token + row);
  if (kept.size() == static_cast<size_t>(rows)) return;
  Buffer q(chunk.q.dtype(), num_heads * kept.size() * layer.head_dim_k);
  std::vector<float> lse;
  const size_t row_bytes = layer.head_dim_k * ElementBytes(q.dtype());
  for (int head = 0; head < num_heads; ++head) {
    for (const int row : kept) {
      const size_t source = size_t(head) * rows + row;
      std::memcpy(q.At(lse.size() * layer.head_dim_k), chunk.q.At(source * layer.head_dim_k), row_bytes);
      lse.push_back(chunk.lse[source]);
    }
  }
  chunk.q = std::move(q);
  chunk.lse = std::move(lse);
}

MemoryTrace::MemoryTrace(TraceInfo info)
    : info_(std::move(info)), query_rows_(info_.model.query_rows, info_.prompt_tokens, info_.segments) {
  layers_.resize(info_.layers.size());
  for (size_t i = 0; i < layers_.size(); ++i) {
    const LayerInfo& layer = info_.layers[i];
    KVSCOPE_CHECK_EQ(layer.heads.size(), layer.kv_heads.size() * layer.HeadsPerKvHead());
    for (size_t j = 0; j < layer.kv_heads.size(); ++j) layers_[i].kv_heads.push_back(std::make_unique<KvHead>());
  }
}

void MemoryTrace::AppendTokens(const TraceTokens& tokens) {
  AppendTo(tokens_, tokens);
}

void MemoryTrace::AppendChunk(int layer_index, int first_token, LayerChunk chunk) {
  Layer& layer = layers_.at(layer_index);
  const LayerInfo& shape = info_.layers[layer_index];
  KVSCOPE_CHECK_EQ(first_token, layer.num_tokens);
  KVSCOPE_CHECK_EQ(chunk.k.size(), shape.kv_heads.size() * chunk.num_tokens * shape.head_dim_k);
  KVSCOPE_CHECK_EQ(chunk.v.size(), shape.kv_heads.size() * chunk.num_tokens * shape.head_dim_v);
  layer.num_tokens += chunk.num_tokens;
  SelectRows(query_rows_, shape, first_token, chunk, layer.q_token);
  const auto shared = std::make_shared<const LayerChunk>(std::move(chunk));
  for (auto& kv_head : layer.kv_heads) kv_head->pending.push_back(shared);
}

void MemoryTrace::SetLogprobs(int first_token, std::span<const float> logprobs) {
  KVSCOPE_CHECK_LE(first_token + logprobs.size(), tokens_.logprobs.size());
  std::copy(logprobs.begin(), logprobs.end(), tokens_.logprobs.begin() + first_token);
}

void MemoryTrace::SetSegments(const std::vector<Segment>& segments, const std::vector<Span>& spans) {
  info_.segments = segments;
  info_.spans = spans;
}

const std::vector<int>& MemoryTrace::q_token(int layer_index) const {
  return layers_.at(layer_index).q_token;
}

std::shared_ptr<const KvHeadData> MemoryTrace::ReadKvHead(int layer_index, int kv_head_index) const {
  if (info_.level == TraceLevel::kRows || info_.level == TraceLevel::kRelevance) {
    throw Error(StrCat("trace in memory: level ", Name(info_.level), " holds no q, k, v; record with level qkv"));
  }
  const Layer& layer = layers_.at(layer_index);
  const LayerInfo& shape = info_.layers[layer_index];
  KvHead& kv_head = *layer.kv_heads.at(kv_head_index);
  const std::lock_guard lock(kv_head.mutex);
  if (kv_head.data && kv_head.pending.empty()) return kv_head.data;

  // What was laid out before is one more piece in front of the pending ones.
  const int group = shape.HeadsPerKvHead(), num_rows = static_cast<int>(layer.q_token.size());
  const DType dtype = info_.model.kv_dtype;
  const size_t row_k = shape.head_dim_k * ElementBytes(dtype), row_v = shape.head_dim_v * ElementBytes(dtype);
  auto data = std::make_shared<KvHeadData>();
  data->num_tokens = layer.num_tokens;
  data->num_rows = num_rows;
  data->group = group;
  data->head_dim_k = shape.head_dim_k;
  data->head_dim_v = shape.head_dim_v;
  data->q = Buffer(dtype, size_t(group) * num_rows * shape.head_dim_k);
  data->k = Buffer(dtype, size_t(layer.num_tokens) * shape.head_dim_k);
  data->v = Buffer(dtype, size_t(layer.num_tokens) * shape.head_dim_v);
  data->lse.resize(size_t(group) * num_rows);
  size_t token = 0, row = 0;
  const auto add = [&](const Buffer& q, const Buffer& k, const Buffer& v, const std::vector<float>& lse, int tokens,
                       size_t rows, int first_head, int first_kv_head) {
    // memcpy must not see the null pointer of an empty buffer, not even for no bytes.
    const auto copy = [](Buffer& to, size_t target, const Buffer& from, size_t source, size_t bytes) {
      if (bytes) std::memcpy(to.At(target), from.At(source), bytes);
    };
    const size_t dim_k = shape.head_dim_k, dim_v = shape.head_dim_v;
    copy(data->k, token * dim_k, k, size_t(first_kv_head) * tokens * dim_k, tokens * row_k);
    copy(data->v, token * dim_v, v, size_t(first_kv_head) * tokens * dim_v, tokens * row_v);
    for (int i = 0; i < group; ++i) {
      const size_t source = (first_head + i) * rows, target = size_t(i) * num_rows + row;
      copy(data->q, target * dim_k, q, source * dim_k, rows * row_k);
      std::copy_n(lse.begin() + source, rows, data->lse.begin() + target);
    }
    token += tokens;
    row += rows;
  };
  if (const auto& old = kv_head.data) add(old->q, old->k, old->v, old->lse, old->num_tokens, old->num_rows, 0, 0);
  for (const auto& chunk : kv_head.pending) {
    add(chunk->q, chunk->k, chunk->v, chunk->lse, chunk->num_tokens, chunk->lse.size() / shape.heads.size(),
        kv_head_index * group, kv_head_index);
  }
  KVSCOPE_CHECK_EQ(static_cast<int>(row), num_rows);
  kv_head.pending.clear();
  kv_head.data = data;
  return data;
}

}  // namespace kvscope
