// SPDX-License-Identifier: Apache-2.0
#include "tests/support/capture_vocabularies.h"

#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

namespace kvscope {
namespace {

template <typename T>
std::string Raw(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof(T));
}

uint64_t CountAt(const std::string& file, size_t at) {
  uint64_t count = 0;
  std::memcpy(&count, file.data() + at, sizeof(count));
  return count;
}

}  // namespace

std::string VocabularyFolder() {
  const char* cache = std::getenv("KVSCOPE_CACHE");
  const std::string folder =
      (cache ? std::string(cache) : std::string(KVSCOPE_SOURCE_DIR "/traces/cache")) + "/llama-cpp-vocabularies-0.3.36";
  return std::filesystem::exists(folder) ? folder : "";
}

std::string ReadFileBytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::string ChangedMetadata(std::string file, const MetadataChanges& changes) {
  constexpr size_t kCountOfKeys = 16, kFirstKey = 24;
  for (const auto& [name, value] : changes) {
    const std::string key = "tokenizer.ggml." + name;
    const std::string stored = Raw(uint64_t{key.size()}) + key;
    const size_t at = file.find(stored);
    const size_t begin = at + stored.size() + 4;  // behind the type
    const std::string flag(1, value == "true" ? '\1' : '\0');
    if (value == "true" || value == "false") {
      if (at != std::string::npos) {
        file.replace(begin, 1, flag);
      } else {
        file.replace(kCountOfKeys, 8, Raw(CountAt(file, kCountOfKeys) + 1));
        file.insert(kFirstKey, stored + Raw(uint32_t{7}) + flag);
      }
    } else if (value == "falling") {
      const uint64_t count = CountAt(file, begin + 4);
      for (uint64_t i = 0; i < count; ++i) {
        const float score = -static_cast<float>(i);
        std::memcpy(file.data() + begin + 12 + 4 * i, &score, sizeof(score));
      }
    } else {
      file.replace(begin, 8 + CountAt(file, begin), Raw(uint64_t{value.size()}) + value);
    }
  }
  return file;
}

std::string CountAndHash(const std::vector<int>& ids) {
  uint32_t hash = 0x811C9DC5u;
  for (const int id : ids) {
    for (int byte = 0; byte < 4; ++byte) hash = (hash ^ (static_cast<uint32_t>(id) >> 8 * byte & 255u)) * 0x01000193u;
  }
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%zu:%08x", ids.size(), hash);
  return text.data();
}

std::string SpacesFromSigns(std::string_view text) {
  std::string plain;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool is_sign = text.compare(i, 3, "\xE2\x96\x81") == 0;
    plain += is_sign ? ' ' : text[i];
    if (is_sign) i += 2;
  }
  return plain;
}

std::string Unescaped(const std::string& text) {
  std::string plain;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\\') {
      plain += text[i];
    } else if (text.at(++i) == 'x') {
      plain += static_cast<char>(std::stoi(text.substr(i + 1, 2), nullptr, 16));
      i += 2;
    } else {
      plain += text[i] == 'n' ? '\n' : text[i] == 't' ? '\t' : '\\';
    }
  }
  return plain;
}

std::string PieceVocabularyBytes(const PieceVocabularyOptions& options) {
  std::vector<std::string> tokens = {"<unk>", "<s>", "</s>"};
  std::vector<int32_t> types = {2, 3, 3};
  for (int byte = 0; options.has_bytes && byte < 256; ++byte) {
    std::array<char, 8> text{};
    std::snprintf(text.data(), text.size(), "<0x%02X>", static_cast<unsigned>(byte));
    tokens.push_back(text.data());
    types.push_back(6);
  }
  std::string scores(tokens.size() * sizeof(float), '\0');
  for (const PieceToken& token : options.tokens) {
    tokens.push_back(token.text);
    types.push_back(token.type);
    scores += Raw(token.score);
  }
  GgufBuilder file;
  file.AddString("general.name", options.name);
  file.AddString("tokenizer.ggml.model", "llama");
  file.AddStrings("tokenizer.ggml.tokens", tokens);
  file.AddInts("tokenizer.ggml.token_type", types);
  file.AddRaw("tokenizer.ggml.scores", 9, Raw(uint32_t{6}) + Raw(uint64_t{tokens.size()}) + scores);
  file.AddBool("tokenizer.ggml.add_space_prefix", options.adds_space);
  file.AddBool("tokenizer.ggml.add_bos_token", options.adds_bos);
  file.AddString("tokenizer.chat_template", options.chat_template);
  return file.Bytes();
}

std::vector<PieceToken> SomePieces() {
  std::vector<PieceToken> tokens;
  float score = -100;
  for (const char* word : {"▁t", "▁th", "▁the", "he", "in", "ing", "▁a", "and", "an",  "▁and", "▁▁", "▁▁▁▁", "er",
                           "▁S", "▁Th", "▁The", "ed", "re", "on",  "▁o", "▁of", "▁is", "is",   "ll", "or",   "or▁"}) {
    tokens.push_back({word, score -= 1});
  }
  for (char c = '!'; c <= '~'; ++c) tokens.push_back({std::string(1, c), -1000});
  tokens.push_back({"▁", -1000});
  tokens.push_back({"é", -1000});
  return tokens;
}

}  // namespace kvscope
