// SPDX-License-Identifier: Apache-2.0
#include "capture/model.h"

#include <tbb/parallel_for.h>

#include <array>
#include <cmath>
#include <cstring>

#include "core/error.h"

namespace kvscope {
namespace {

const Architecture kArchitectures[] = {
    {.name = "llama", .interleaved_qk = true},  // Llama 1-3, SmolLM, TinyLlama, Mistral as llama.cpp writes them
};

enum class RowOrder { kAsStored, kUnpermuteHeads };

// Row of the file that becomes row `row` here. llama-family files interleave a head's two halves for llama.cpp's RoPE.
int SourceRow(int row, RowOrder order, int head_dim) {
  if (order == RowOrder::kAsStored) return row;
  const int within = row % head_dim, half = head_dim / 2;
  return row - within + 2 * (within % half) + within / half;
}

void PackRow(const GgufTensor& tensor, const std::byte* row, int output, int inputs, PackedMatrix& matrix) {
  const int blocks = inputs / kQuantBlock;
  std::vector<Half> scales(blocks);
  const auto half_at = [](const std::byte* at) {
    Half half;
    std::memcpy(&half, at, sizeof half);
    return half;
  };
  switch (tensor.type) {
    case GgufType::kF32:
      matrix.SetRow(output, std::span(reinterpret_cast<const float*>(row), inputs));
      return;
    case GgufType::kF16:
      matrix.SetRow(output, std::span(reinterpret_cast<const Half*>(row), inputs));
      return;
    case GgufType::kQ8_0: {
      std::vector<int8_t> codes(inputs);
      for (int block = 0; block < blocks; ++block, row += 2 + kQuantBlock) {
        scales[block] = half_at(row);
        std::memcpy(&codes[block * kQuantBlock], row + 2, kQuantBlock);
      }
      matrix.SetRow(output, codes, scales);
      return;
    }
    case GgufType::kQ4_0:
    case GgufType::kQ4_1: {
      const bool has_minimum = tensor.type == GgufType::kQ4_1;
      std::vector<uint8_t> codes(inputs);
      std::vector<float> minimums(blocks);
      for (int block = 0; block < blocks; ++block) {
        scales[block] = half_at(row);
        minimums[block] = has_minimum ? FloatFromHalf(half_at(row + 2)) : -8 * FloatFromHalf(scales[block]);
        row += has_minimum ? 4 : 2;
        for (int i = 0; i < kQuantBlock / 2; ++i, ++row) {
          codes[block * kQuantBlock + i] = static_cast<uint8_t>(*row) & 15;
          codes[block * kQuantBlock + kQuantBlock / 2 + i] = static_cast<uint8_t>(*row) >> 4;
        }
      }
      matrix.SetRow(output, codes, scales, minimums);
      return;
    }
    default: {
      std::vector<float> weights(inputs);
      DequantizeRow(tensor.type, row, weights);
      matrix.SetRow(output, weights);
    }
  }
}

WeightKind KindOf(GgufType type) {
  switch (type) {
    case GgufType::kF16:
      return WeightKind::kF16;
    case GgufType::kQ8_0:
      return WeightKind::kQ8;
    case GgufType::kQ4_0:
    case GgufType::kQ4_1:
      return WeightKind::kQ4;
    default:
      return WeightKind::kF32;
  }
}

class Loader {
 public:
  Loader(const GgufFile& gguf, const ModelConfig& config) : gguf_(gguf), config_(config) {}

  PackedMatrix Matrix(const std::string& name, int outputs, int inputs, RowOrder order = RowOrder::kAsStored) const {
    const GgufTensor& tensor = gguf_.RequireTensor(name, std::array<int64_t, 2>{inputs, outputs});
    CheckFinite(tensor);
    PackedMatrix matrix(KindOf(tensor.type), outputs, inputs);
    const int64_t row_bytes = GgufRowBytes(tensor.type, inputs);
    tbb::parallel_for(0, matrix.num_panels(), [&](int panel) {
      for (int row = panel * 32; row < std::min(panel * 32 + 32, outputs); ++row) {
        PackRow(tensor, tensor.data.data() + SourceRow(row, order, config_.head_dim) * row_bytes, row, inputs, matrix);
      }
    });
    return matrix;
  }

  std::vector<float> Vector(const std::string& name, int size) const {
    std::vector<float> values(size);
    gguf_.Dequantize(gguf_.RequireTensor(name, std::array<int64_t, 1>{size}), 0, values);
    return values;
  }

 private:
  // Dequantising a row refuses values that are not finite, with a good message.
  void CheckFinite(const GgufTensor& tensor) const {
    tbb::parallel_for(int64_t{0}, tensor.Rows(), [&](int64_t row) {
      thread_local std::vector<float> values;
      values.resize(tensor.Cols());
      gguf_.Dequantize(tensor, row, values);
    });
  }

