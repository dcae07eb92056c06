// SPDX-License-Identifier: Apache-2.0
#include "tests/support/core_tiny_trace.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

namespace kvscope {
namespace {

float ElementAt(const Buffer& buffer, size_t element) {
  return buffer.dtype() == DType::kF16 ? FloatFromHalf(buffer.halves()[element]) : buffer.floats()[element];
}

void SetElement(Buffer& buffer, size_t element, float value) {
  if (buffer.dtype() == DType::kF16) {
    buffer.halves()[element] = HalfFromFloat(value);
  } else {
    buffer.floats()[element] = value;
  }
}

TraceInfo MakeInfo(const TinyShape& shape) {
  TraceInfo info;
  info.run_id = StrCat("tiny-", shape.seed);
  info.created_utc = "2000-01-01T00:00:00Z";
  info.generator = "tiny trace";
  info.level = shape.level;
  info.model.name = "tiny";
  info.model.architecture = "random";
  info.model.num_layers = shape.layers;
  info.model.vocab = 100;
  info.model.file_sha256 = std::string(64, '0');
  info.model.norm_epsilon = 1e-5;
  info.model.backend = "cpu";
  info.model.device = "none";
  info.model.engine_flags = "threads=1";
  info.model.kv_dtype = shape.dtype;
  info.model.prefill_chunk = 16;
  info.model.query_rows = shape.query_rows;
  RopeSet rope{.name = "default", .inv_freq = {}, .attention_scaling = 1.0};
  for (int i = 0; i < shape.head_dim / 2; ++i) rope.inv_freq.push_back(std::pow(1e4, -2.0 * i / shape.head_dim));
  info.rope_sets.push_back(rope);
  for (int i = 0; i < shape.layers; ++i) {
    LayerInfo layer;
    layer.layer = i;
    layer.window = i % 2 ? shape.window : 0;
    layer.kind = layer.window ? "window" : "full";
    layer.num_heads = shape.heads;
    layer.num_kv_heads = shape.kv_heads;
    layer.head_dim_k = layer.head_dim_v = shape.head_dim;
    layer.scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim));
    layer.softcap = shape.softcap;
    for (int head = 0; head < shape.heads; ++head) layer.heads.push_back(head);
    for (int head = 0; head < shape.kv_heads; ++head) layer.kv_heads.push_back(head);
    info.layers.push_back(layer);
  }
  info.prompt_tokens = shape.tokens;
  const int question = shape.tokens >= 8 ? shape.tokens - shape.tokens / 8 : shape.tokens;
  info.segments.push_back({"context", 0, 0, question, true});
  if (question < shape.tokens) info.segments.push_back({"question", 0, question, shape.tokens, false});
  if (shape.steps) info.segments.push_back({"answer", 0, shape.tokens, shape.tokens + shape.steps, false});
  if (shape.tokens >= 8) info.spans.push_back({"needle", shape.tokens / 2, shape.tokens / 2 + 2, "the needle"});
  info.task = {"niah", "{\"length\": 1}", shape.seed, {"needle", "the needle"}, "contains", "It is", " the needle"};
  return info;
}

LayerChunk MakeLayer(const TinyShape& shape, const TraceInfo& info, std::mt19937_64& random) {
  std::normal_distribution<float> normal;
  const int tokens = shape.tokens + shape.steps, dim = shape.head_dim, group = shape.heads / shape.kv_heads;
  LayerChunk chunk;
  chunk.num_tokens = tokens;
  chunk.q = Buffer(shape.dtype, size_t(shape.heads) * tokens * dim);
  chunk.k = Buffer(shape.dtype, size_t(shape.kv_heads) * tokens * dim);
  chunk.v = Buffer(shape.dtype, size_t(shape.kv_heads) * tokens * dim);
  for (size_t i = 0; i < chunk.v.size(); ++i) SetElement(chunk.v, i, normal(random));
  for (int kv_head = 0; kv_head < shape.kv_heads; ++kv_head) {
    std::vector<float> sink(dim), needle(dim);
    for (float& value : sink) value = normal(random);
    for (float& value : needle) value = normal(random);
    for (int token = 0; token < tokens; ++token) {
      const bool is_needle =
          !info.spans.empty() && token >= info.spans[0].token_begin && token < info.spans[0].token_end;
      for (int i = 0; i < dim; ++i) {
        const float pull = (token == 0 ? 2 * sink[i] : 0) + (is_needle ? 2 * needle[i] : 0);
        SetElement(chunk.k, (size_t(kv_head) * tokens + token) * dim + i, normal(random) + pull);
      }
      const bool asks = token >= info.segments[0].token_end;
      for (int head = kv_head * group; head < (kv_head + 1) * group; ++head) {
        for (int i = 0; i < dim; ++i) {
          const float pull = sink[i] + (asks ? needle[i] : 0);
          SetElement(chunk.q, (size_t(head) * tokens + token) * dim + i, normal(random) + pull);
        }
      }
    }
  }
  return chunk;
}

}  // namespace

