// SPDX-License-Identifier: Apache-2.0
#include "tests/support/capture_tiny_gguf.h"

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>

#include "capture/architecture.h"
#include "core/half.h"
#include "kernels/bf16.h"

namespace kvscope {
namespace {

template <typename T>
std::string Raw(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof(T));
}

std::string RawText(std::string_view text) {
  return Raw(uint64_t{text.size()}) + std::string(text);
}

// The printable character that stands for a byte in a byte-level vocabulary.
std::string CharacterFromByte(int byte) {
  int code = byte;
  const auto stands_for_itself = [](int b) { return (b >= 33 && b <= 126) || (b >= 161 && b <= 255 && b != 173); };
  if (!stands_for_itself(byte)) {
    code = 256;
    for (int b = 0; b < byte; ++b) code += stands_for_itself(b) ? 0 : 1;
  }
  if (code < 128) return std::string(1, static_cast<char>(code));
  return {static_cast<char>(0xC0 | code >> 6), static_cast<char>(0x80 | (code & 63))};
}

class WeightMaker {
 public:
  explicit WeightMaker(uint32_t seed) : random_(seed) {}

  // `count` weights uniform in [-limit, limit], or about as wide, in the bytes of the type.
  std::string Uniform(GgufType type, int64_t count, float limit) {
    std::string bytes;
    if (!FormatOf(type)) {
      for (int64_t i = 0; i < count; ++i) {
        const float value = limit * (2 * Unit() - 1);
        bytes += type == GgufType::kF32   ? Raw(value)
                 : type == GgufType::kF16 ? Raw(HalfFromFloat(value).bits)
                                          : Raw(Bf16FromFloat(value));
      }
      return bytes;
    }
    for (const HalvesOf& halves : kHalves)
      if (halves.type == type) return RandomBlocks(halves, count, limit);
    const bool has_minimum = type == GgufType::kQ4_1;
    const int quant_bytes = type == GgufType::kQ8_0 ? 32 : 16;
    const float step = type == GgufType::kQ8_0 ? limit / 128 : limit * 2 / 15;
    for (int64_t block = 0; block < count / 32; ++block) {
      bytes += Raw(HalfFromFloat(step * (0.75f + 0.5f * Unit())).bits);
      if (has_minimum) bytes += Raw(HalfFromFloat(-limit).bits);
      for (int i = 0; i < quant_bytes; ++i) bytes += static_cast<char>(random_() & 255);
    }
    return bytes;
  }

  std::string Norm(int64_t count) {
    std::string bytes;
    for (int64_t i = 0; i < count; ++i) bytes += Raw(0.9f + 0.2f * Unit());
    return bytes;
  }

 private:
  // Where a type's scale and minimum lie in a block, in bytes (-1: no minimum), and the minimum for which codes and
  // factors drawn at random have the mean 0, in units of the scale.
  struct HalvesOf {
    GgufType type;
    int scale_at, minimum_at;
    float minimum;
  };
  static constexpr HalvesOf kHalves[] = {
      {GgufType::kQ5_0, 0, -1, 0},   {GgufType::kQ5_1, 0, 2, -15.5f}, {GgufType::kQ2_K, 80, 82, 1.5f},
      {GgufType::kQ3_K, 108, -1, 0}, {GgufType::kQ4_K, 0, 2, 7.5f},   {GgufType::kQ5_K, 0, 2, 15.5f},
      {GgufType::kQ6_K, 208, -1, 0}, {GgufType::kIQ4_NL, 0, -1, 0},
  };

  std::string RandomBlocks(const HalvesOf& halves, int64_t count, float limit) {
    std::vector<float> weights(GgufBlockElements(halves.type));
    std::string bytes, block(GgufRowBytes(halves.type, static_cast<int64_t>(weights.size())), 0);
    const auto set_scale = [&](float scale) {
      const Half values[] = {HalfFromFloat(scale), HalfFromFloat(scale * halves.minimum)};
      std::memcpy(&block[halves.scale_at], &values[0], sizeof(Half));
      if (halves.minimum_at >= 0) std::memcpy(&block[halves.minimum_at], &values[1], sizeof(Half));
    };
    for (int64_t i = 0; i < count; i += static_cast<int64_t>(weights.size())) {
      for (char& byte : block) byte = static_cast<char>(random_() & 255);
      set_scale(1);
      DequantizeRow(halves.type, reinterpret_cast<const std::byte*>(block.data()), weights);
      double squares = 0;
      for (const float weight : weights) squares += weight * weight;
      const double width = std::sqrt(squares / static_cast<double>(weights.size()));
      set_scale(static_cast<float>(limit / std::sqrt(3.0) / width) * (0.75f + 0.5f * Unit()));
      bytes += block;
    }
    return bytes;
  }

