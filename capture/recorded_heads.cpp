// SPDX-License-Identifier: Apache-2.0
#include "capture/recorded_heads.h"

#include <cstring>

namespace kvscope {
namespace {

bool HasAllHeads(const LayerInfo& info) {
  return static_cast<int>(info.heads.size()) == info.num_heads;
}

// The rows of an array [all heads, row_elements] that belong to the stored heads.
Buffer Select(const Buffer& from, const std::vector<int>& heads, int num_heads) {
  const size_t row = from.size() / num_heads;
  Buffer to(from.dtype(), row * heads.size());
  for (size_t i = 0; i < heads.size(); ++i)
    std::memcpy(to.At(i * row), from.At(heads[i] * row), row * ElementBytes(from.dtype()));
  return to;
}

template <typename Value>
std::vector<Value> Select(const std::vector<Value>& from, const std::vector<int>& heads, int num_heads) {
  const auto row = static_cast<int64_t>(from.size()) / num_heads;
  std::vector<Value> to;
  for (const int head : heads) to.insert(to.end(), from.begin() + head * row, from.begin() + (head + 1) * row);
  return to;
}

}  // namespace

LayerChunk SelectHeads(LayerChunk chunk, const LayerInfo& info) {
  if (HasAllHeads(info)) return chunk;
  LayerChunk some;
  some.num_tokens = chunk.num_tokens;
  some.q = Select(chunk.q, info.heads, info.num_heads);
  some.k = Select(chunk.k, info.kv_heads, info.num_kv_heads);
  some.v = Select(chunk.v, info.kv_heads, info.num_kv_heads);
  some.lse = Select(chunk.lse, info.heads, info.num_heads);
  return some;
}

std::vector<Half> SelectHeads(std::vector<Half> rows, const LayerInfo& info) {
  return HasAllHeads(info) ? rows : Select(rows, info.heads, info.num_heads);
}

}  // namespace kvscope