std::vector<double> ExactWeights(const LayerInfo& layer, const LayerChunk& chunk, int head, int query_token,
                                 double* lse) {
  const int kv_head = head / layer.HeadsPerKvHead(), dim = layer.head_dim_k;
  const int first = layer.window ? std::max(0, query_token - layer.window + 1) : 0;
  std::vector<double> weights(query_token + 1);
  double largest = -INFINITY, sum = 0;
  for (int token = first; token <= query_token; ++token) {
    double score = 0;
    for (int i = 0; i < dim; ++i) {
      score += double(ElementAt(chunk.q, (size_t(head) * chunk.num_tokens + query_token) * dim + i)) *
               ElementAt(chunk.k, (size_t(kv_head) * chunk.num_tokens + token) * dim + i);
    }
    score *= layer.scale;
    if (layer.softcap > 0) score = layer.softcap * std::tanh(score / layer.softcap);
    weights[token] = score;
    largest = std::max(largest, score);
  }
  for (int token = first; token <= query_token; ++token) sum += std::exp(weights[token] - largest);
  const double log_sum = largest + std::log(sum);
  for (int token = first; token <= query_token; ++token) weights[token] = std::exp(weights[token] - log_sum);
  if (lse) *lse = log_sum;
  return weights;
}

TinyRun MakeTinyRun(const TinyShape& shape) {
  KVSCOPE_CHECK_EQ(shape.heads % shape.kv_heads, 0);
  std::mt19937_64 random(shape.seed);
  TinyRun run;
  run.info = MakeInfo(shape);
  const int tokens = shape.tokens + shape.steps;
  for (int token = 0; token < tokens; ++token) {
    run.tokens.ids.push_back((token * 7 + 3) % 100);
    run.tokens.positions.push_back(token);
    run.tokens.pieces.push_back(token % 5 ? StrCat(" t", token) : std::string("\xc3\0\xa9", 3));  // bytes, not text
    run.tokens.logprobs.push_back(token ? -0.25f * (token % 9) : NAN);
  }
  for (const LayerInfo& layer : run.info.layers) {
    LayerChunk chunk = MakeLayer(shape, run.info, random);
    std::vector<std::vector<Half>> rows(shape.steps);
    for (int head = 0; head < shape.heads; ++head) {
      for (int token = 0; token < tokens; ++token) {
        double lse = 0;
        const std::vector<double> weights = ExactWeights(layer, chunk, head, token, &lse);
        chunk.lse.push_back(static_cast<float>(lse));
        if (token < shape.tokens) continue;
        for (const double weight : weights) rows[token - shape.tokens].push_back(HalfFromFloat(float(weight)));
      }
    }
    run.layers.push_back(std::move(chunk));
    run.rows.push_back(std::move(rows));
  }
  for (int step = 0; step < shape.steps; ++step) {
    StepInfo info;
    info.time_ns = 1000 * (step + 1);
    info.sampled_id = run.tokens.ids[shape.tokens + step];
    for (int i = 0; i < step % 4; ++i) {
      info.top_ids.push_back(i);
      info.top_logprobs.push_back(-0.5f * i);
    }
    info.queue_depth = step;
    info.stall_ns = 10 * step;
    run.steps.push_back(info);
  }
  run.answer = {"the needle", 1.0};
  return run;
}

