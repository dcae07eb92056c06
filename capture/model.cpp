// SPDX-License-Identifier: Apache-2.0
#include "capture/model.h"

#include <array>
#include <set>

#include "capture/pack_weights.h"
#include "core/error.h"

namespace kvscope {
namespace {

enum class RowOrder { kAsStored, kUnpermuteHeads };

// Row of the file that becomes row `row` here. llama-family files interleave a head's two halves for llama.cpp's RoPE.
int SourceRow(int row, RowOrder order, int head_dim) {
  if (order == RowOrder::kAsStored) return row;
  const int within = row % head_dim, half = head_dim / 2;
  return row - within + 2 * (within % half) + within / half;
}

class Loader {
 public:
  Loader(const GgufFile& gguf, const ModelConfig& config) : gguf_(gguf), c_(config) {}

  void LoadInto(Model& model) {
    model.embedding = Matrix("token_embd.weight", c_.vocab, c_.hidden);
    if (gguf_.Find("output.weight")) model.output = Matrix("output.weight", c_.vocab, c_.hidden);
    model.output_norm = Vector("output_norm.weight", c_.hidden);
    for (int layer = 0; layer < c_.num_layers; ++layer) model.layers.push_back(Layer(StrCat("blk.", layer, ".")));
    CheckAllUsed();
  }

 private:
  LayerWeights Layer(const std::string& prefix) {
    LayerWeights layer;
    layer.attn_norm = Vector(prefix + "attn_norm.weight", c_.hidden);
    LoadProjections(prefix, layer);
    layer.attn_out = Matrix(prefix + "attn_output.weight", c_.hidden, c_.num_heads * c_.head_dim);
    layer.ffn_norm = Vector(prefix + "ffn_norm.weight", c_.hidden);
    if (c_.architecture.has_post_norms) {
      layer.post_attn_norm = Vector(prefix + "post_attention_norm.weight", c_.hidden);
      layer.post_ffn_norm = Vector(prefix + "post_ffw_norm.weight", c_.hidden);
    }
    if (c_.num_experts > 0) {
      LoadExperts(prefix, layer);
    } else {
      const int half = c_.architecture.has_fused_weights ? 2 : 1;
      const std::string up = prefix + "ffn_up.weight";
      layer.ffn.gate = half == 2 ? Part(up, {c_.hidden, 2 * c_.ffn}, 0, c_.ffn)
                                 : Matrix(prefix + "ffn_gate.weight", c_.ffn, c_.hidden);
      layer.ffn.up = Part(up, {c_.hidden, half * c_.ffn}, (half - 1) * c_.ffn, c_.ffn);
      layer.ffn.down = Matrix(prefix + "ffn_down.weight", c_.hidden, c_.ffn);
    }
    return layer;
  }

  void LoadProjections(const std::string& prefix, LayerWeights& layer) {
    const int q_width = c_.num_heads * c_.head_dim, kv_width = c_.num_kv_heads * c_.head_dim;
    const RowOrder order = c_.architecture.interleaved_qk ? RowOrder::kUnpermuteHeads : RowOrder::kAsStored;
    if (c_.architecture.has_fused_weights) {
      const std::string name = prefix + "attn_qkv.weight";
      const std::vector<int64_t> shape{c_.hidden, q_width + 2 * kv_width};
      layer.q = Part(name, shape, 0, q_width);
      layer.k = Part(name, shape, q_width, kv_width);
      layer.v = Part(name, shape, q_width + kv_width, kv_width);
    } else {
      layer.q = Matrix(prefix + "attn_q.weight", q_width, c_.hidden, order);
      layer.k = Matrix(prefix + "attn_k.weight", kv_width, c_.hidden, order);
      layer.v = Matrix(prefix + "attn_v.weight", kv_width, c_.hidden);
      layer.q_bias = Bias(prefix + "attn_q.bias", q_width, order);
      layer.k_bias = Bias(prefix + "attn_k.bias", kv_width, order);
      layer.v_bias = Bias(prefix + "attn_v.bias", kv_width, RowOrder::kAsStored);
    }
    if (c_.architecture.has_qk_norm) {
      layer.q_norm = Vector(prefix + "attn_q_norm.weight", c_.head_dim);
      layer.k_norm = Vector(prefix + "attn_k_norm.weight", c_.head_dim);
    }
  }

  void LoadExperts(const std::string& prefix, LayerWeights& layer) {
    layer.router = Matrix(prefix + "ffn_gate_inp.weight", c_.num_experts, c_.hidden);
    for (int expert = 0; expert < c_.num_experts; ++expert) {
      const auto part = [&](const char* name, int outputs, int inputs) {
        return Part(prefix + name, {inputs, outputs, c_.num_experts}, int64_t{expert} * outputs, outputs);
      };
      layer.experts.push_back({part("ffn_gate_exps.weight", c_.ffn, c_.hidden),
                               part("ffn_up_exps.weight", c_.ffn, c_.hidden),
                               part("ffn_down_exps.weight", c_.hidden, c_.ffn)});
    }
  }

  PackedMatrix Matrix(const std::string& name, int outputs, int inputs, RowOrder order = RowOrder::kAsStored) {
    return Part(name, {inputs, outputs}, 0, outputs, order);
  }

  // Rows [first_row, first_row + outputs) of a tensor, counted over all extents after the first.
  PackedMatrix Part(const std::string& name, const std::vector<int64_t>& shape, int64_t first_row, int outputs,
                    RowOrder order = RowOrder::kAsStored) {
    used_.insert(name);
    const GgufTensor& tensor = gguf_.RequireTensor(name, shape);
    return PackWeights(gguf_, tensor, outputs,
                       [&](int output) { return first_row + SourceRow(output, order, c_.head_dim); });
  }

  std::vector<float> Vector(const std::string& name, int size) {
    used_.insert(name);
    std::vector<float> values(size);
    gguf_.Dequantize(gguf_.RequireTensor(name, std::array<int64_t, 1>{size}), 0, values);
    return values;
  }

  std::vector<float> Bias(const std::string& name, int size, RowOrder order) {
    if (!c_.architecture.has_qkv_bias && !gguf_.Find(name)) return {};
    const std::vector<float> stored = Vector(name, size);
    std::vector<float> bias(size);
    for (int row = 0; row < size; ++row) bias[row] = stored[SourceRow(row, order, c_.head_dim)];
    return bias;
  }

  // A weight without a use is part of a model that this is not.
  void CheckAllUsed() const {
    for (const GgufTensor& tensor : gguf_.tensors()) {
      if (used_.contains(tensor.name) || tensor.name.starts_with("rope_f")) continue;  // freqs, factors: rope_scaling.h
      if (tensor.name.ends_with(".attn_rot_embd.weight")) continue;  // old files; the keys say the same
      throw Error(StrCat(gguf_.path(), ":", Printable(tensor.name),
                         ": expected no such tensor in a model of architecture ", c_.architecture.name,
                         ", found one of shape ", ShapeText(tensor.shape),
                         "; kvscope does not know what it does, use another model"));
    }
  }

  const GgufFile& gguf_;
  const ModelConfig& c_;
  std::set<std::string, std::less<>> used_;
};

}  // namespace

std::unique_ptr<Model> LoadModel(const GgufFile& gguf, int max_tokens) {
  auto model = std::make_unique<Model>();
  model->config = ReadModelConfig(gguf, max_tokens);
  Loader(gguf, model->config).LoadInto(*model);
  return model;
}

}  // namespace kvscope
