// SPDX-License-Identifier: Apache-2.0
#include "capture/decoder.h"

#include <tbb/parallel_for.h>
#include <tbb/parallel_for_each.h>

#include <algorithm>
#include <atomic>
#include <cmath>

#include "core/error.h"
#include "kernels/add_rows.h"
#include "kernels/cap_logits.h"
#include "kernels/rms_norm.h"
#include "kernels/rope.h"

namespace kvscope {

struct Decoder::Chunk {
  const DecoderInput* input = nullptr;
  int first_row = 0, num_tokens = 0;
  std::vector<std::vector<RopeAngles>> angles;  // [rope set][token]
  int PositionOf(int token) const {
    return input->positions.empty() ? input->cache->num_tokens() + token : input->positions[token];
  }
  LayerChunk layer_chunk;
  std::vector<float> q;  // [heads, token, head_dim], rounded
};

namespace {

constexpr int kRowGrain = 16;

template <typename Function>
void ForRows(int rows, const Function& function) {
  tbb::parallel_for(tbb::blocked_range<int>(0, rows, kRowGrain),
                    [&](const tbb::blocked_range<int>& range) { function(range.begin(), range.end()); });
}

void Norm(const float* x, int rows, const std::vector<float>& weight, float epsilon, float* out) {
  const auto dim = static_cast<int64_t>(weight.size());
  ForRows(rows, [&](int begin, int end) {
    cpu::RmsNorm(ContiguousView(x + begin * dim, DType::kF32, {end - begin, dim}, 2),
                 ContiguousView(weight.data(), DType::kF32, {dim}, 1), epsilon,
                 ContiguousView(out + begin * dim, DType::kF32, {end - begin, dim}, 2));
  });
}

// values [rows, as many as the bias has]
void AddBias(const std::vector<float>& bias, int rows, float* values) {
  if (bias.empty()) return;
  const auto width = static_cast<int64_t>(bias.size());
  cpu::AddRows(ContiguousView(bias.data(), DType::kF32, {width}, 1),
               ContiguousView(values, DType::kF32, {rows, width}, 2));
}

// RMS norm of one head vector, where the family has it.
void NormHead(const std::vector<float>& weight, float epsilon, std::span<float> vector) {
  if (weight.empty()) return;
  const auto dim = static_cast<int64_t>(vector.size());
  const TensorView row = ContiguousView(vector.data(), DType::kF32, {1, dim}, 2);
  cpu::RmsNorm(row, ContiguousView(weight.data(), DType::kF32, {dim}, 1), epsilon, row);
}

// Stores one head vector in the cache's dtype; returns false when a value left its range.
bool PutRounded(std::span<const float> values, Buffer& to, size_t at) {
  if (to.dtype() == DType::kF32) {
    std::copy(values.begin(), values.end(), to.floats().begin() + static_cast<int64_t>(at));
    return true;
  }
  const std::span<Half> halves = to.halves().subspan(at, values.size());
  HalvesFromFloats(values, halves);
  return std::ranges::all_of(halves, [](Half half) { return (half.bits & 0x7c00) != 0x7c00; });
}

}  // namespace

// Splits q, k and v of a chunk into heads, norms and rotates q and k, rounds everything to the cache's dtype.
void Decoder::MakeHeads(int layer, Chunk& chunk) {
  const ModelConfig& c = model_.config;
  const int tokens = chunk.num_tokens, dim = c.head_dim;
  const LayerWeights& w = model_.layers[layer];
  const std::vector<RopeAngles>& angles = chunk.angles[c.layers[layer].rope_set];
  const DType dtype = chunk.input->cache->dtype();
  LayerChunk& out = chunk.layer_chunk;
  const size_t q_size = static_cast<size_t>(c.num_heads) * tokens * dim,
               kv_size = static_cast<size_t>(c.num_kv_heads) * tokens * dim;
  out.num_tokens = tokens;
  out.q = Buffer(dtype, q_size);
  out.k = Buffer(dtype, kv_size);
  out.v = Buffer(dtype, kv_size);
  out.lse.resize(static_cast<size_t>(c.num_heads) * tokens);
  chunk.q.resize(q_size);
  std::atomic<int> bad_token{-1};
  ForRows(tokens, [&](int begin, int end) {
    for (int token = begin; token < end; ++token) {
      const int64_t row = chunk.first_row + token;
      bool is_finite = true;
      for (int head = 0; head < c.num_heads; ++head) {
        const std::span<float> vector(&q_[(row * c.num_heads + head) * dim], dim);
        const size_t at = (static_cast<size_t>(head) * tokens + token) * dim;
        NormHead(w.q_norm, c.rms_epsilon, vector);
        cpu::Rope(angles[token], vector);
        is_finite &= PutRounded(vector, out.q, at);
        if (dtype == DType::kF16) {
          FloatsFromHalves(out.q.halves().subspan(at, dim), {&chunk.q[at], static_cast<size_t>(dim)});
        } else {
          std::copy(vector.begin(), vector.end(), chunk.q.begin() + static_cast<int64_t>(at));
        }
      }
      for (int head = 0; head < c.num_kv_heads; ++head) {
        const std::span<float> k(&k_[(row * c.num_kv_heads + head) * dim], dim),
            v(&v_[(row * c.num_kv_heads + head) * dim], dim);
        const size_t at = (static_cast<size_t>(head) * tokens + token) * dim;
        NormHead(w.k_norm, c.rms_epsilon, k);
        cpu::Rope(angles[token], k);
        is_finite &= PutRounded(k, out.k, at);
        is_finite &= PutRounded(v, out.v, at);
      }
      if (!is_finite) bad_token = token;
    }
  });
  if (bad_token >= 0) {
    throw Error(StrCat("layer ", layer, ", token ", chunk.PositionOf(bad_token),
                       ": q, k or v is outside f16's range; capture with --kv-dtype f32"));
  }
}

// attended_ of normed_: one layer's attention over the caches, which get its keys and values.
void Decoder::Attend(int layer, std::vector<Chunk>& chunks) {
  const ModelConfig& c = model_.config;
  const LayerWeights& w = model_.layers[layer];
  const int64_t q_width = w.q.outputs(), kv_width = w.k.outputs();
  cpu_fast::Matmul(std::initializer_list<MatmulProblem>{{normed_.data(), c.hidden, rows_, &w.q, q_.data(), q_width},
                                                        {normed_.data(), c.hidden, rows_, &w.k, k_.data(), kv_width},
                                                        {normed_.data(), c.hidden, rows_, &w.v, v_.data(), kv_width}},
                   activations_);
  AddBias(w.q_bias, rows_, q_.data());
  AddBias(w.k_bias, rows_, k_.data());
  AddBias(w.v_bias, rows_, v_.data());
  const auto attend = [&](Chunk& chunk) {
    MakeHeads(layer, chunk);
    chunk.input->cache->Append(layer, chunk.layer_chunk);
    chunk.input->cache->Attend({layer, chunk.num_tokens, chunk.q.data(), &attended_[chunk.first_row * q_width], q_width,
                                chunk.layer_chunk.lse.data()});
    if (chunk.input->observer) chunk.input->observer(layer, chunk.layer_chunk);
  };
  if (chunks.size() == 1) {
    attend(chunks[0]);
  } else {
    tbb::parallel_for_each(chunks.begin(), chunks.end(), attend);
  }
}

void Decoder::RunLayer(int layer, std::vector<Chunk>& chunks) {
  const ModelConfig& c = model_.config;
  const LayerWeights& w = model_.layers[layer];
  Norm(x_.data(), rows_, w.attn_norm, c.rms_epsilon, normed_.data());
  Attend(layer, chunks);
  cpu_fast::Matmul({attended_.data(), w.q.outputs(), rows_, &w.attn_out, out_.data(), c.hidden}, activations_);
  AddToResidual(w.post_attn_norm);

  Norm(x_.data(), rows_, w.ffn_norm, c.rms_epsilon, normed_.data());
  feed_forward_.Run(c, w, normed_.data(), rows_, out_.data());
  AddToResidual(w.post_ffn_norm);
}

// x_ += out_, normed before where the family does that.
void Decoder::AddToResidual(const std::vector<float>& post_norm) {
  if (!post_norm.empty()) Norm(out_.data(), rows_, post_norm, model_.config.rms_epsilon, out_.data());
  const int64_t hidden = model_.config.hidden;
  cpu::AddRows(ContiguousView(out_.data(), DType::kF32, {rows_, hidden}, 2),
               ContiguousView(x_.data(), DType::kF32, {rows_, hidden}, 2));
}

// The residual stream that a chunk starts with.
void Decoder::Embed(const Chunk& chunk) {
  const ModelConfig& c = model_.config;
  float* row = x_.data() + static_cast<int64_t>(chunk.first_row) * c.hidden;
  std::copy(chunk.input->residual.begin(), chunk.input->residual.end(), row);
  for (const int id : chunk.input->ids) {
    KVSCOPE_CHECK(id >= 0 && id < c.vocab);
    for (int i = 0; i < c.hidden; ++i) row[i] = model_.embedding.At(id, i) * c.embedding_scale;
    row += c.hidden;
  }
}

std::span<const float> Decoder::Run(std::span<const DecoderInput> inputs, int first_layer) {
  const ModelConfig& c = model_.config;
  const bool begins_above = first_layer > 0;
  std::vector<Chunk> chunks(inputs.size());
  rows_ = 0;
  for (size_t i = 0; i < inputs.size(); ++i) {
    chunks[i].input = &inputs[i];
    chunks[i].first_row = rows_;
    chunks[i].num_tokens = static_cast<int>(begins_above ? inputs[i].positions.size() : inputs[i].ids.size());
    KVSCOPE_CHECK_EQ(inputs[i].residual.size(),
                     begins_above ? inputs[i].positions.size() * static_cast<size_t>(c.hidden) : size_t{0});
    KVSCOPE_CHECK(begins_above ? inputs[i].ids.empty() : inputs[i].positions.empty());
    rows_ += chunks[i].num_tokens;
    for (const RopeSet& set : c.rope_sets) {
      std::vector<RopeAngles>& angles = chunks[i].angles.emplace_back();
      for (int token = 0; token < chunks[i].num_tokens; ++token)
        angles.push_back(RopeAnglesAt(chunks[i].PositionOf(token), set.inv_freq, set.attention_scaling));
    }
  }
  const size_t rows = rows_;
  x_.resize(rows * c.hidden);
  normed_.resize(rows * c.hidden);
  q_.resize(rows * c.num_heads * c.head_dim);
  attended_.resize(q_.size());
  k_.resize(rows * c.num_kv_heads * c.head_dim);
  v_.resize(k_.size());
  out_.resize(rows * c.hidden);
  for (const Chunk& chunk : chunks) Embed(chunk);
  for (int layer = first_layer; layer < c.num_layers; ++layer) {
    RunLayer(layer, chunks);
    for (const Chunk& chunk : chunks) {
      if (!chunk.input->residual_observer) continue;
      const size_t begin = static_cast<size_t>(chunk.first_row) * c.hidden;
      chunk.input->residual_observer(layer,
                                     std::span(x_).subspan(begin, static_cast<size_t>(chunk.num_tokens) * c.hidden));
    }
  }
  Norm(x_.data(), rows_, model_.output_norm, c.rms_epsilon, normed_.data());
  return {normed_.data(), rows * c.hidden};
}

void Decoder::Logits(std::span<const float> hidden, int rows, std::span<float> logits) const {
  const ModelConfig& c = model_.config;
  KVSCOPE_CHECK_EQ(logits.size(), static_cast<size_t>(rows) * c.vocab);
  cpu_fast::Matmul({hidden.data(), c.hidden, rows, &model_.head(), logits.data(), c.vocab}, activations_);
  if (c.logit_softcap == 0) return;
  cpu::CapLogits(c.logit_softcap, ContiguousView(logits.data(), DType::kF32, {rows, c.vocab}, 2));
}

double LogSumExp(std::span<const float> logits) {
  const double max = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - max);
  return max + std::log(sum);
}

void NormalizeLogits(std::span<float> logits) {
  const double lse = LogSumExp(logits);
  for (float& logit : logits) logit = static_cast<float>(logit - lse);
}

double KlDivergence(std::span<const float> reference, std::span<const float> other) {
  double sum = 0;
  for (size_t id = 0; id < reference.size(); ++id) {
    if (reference[id] > -60.0f)
      sum += std::exp(static_cast<double>(reference[id])) * (static_cast<double>(reference[id]) - other[id]);
  }
  return std::max(sum, 0.0);
}

int ArgMax(std::span<const float> values) {
  return static_cast<int>(std::max_element(values.begin(), values.end()) - values.begin());
}

}  // namespace kvscope