LayerChunk Slice(const LayerChunk& chunk, const LayerInfo& layer, int begin, int count) {
  LayerChunk part;
  part.num_tokens = count;
  const auto slice = [&](const Buffer& from, int dim) {
    const size_t num_heads = from.size() / (size_t(chunk.num_tokens) * dim);
    Buffer to(from.dtype(), num_heads * count * dim);
    for (size_t head = 0; count && head < num_heads; ++head) {
      std::memcpy(to.At(head * count * dim), from.At((head * chunk.num_tokens + begin) * dim),
                  size_t(count) * dim * ElementBytes(from.dtype()));
    }
    return to;
  };
  part.q = slice(chunk.q, layer.head_dim_k);
  part.k = slice(chunk.k, layer.head_dim_k);
  part.v = slice(chunk.v, layer.head_dim_v);
  for (size_t head = 0; head < layer.heads.size(); ++head) {
    const auto first = chunk.lse.begin() + head * chunk.num_tokens + begin;
    part.lse.insert(part.lse.end(), first, first + count);
  }
  return part;
}

std::unique_ptr<MemoryTrace> MakeTinyTrace(const TinyShape& shape) {
  return MakeTraceOf(MakeTinyRun(shape));
}

std::unique_ptr<MemoryTrace> MakeTraceOf(const TinyRun& run) {
  auto trace = std::make_unique<MemoryTrace>(run.info);
  trace->AppendTokens(run.tokens);
  for (size_t layer = 0; layer < run.layers.size(); ++layer) {
    trace->AppendChunk(static_cast<int>(layer), 0, run.layers[layer]);
  }
  trace->SetAnswer(run.answer);
  return trace;
}

ColumnStatistics ExactColumns(const TinyRun& run, int layer, int num_rows) {
  const LayerInfo& info = run.info.layers[layer];
  ColumnStatistics columns{.num_rows = num_rows, .num_tokens = num_rows, .sum = {}, .max = {}};
  for (const int head : info.heads) {
    std::vector<double> sum(num_rows), max(num_rows);
    for (int query = 0; query < num_rows; ++query) {
      const std::vector<double> weights = ExactWeights(info, run.layers[layer], head, query);
      for (int token = 0; token <= query; ++token) {
        sum[token] += weights[token];
        max[token] = std::max(max[token], weights[token]);
      }
    }
    columns.sum.insert(columns.sum.end(), sum.begin(), sum.end());
    columns.max.insert(columns.max.end(), max.begin(), max.end());
  }
  return columns;
}

void AppendTinyRun(TraceWriter& writer, const TinyRun& run, int chunk) {
  const TraceInfo& info = run.info;
  const bool has_vectors = info.level == TraceLevel::kQkvRows || info.level == TraceLevel::kQkv;
  const bool has_rows = info.level == TraceLevel::kQkvRows || info.level == TraceLevel::kRows;
  const bool has_columns = info.level == TraceLevel::kRelevance;
  const int total = static_cast<int>(run.tokens.ids.size()), prompt = info.prompt_tokens;
  for (int token = 0; token < total;) {
    const int count = token < prompt ? std::min(chunk, prompt - token) : 1;
    for (int layer = 0; layer < static_cast<int>(info.layers.size()); ++layer) {
      if (has_vectors) writer.AppendChunk(layer, token, Slice(run.layers[layer], info.layers[layer], token, count));
      if (has_rows && token >= prompt) writer.AppendRows(layer, token, run.rows[layer][token - prompt]);
    }
    TraceTokens part;
    for (int i = token; i < token + count; ++i) {
      part.ids.push_back(run.tokens.ids[i]);
      part.positions.push_back(run.tokens.positions[i]);
      part.pieces.push_back(run.tokens.pieces[i]);
      part.logprobs.push_back(run.tokens.logprobs[i]);
    }
    writer.AppendTokens(part);
    if (token >= prompt) writer.AppendStep(run.steps[token - prompt]);
    const int end = token + count;
    for (int layer = 0; has_columns && (end == prompt || end == total) && layer < int(info.layers.size()); ++layer) {
      const ColumnStatistics columns = ExactColumns(run, layer, end);
      writer.SetColumnStatistics(layer, end, columns.sum, columns.max);
    }
    writer.FlushIfDue();
    token += count;
  }
  writer.SetAnswer(run.answer);
}

void WriteTinyTrace(const std::string& path, const TinyShape& shape, int chunk) {
  const TinyRun run = MakeTinyRun(shape);
  TraceWriter writer(path, run.info, {.flush_interval_secs = 1.0, .overwrite = true});
  AppendTinyRun(writer, run, chunk);
  writer.Finish();
}

}  // namespace kvscope
