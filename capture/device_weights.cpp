// SPDX-License-Identifier: Apache-2.0
#include "capture/device_weights.h"

#include <tbb/parallel_for.h>

#include <atomic>
#include <cmath>

#include "core/error.h"
#include "core/units.h"
#include "kernels/random_weights.h"

namespace kvscope::KVSCOPE_TWIN {
namespace {

constexpr int kPanelRows = 32;

// Rows of a packed matrix as the device wants them; false when a value left the type's range.
bool Unpack(const PackedMatrix& from, DenseType type, uint16_t* to) {
  const int inputs = from.inputs();
  std::atomic<bool> is_finite{true};
  tbb::parallel_for(0, from.num_panels(), [&](int panel) {
    std::vector<float> values(static_cast<size_t>(inputs) * kPanelRows);  // [input][row]
    from.Expand(panel, 0, inputs, values.data());
    const int rows = std::min(kPanelRows, from.outputs() - panel * kPanelRows);
    for (int row = 0; row < rows; ++row) {
      uint16_t* const target = to + (static_cast<int64_t>(panel) * kPanelRows + row) * inputs;
      for (int input = 0; input < inputs; ++input) {
        target[input] = DenseBits(values[static_cast<size_t>(input) * kPanelRows + row], type);
        if (!std::isfinite(DenseValue(target[input], type))) is_finite = false;
      }
    }
  });
  return is_finite;
}

// Of q, k and v one after another; empty where none has one.
std::vector<float> QkvBias(const LayerWeights& w) {
  std::vector<float> bias;
  if (w.q_bias.empty() && w.k_bias.empty() && w.v_bias.empty()) return bias;
  const std::pair<const std::vector<float>*, int> parts[] = {
      {&w.q_bias, w.q.outputs()}, {&w.k_bias, w.k.outputs()}, {&w.v_bias, w.v.outputs()}};
  for (const auto& [part, size] : parts) {
    bias.insert(bias.end(), part->begin(), part->end());
    if (part->empty()) bias.insert(bias.end(), size, 0.0f);
  }
  return bias;
}

constexpr int kHighestHeadDim = 256;  // of attention_prefill and column_stats

void CheckWidths(const ModelConfig& c) {
  if (c.head_dim > kHighestHeadDim) {
    throw Error(StrCat(c.name, ": head dimension ", c.head_dim, " on a device: expected at most ", kHighestHeadDim,
                       "; use --device cpu"));
  }
  for (const int width : {c.hidden, c.ffn}) {
    if (width % 8 == 0) continue;
    throw Error(StrCat(c.name, ": width ", width, " on a device: expected a multiple of 8; use --device cpu"));
  }
}

}  // namespace

DeviceWeights::DeviceWeights(const Model& model, DenseType type) : config_(model.config), type_(type) {
  CheckWidths(config_);
  const bool is_tied = model.output.outputs() == 0;
  CheckRoom(is_tied);
  embedding_ = Upload("token_embd", {&model.embedding});
  head_ = is_tied ? embedding_ : Upload("output", {&model.output});
  output_norm_ = Upload(model.output_norm);
  for (const LayerWeights& w : model.layers) {
    layers_.push_back({.attn_norm = Upload(w.attn_norm),
                       .ffn_norm = Upload(w.ffn_norm),
                       .qkv_bias = Upload(QkvBias(w)),
                       .q_norm = Upload(w.q_norm),
                       .k_norm = Upload(w.k_norm),
                       .post_attn_norm = Upload(w.post_attn_norm),
                       .post_ffn_norm = Upload(w.post_ffn_norm),
                       .qkv = Upload("attn_q, attn_k or attn_v", {&w.q, &w.k, &w.v}),
                       .attn_out = Upload("attn_output", {&w.attn_out}),
                       .gate_up = Upload("ffn_gate or ffn_up", {&w.ffn.gate, &w.ffn.up}),
                       .down = Upload("ffn_down", {&w.ffn.down})});
  }
}

DeviceWeights::DeviceWeights(const ModelConfig& config, uint64_t seed, DenseType type) : config_(config), type_(type) {
  CheckWidths(config_);
  CheckRoom(/*is_tied=*/false);
  const int q_width = config.num_heads * config.head_dim, kv_width = config.num_kv_heads * config.head_dim;
  const auto random = [&](int outputs, int inputs) {
    const int64_t count = static_cast<int64_t>(outputs) * inputs;
    void* const data = Allocate(static_cast<size_t>(count) * sizeof(uint16_t));
    // Outputs as large as inputs are, on average.
    FillRandom(data, count, type_, seed++, static_cast<float>(1 / std::sqrt(static_cast<double>(inputs))), {});
    return DenseMatrix{data, type_, outputs, inputs};
  };
  const TensorView ones = Upload(std::vector<float>(config.hidden, 1.0f));
  embedding_ = random(config.vocab, config.hidden);
  head_ = random(config.vocab, config.hidden);
  output_norm_ = ones;
  for (int layer = 0; layer < config.num_layers; ++layer) {
    layers_.push_back({.attn_norm = ones,
                       .ffn_norm = ones,
                       .qkv_bias = {},
                       .q_norm = {},
                       .k_norm = {},
                       .post_attn_norm = {},
                       .post_ffn_norm = {},
                       .qkv = random(q_width + 2 * kv_width, config.hidden),
                       .attn_out = random(config.hidden, q_width),
                       .gate_up = random(2 * config.ffn, config.hidden),
                       .down = random(config.hidden, config.ffn)});
  }
  Synchronize();
}

void DeviceWeights::CheckRoom(bool is_tied) const {
  const ModelConfig& c = config_;
  const double hidden = c.hidden, q_width = c.num_heads * c.head_dim, kv_width = c.num_kv_heads * c.head_dim;
  const double layer = hidden * (2 * q_width + 2 * kv_width + 3.0 * c.ffn);
  const double needed = 2 * (c.num_layers * layer + (is_tied ? 1 : 2) * hidden * c.vocab);
  const auto free = static_cast<double>(FreeDeviceBytes());
  if (needed <= free) return;
  throw Error(StrCat(c.name, ": weights of ", FormatBytes(static_cast<int64_t>(needed)),
                     " do not fit the device, which has ", FormatBytes(static_cast<int64_t>(free)),
                     " free; expected a smaller model, or --device cpu"));
}

void* DeviceWeights::Allocate(size_t bytes) {
  buffers_.emplace_back(bytes);
  bytes_ += bytes;
  return buffers_.back().data();
}

DenseMatrix DeviceWeights::Upload(const char* name, std::initializer_list<const PackedMatrix*> parts) {
  DenseMatrix matrix{nullptr, type_, 0, (*parts.begin())->inputs()};
  for (const PackedMatrix* const part : parts) matrix.outputs += part->outputs();
  std::vector<uint16_t> rows(static_cast<size_t>(matrix.outputs) * matrix.inputs);
  uint16_t* target = rows.data();
  for (const PackedMatrix* const part : parts) {
    if (!Unpack(*part, type_, target)) {
      const char* const advice =
          type_ == DenseType::kF16 ? "f16's range; use --weights bf16" : "bf16's range; use --device cpu";
      throw Error(StrCat(config_.name, ": ", name, " has weights outside ", advice));
    }
    target += static_cast<int64_t>(part->outputs()) * part->inputs();
  }
  matrix.data = Allocate(rows.size() * sizeof(uint16_t));
  buffers_.back().CopyFromHost(rows.data(), rows.size() * sizeof(uint16_t));
  return matrix;
}

TensorView DeviceWeights::Upload(const std::vector<float>& vector) {
  if (vector.empty()) return {};
  void* const data = Allocate(vector.size() * sizeof(float));
  buffers_.back().CopyFromHost(vector.data(), vector.size() * sizeof(float));
  return ContiguousView(data, DType::kF32, {static_cast<int64_t>(vector.size())}, 1, kTwinDevice);
}

}  // namespace kvscope::KVSCOPE_TWIN