  float Unit() { return static_cast<float>(random_() >> 8) / 16777216.0f; }  // [0, 1), equal on every platform
  std::mt19937 random_;
};

void AddVocabulary(const TinyGgufOptions& options, GgufBuilder* file) {
  std::vector<std::string> tokens = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
  std::vector<int32_t> types = {3, 3, 3};
  for (int byte = 0; byte < 256; ++byte) tokens.push_back(CharacterFromByte(byte));
  std::vector<std::string> merges;
  const std::string space = CharacterFromByte(' ');
  const std::pair<std::string, std::string> wanted[] = {
      {space, "t"}, {"h", "e"},          {"i", "n"},     {space + "t", "he"},
      {"r", "e"},   {"o", "n"},          {"e", "r"},     {space, "a"},
      {"in", "g"},  {"n", "d"},          {space, "s"},   {"a", "t"},
      {"l", "l"},   {space + "a", "nd"}, {space, space}, {space + space, space + space}};
  for (const auto& [left, right] : wanted) {
    if (static_cast<int>(tokens.size()) >= options.vocab) break;
    merges.push_back(left + " " + right);
    tokens.push_back(left + right);
  }
  types.resize(tokens.size(), 1);
  while (static_cast<int>(tokens.size()) < options.vocab) {
    tokens.push_back("<unused_" + std::to_string(tokens.size()) + ">");
    types.push_back(5);
  }
  file->AddString("tokenizer.ggml.model", "gpt2");
  file->AddString("tokenizer.ggml.pre", options.pre_tokenizer);
  file->AddStrings("tokenizer.ggml.tokens", tokens);
  file->AddInts("tokenizer.ggml.token_type", types);
  file->AddStrings("tokenizer.ggml.merges", merges);
  file->AddInt("tokenizer.ggml.bos_token_id", kTinyImStart);
  file->AddInt("tokenizer.ggml.eos_token_id", kTinyImEnd);
  file->AddInt("tokenizer.ggml.unknown_token_id", kTinyEndOfText);
  file->AddBool("tokenizer.ggml.add_bos_token", false);
  file->AddString("tokenizer.chat_template", options.chat_template);
}

// One that is not in the table has a llama's tensors.
Architecture FamilyOf(const std::string& name) {
  for (const Architecture& family : Architectures()) {
    if (family.name == name) return family;
  }
  return {};
}

}  // namespace

void GgufBuilder::AddRaw(std::string_view key, uint32_t type, std::string_view value) {
  keys_ += RawText(key) + Raw(type) + std::string(value);
  ++num_keys_;
}
void GgufBuilder::AddInt(std::string_view key, uint32_t value) {
  AddRaw(key, 4, Raw(value));
}
void GgufBuilder::AddFloat(std::string_view key, float value) {
  AddRaw(key, 6, Raw(value));
}
void GgufBuilder::AddBool(std::string_view key, bool value) {
  AddRaw(key, 7, Raw(uint8_t{value}));
}
void GgufBuilder::AddString(std::string_view key, std::string_view value) {
  AddRaw(key, 8, RawText(value));
}

void GgufBuilder::AddStrings(std::string_view key, const std::vector<std::string>& values) {
  std::string array = Raw(uint32_t{8}) + Raw(uint64_t{values.size()});
  for (const std::string& value : values) array += RawText(value);
  AddRaw(key, 9, array);
}

void GgufBuilder::AddInts(std::string_view key, const std::vector<int32_t>& values) {
  std::string array = Raw(uint32_t{5}) + Raw(uint64_t{values.size()});
  for (const int32_t value : values) array += Raw(value);
  AddRaw(key, 9, array);
}

