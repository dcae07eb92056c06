// SPDX-License-Identifier: Apache-2.0
// The seam between the decoder and whatever holds keys and values: the full cache here, a policy's compacted and packed
// cache in replay/live. The decoder never looks inside.
#pragma once

#include <cstdint>
#include <memory>

#include "core/trace_writer.h"

namespace kvscope {

// The queries of one layer for the tokens just appended.
struct AttendProblem {
  int layer = 0;
  int num_queries = 0;
  const float* q = nullptr;  // [heads, num_queries, head_dim], rounded to the cache dtype
  float* out = nullptr;      // [num_queries, heads, head_dim], row stride out_stride
  int64_t out_stride = 0;
  float* lse = nullptr;  // [heads, num_queries]
};

class KvCache {
 public:
  virtual ~KvCache() = default;
  virtual int num_tokens() const = 0;  // absolute: the next token's position, whatever was evicted
  virtual DType dtype() const = 0;     // q, k and v are rounded to it
  // Layer by layer, 0 first: keys and values of a chunk of tokens (LayerChunk's k and v), then its queries. The chunk's
  // queries see everything kept before and, causally, each other.
  virtual void Append(int layer, const LayerChunk& chunk) = 0;
  virtual void Attend(const AttendProblem& problem) = 0;
  virtual double Bytes() const = 0;  // keys, values, scales and billed state, of which an entry may have part of a byte
  // A cache that goes its own way from here; what is common is shared where the cache can.
  virtual std::unique_ptr<KvCache> Fork() const = 0;
};

}  // namespace kvscope
