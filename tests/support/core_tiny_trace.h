// SPDX-License-Identifier: Apache-2.0
// Small random traces that obey every rule of core/trace.h: lse and recorded rows follow from the rounded q and k.
// The first token is a sink, and rows of the question and of decoding attend to a needle in the middle of the context.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/memory_trace.h"
#include "core/trace.h"

namespace kvscope {

struct TinyShape {
  int layers = 2, heads = 4, kv_heads = 2, head_dim = 8;
  int tokens = 48;  // of the prompt
  int steps = 4;
  DType dtype = DType::kF16;
  TraceLevel level = TraceLevel::kQkvRows;
  std::string query_rows = "all";
  int window = 0;     // of the odd layers
  float softcap = 0;  // of every layer
  uint64_t seed = 1;
};

struct TinyRun {
  TraceInfo info;
  TraceTokens tokens;                                // prompt and generated
  std::vector<LayerChunk> layers;                    // one chunk of all tokens per layer
  std::vector<std::vector<std::vector<Half>>> rows;  // [layer][step] -> [heads, query token + 1]
  std::vector<StepInfo> steps;
  TraceAnswer answer;
};

TinyRun MakeTinyRun(const TinyShape& shape);
std::unique_ptr<MemoryTrace> MakeTinyTrace(const TinyShape& shape);
std::unique_ptr<MemoryTrace> MakeTraceOf(const TinyRun& run);
// Exact column statistics of the first num_rows query rows.
ColumnStatistics ExactColumns(const TinyRun& run, int layer, int num_rows);
// The prompt in chunks of `chunk` tokens, then decoding token by token, as capture does.
void AppendTinyRun(TraceWriter& writer, const TinyRun& run, int chunk = 16);
void WriteTinyTrace(const std::string& path, const TinyShape& shape, int chunk = 16);

// Tokens [begin, begin + count) of a chunk that starts at token 0.
LayerChunk Slice(const LayerChunk& chunk, const LayerInfo& layer, int begin, int count);
// Weights [query_token + 1] of one head in double, from the rounded q and k; also gives the log-sum-exp.
std::vector<double> ExactWeights(const LayerInfo& layer, const LayerChunk& chunk, int head, int query_token,
                                 double* lse = nullptr);

}  // namespace kvscope