void GgufBuilder::AddBools(std::string_view key, const std::vector<bool>& values) {
  std::string array = Raw(uint32_t{7}) + Raw(uint64_t{values.size()});
  for (const bool value : values) array += Raw(value);
  AddRaw(key, 9, array);
}

void GgufBuilder::AddTensorAt(std::string_view name, GgufType type, const std::vector<uint64_t>& shape,
                              uint64_t offset) {
  Tensor tensor;
  tensor.head = RawText(name) + Raw(static_cast<uint32_t>(shape.size()));
  for (const uint64_t extent : shape) tensor.head += Raw(extent);
  tensor.head += Raw(static_cast<uint32_t>(type));
  tensor.offset = offset;
  tensors_.push_back(std::move(tensor));
}

void GgufBuilder::AddTensor(std::string_view name, GgufType type, const std::vector<uint64_t>& shape,
                            std::string data) {
  AddTensorAt(name, type, shape, data_bytes_);
  data.resize((data.size() + alignment_ - 1) / alignment_ * alignment_);
  data_bytes_ += data.size();
  tensors_.back().data = std::move(data);
}

void GgufBuilder::AddSplit(int number, int count, int num_tensors) {
  AddRaw("split.no", 2, Raw(static_cast<uint16_t>(number)));
  AddRaw("split.count", 2, Raw(static_cast<uint16_t>(count)));
  AddRaw("split.tensors.count", 5, Raw(static_cast<int32_t>(num_tensors)));
}

std::string GgufBuilder::Bytes() const {
  std::string bytes = "GGUF" + Raw(version_) + Raw(uint64_t{tensors_.size()}) + Raw(num_keys_) + keys_;
  for (const Tensor& tensor : tensors_) bytes += tensor.head + Raw(tensor.offset);
  bytes.resize((bytes.size() + alignment_ - 1) / alignment_ * alignment_);
  for (const Tensor& tensor : tensors_) bytes += tensor.data;
  return bytes;
}

std::vector<std::string> GgufBuilder::Parts(int count) const {
  std::vector<std::string> parts;
  const int num_tensors = static_cast<int>(tensors_.size());
  for (int number = 0; number < count; ++number) {
    GgufBuilder part(version_, alignment_);
    if (number == 0) {
      part.keys_ = keys_;
      part.num_keys_ = num_keys_;
    }
    part.AddSplit(number, count, num_tensors);
    for (int i = num_tensors * number / count; i < num_tensors * (number + 1) / count; ++i) {
      part.tensors_.push_back(tensors_[i]);
      part.tensors_.back().offset = part.data_bytes_;
      part.data_bytes_ += tensors_[i].data.size();
    }
    parts.push_back(part.Bytes());
  }
  return parts;
}

std::string TinyGgufBytes(const TinyGgufOptions& options) {
  return TinyGguf(options).Bytes();
}

