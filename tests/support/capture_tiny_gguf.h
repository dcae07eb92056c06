// SPDX-License-Identifier: Apache-2.0
// Builds GGUF files in memory: any file piece by piece, or a whole tiny llama with random weights and a vocabulary.
#pragma once

#include <cstdint>
#include <ostream>
#include <string>
#include <string_view>
#include <vector>

#include "capture/gguf.h"

namespace kvscope {

inline void PrintTo(GgufType type, std::ostream* out) {
  *out << GgufTypeName(type);
}

// Writes a GGUF file in the order of the calls; checks nothing, so that tests can build wrong files too.
class GgufBuilder {
 public:
  explicit GgufBuilder(uint32_t version = 3, uint64_t alignment = 32) : version_(version), alignment_(alignment) {}

  void AddInt(std::string_view key, uint32_t value);
  void AddFloat(std::string_view key, float value);
  void AddBool(std::string_view key, bool value);
  void AddString(std::string_view key, std::string_view value);
  void AddStrings(std::string_view key, const std::vector<std::string>& values);
  void AddInts(std::string_view key, const std::vector<int32_t>& values);
  void AddBools(std::string_view key, const std::vector<bool>& values);
  void AddRaw(std::string_view key, uint32_t type, std::string_view value);  // any type, any bytes
  void AddTensor(std::string_view name, GgufType type, const std::vector<uint64_t>& shape, std::string data);
  void AddTensorAt(std::string_view name, GgufType type, const std::vector<uint64_t>& shape, uint64_t offset);

  // The keys of one part of a split model; number from 0.
  void AddSplit(int number, int count, int num_tensors);

  std::string Bytes() const;
  // The same model split: keys in the first part, tensors evenly in order, those keys in each.
  std::vector<std::string> Parts(int count) const;

 private:
  struct Tensor {
    std::string head, data;  // name, extents and type as in the file
    uint64_t offset = 0;
  };
  uint32_t version_;
  uint64_t alignment_;
  uint64_t num_keys_ = 0;
  std::string keys_;
  std::vector<Tensor> tensors_;
  uint64_t data_bytes_ = 0;
};

struct TinyGgufOptions {
  int layers = 2;
  int heads = 4;
  int kv_heads = 2;
  int head_dim = 8;
  int ffn = 64;
  int vocab = 288;  // at least 259: three special tokens and every byte; merges and unused tokens fill the rest
  int context = 128;
  float rope_base = 10000.0f;
  float rms_epsilon = 1e-5f;
  bool tied_embeddings = true;  // false: an output.weight of its own
  GgufType matrix_type = GgufType::kF32;
  GgufType embedding_type = GgufType::kF32;
  std::string architecture = "llama";  // its family's tensors are there
  std::string pre_tokenizer = "smollm";
  std::string chat_template = "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}";
  uint32_t version = 3;
  uint32_t seed = 1;
  int experts = 0;             // of which two are used; at least 3, or 0: none
  int sliding_window = 0;      // of every layer, tokens; 0: none
  std::string extra_tensor{};  // one of 16 floats that no model has
};

// A complete model: token embeddings, `layers` blocks, output norm. Embedding length is heads * head_dim. Weights are
// of variance 1 / columns, norms near 1. Block types need columns that are a multiple of their block, 32 or 256.
std::string TinyGgufBytes(const TinyGgufOptions& options = {});
GgufBuilder TinyGguf(const TinyGgufOptions& options = {});

// Token ids in every tiny vocabulary.
inline constexpr int kTinyEndOfText = 0, kTinyImStart = 1, kTinyImEnd = 2, kTinyFirstByte = 3;

// Writes `bytes` to a new file in the test's temporary folder and returns its path.
std::string WriteTempFile(const std::string& name, std::string_view bytes);

// The default model: environment variable KVSCOPE_MODEL, else where traces/fetch_model puts it. Empty when absent;
// tests that need it then skip.
std::string RealModelPath();

}  // namespace kvscope