  const GgufFile& gguf_;
  const ModelConfig& config_;
};

ModelConfig ReadConfig(const GgufFile& gguf) {
  ModelConfig config;
  const std::string family(gguf.RequireString("general.architecture"));
  config.architecture = FindArchitecture(family, gguf.path());
  config.name = gguf.String("general.name").value_or(family);
  const auto key = [&](const char* suffix) { return family + "." + suffix; };
  config.num_layers = static_cast<int>(gguf.RequireIntIn(key("block_count"), 1, 1024));
  config.hidden = static_cast<int>(gguf.RequireIntIn(key("embedding_length"), 1, 1 << 20));
  config.ffn = static_cast<int>(gguf.RequireIntIn(key("feed_forward_length"), 1, 1 << 22));
  config.context_length = static_cast<int>(gguf.RequireIntIn(key("context_length"), 1, 1 << 28));
  config.num_heads = static_cast<int>(gguf.RequireIntIn(key("attention.head_count"), 1, 1024));
  config.num_kv_heads = gguf.Has(key("attention.head_count_kv"))
                            ? static_cast<int>(gguf.RequireIntIn(key("attention.head_count_kv"), 1, config.num_heads))
                            : config.num_heads;
  config.rms_epsilon = static_cast<float>(gguf.RequireFloat(key("attention.layer_norm_rms_epsilon")));
  config.head_dim = gguf.Has(key("attention.key_length"))
                        ? static_cast<int>(gguf.RequireIntIn(key("attention.key_length"), 1, 4096))
                        : config.hidden / config.num_heads;
  if (config.num_heads % config.num_kv_heads != 0) {
    throw Error(StrCat(gguf.path(), ": attention.head_count ", config.num_heads, " is not a multiple of head_count_kv ",
                       config.num_kv_heads, "; the file is damaged"));
  }
  if (config.head_dim % 16 != 0) {
    throw Error(StrCat(gguf.path(), ": head dimension ", config.head_dim,
                       ": expected a multiple of 16; this model is not supported yet"));
  }
  if (gguf.Has(key("attention.value_length")) && gguf.RequireInt(key("attention.value_length")) != config.head_dim) {
    throw Error(
        StrCat(gguf.path(), ": attention.value_length differs from the key length; this model is not supported yet"));
  }
  if (gguf.Has(key("rope.dimension_count")) && gguf.RequireInt(key("rope.dimension_count")) != config.head_dim) {
    throw Error(StrCat(gguf.path(),
                       ": rope.dimension_count differs from the head dimension; partial RoPE is not supported yet"));
  }
  if (gguf.Has(key("rope.scaling.type")) && gguf.RequireString(key("rope.scaling.type")) != "none") {
    throw Error(StrCat(gguf.path(), ": rope.scaling.type '", Printable(gguf.RequireString(key("rope.scaling.type"))),
                       "' is not supported yet; expected none"));
  }
  const double base = gguf.Float(key("rope.freq_base")).value_or(10000.0);
  config.rope_sets = {PlainRope(config.head_dim, base)};
  config.layers.assign(config.num_layers, {.attention = {.scale = DefaultScale(config.head_dim)}});
  return config;
}

}  // namespace

RopeSet PlainRope(int head_dim, double base) {
  RopeSet set;
  set.name = "default";
  for (int i = 0; i < head_dim / 2; ++i) set.inv_freq.push_back(std::pow(base, -2.0 * i / head_dim));
  return set;
}

float DefaultScale(int head_dim) {
  return static_cast<float>(1 / std::sqrt(static_cast<double>(head_dim)));
}

const Architecture& FindArchitecture(const std::string& name, const std::string& place) {
  std::string known;
  for (const Architecture& architecture : kArchitectures) {
    if (architecture.name == name) return architecture;
    known += (known.empty() ? "" : ", ") + architecture.name;
  }
  throw Error(StrCat(place, ": architecture '", Printable(name), "' is not supported; expected one of: ", known));
}

std::unique_ptr<Model> LoadModel(const GgufFile& gguf) {
  auto model = std::make_unique<Model>();
  model->config = ReadConfig(gguf);
  ModelConfig& c = model->config;
  const Loader load(gguf, c);
  const GgufTensor* embedding = gguf.Find("token_embd.weight");
  if (!embedding || embedding->shape.size() != 2 || embedding->Rows() > (1 << 24)) {
    throw Error(StrCat(gguf.path(), ": tensor token_embd.weight is missing or has a strange shape; expected [",
                       c.hidden, ", vocabulary]"));
  }
  if (gguf.Find("rope_freqs.weight"))
    throw Error(StrCat(gguf.path(), ": rope_freqs.weight (scaled RoPE) is not supported yet"));
  c.vocab = static_cast<int>(embedding->Rows());
  model->embedding = load.Matrix("token_embd.weight", c.vocab, c.hidden);
  if (gguf.Find("output.weight")) model->output = load.Matrix("output.weight", c.vocab, c.hidden);
  model->output_norm = load.Vector("output_norm.weight", c.hidden);
  const int q_width = c.num_heads * c.head_dim, kv_width = c.num_kv_heads * c.head_dim;
  const RowOrder qk_order = c.architecture.interleaved_qk ? RowOrder::kUnpermuteHeads : RowOrder::kAsStored;
  for (int index = 0; index < c.num_layers; ++index) {
    const std::string prefix = StrCat("blk.", index, ".");
    LayerWeights layer;
    layer.attn_norm = load.Vector(prefix + "attn_norm.weight", c.hidden);
    layer.q = load.Matrix(prefix + "attn_q.weight", q_width, c.hidden, qk_order);
    layer.k = load.Matrix(prefix + "attn_k.weight", kv_width, c.hidden, qk_order);
    layer.v = load.Matrix(prefix + "attn_v.weight", kv_width, c.hidden);
    layer.attn_out = load.Matrix(prefix + "attn_output.weight", c.hidden, q_width);
    layer.ffn_norm = load.Vector(prefix + "ffn_norm.weight", c.hidden);
    layer.gate = load.Matrix(prefix + "ffn_gate.weight", c.ffn, c.hidden);
    layer.up = load.Matrix(prefix + "ffn_up.weight", c.ffn, c.hidden);
    layer.down = load.Matrix(prefix + "ffn_down.weight", c.hidden, c.ffn);
    model->layers.push_back(std::move(layer));
  }
  return model;
}

}  // namespace kvscope