GgufBuilder TinyGguf(const TinyGgufOptions& options) {
  GgufBuilder file(options.version);
  WeightMaker weights(options.seed);
  const uint64_t embedding = static_cast<uint64_t>(options.heads) * options.head_dim;
  const uint64_t kv_width = static_cast<uint64_t>(options.kv_heads) * options.head_dim;
  const uint64_t ffn = options.ffn;
  const uint64_t vocab = options.vocab;
  const std::string& a = options.architecture;
  file.AddString("general.architecture", a);
  file.AddString("general.name", "tiny " + a);
  file.AddInt(a + ".block_count", options.layers);
  file.AddInt(a + ".context_length", options.context);
  file.AddInt(a + ".embedding_length", static_cast<uint32_t>(embedding));
  file.AddInt(a + ".feed_forward_length", options.ffn);
  file.AddInt(a + ".attention.head_count", options.heads);
  file.AddInt(a + ".attention.head_count_kv", options.kv_heads);
  file.AddFloat(a + ".attention.layer_norm_rms_epsilon", options.rms_epsilon);
  file.AddFloat(a + ".rope.freq_base", options.rope_base);
  file.AddInt(a + ".rope.dimension_count", options.head_dim);
  file.AddInt(a + ".vocab_size", options.vocab);
  if (options.experts > 0) {
    file.AddInt(a + ".expert_count", options.experts);
    file.AddInt(a + ".expert_used_count", 2);
  }
  if (options.sliding_window > 0) file.AddInt(a + ".attention.sliding_window", options.sliding_window);
  AddVocabulary(options, &file);

  const auto add_matrix = [&](const std::string& name, GgufType type, uint64_t cols, uint64_t rows,
                              uint64_t matrices = 1) {
    const float limit = std::sqrt(3.0f / static_cast<float>(cols));
    std::vector<uint64_t> shape{cols, rows};
    if (matrices > 1) shape.push_back(matrices);
    file.AddTensor(name, type, shape, weights.Uniform(type, static_cast<int64_t>(cols * rows * matrices), limit));
  };
  const auto add_norm = [&](const std::string& name, uint64_t size) {
    file.AddTensor(name, GgufType::kF32, {size}, weights.Norm(static_cast<int64_t>(size)));
  };
  const auto add_bias = [&](const std::string& name, uint64_t size) {
    file.AddTensor(name, GgufType::kF32, {size}, weights.Uniform(GgufType::kF32, static_cast<int64_t>(size), 0.5f));
  };
  const Architecture family = FamilyOf(a);
  const GgufType matrix = options.matrix_type;
  add_matrix("token_embd.weight", options.embedding_type, embedding, vocab);
  for (int layer = 0; layer < options.layers; ++layer) {
    const std::string block = "blk." + std::to_string(layer) + ".";
    add_norm(block + "attn_norm.weight", embedding);
    if (family.has_fused_weights) {
      add_matrix(block + "attn_qkv.weight", matrix, embedding, embedding + 2 * kv_width);
    } else {
      add_matrix(block + "attn_q.weight", matrix, embedding, embedding);
      add_matrix(block + "attn_k.weight", matrix, embedding, kv_width);
      add_matrix(block + "attn_v.weight", matrix, embedding, kv_width);
    }
    if (family.has_qkv_bias) {
      add_bias(block + "attn_q.bias", embedding);
      add_bias(block + "attn_k.bias", kv_width);
      add_bias(block + "attn_v.bias", kv_width);
    }
    if (family.has_qk_norm) {
      add_norm(block + "attn_q_norm.weight", options.head_dim);
      add_norm(block + "attn_k_norm.weight", options.head_dim);
    }
    add_matrix(block + "attn_output.weight", matrix, embedding, embedding);
    add_norm(block + "ffn_norm.weight", embedding);
    if (family.has_post_norms) {
      add_norm(block + "post_attention_norm.weight", embedding);
      add_norm(block + "post_ffw_norm.weight", embedding);
    }
    if (options.experts > 0) {
      add_matrix(block + "ffn_gate_inp.weight", GgufType::kF32, embedding, options.experts);
      add_matrix(block + "ffn_gate_exps.weight", matrix, embedding, ffn, options.experts);
      add_matrix(block + "ffn_up_exps.weight", matrix, embedding, ffn, options.experts);
      add_matrix(block + "ffn_down_exps.weight", matrix, ffn, embedding, options.experts);
      continue;
    }
    if (!family.has_fused_weights) add_matrix(block + "ffn_gate.weight", matrix, embedding, ffn);
    add_matrix(block + "ffn_up.weight", matrix, embedding, family.has_fused_weights ? 2 * ffn : ffn);
    add_matrix(block + "ffn_down.weight", matrix, ffn, embedding);
  }
  add_norm("output_norm.weight", embedding);
  if (!options.tied_embeddings) add_matrix("output.weight", options.matrix_type, embedding, vocab);
  if (!options.extra_tensor.empty()) file.AddTensor(options.extra_tensor, GgufType::kF32, {16}, std::string(64, '\0'));
  return file;
}

std::string WriteTempFile(const std::string& name, std::string_view bytes) {
  const std::string path = (std::filesystem::temp_directory_path() / ("kvscope_" + name)).string();
  std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  return path;
}

std::string RealModelPath() {
  const char* given = std::getenv("KVSCOPE_MODEL");
  const char* cache = std::getenv("KVSCOPE_CACHE");
  const std::string path = given   ? given
                           : cache ? std::string(cache) + "/SmolLM2-135M-Instruct.Q4_1.gguf"
                                   : KVSCOPE_SOURCE_DIR "/traces/cache/SmolLM2-135M-Instruct.Q4_1.gguf";
  return std::filesystem::exists(path) ? path : "";
}

}  // namespace kvscope
