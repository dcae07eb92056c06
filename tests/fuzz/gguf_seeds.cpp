// SPDX-License-Identifier: Apache-2.0
// links: kvscope_capture_lib
// Writes starting points for gguf_fuzz, tokenizer_fuzz and model_fuzz into FOLDER/gguf, FOLDER/tokenizer, FOLDER/model.
#include <filesystem>
#include <fstream>
#include <string>

#include "capture/architecture.h"
#include "tests/support/capture_tiny_gguf.h"
#include "tests/support/capture_vocabularies.h"

namespace kvscope {
namespace {

void Write(const std::filesystem::path& path, const std::string& bytes) {
  std::filesystem::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

void WriteAll(const std::filesystem::path& folder) {
  const TinyGgufOptions small{
      .layers = 0, .heads = 1, .kv_heads = 1, .head_dim = 32, .embedding_type = GgufType::kQ4_0};
  Write(folder / "tokenizer" / "vocabulary", TinyGgufBytes(small));
  TinyGgufOptions modern = small;
  for (const char* pre_tokenizer : {"llama-bpe", "qwen2", "tekken", "gpt-4o"}) {
    modern.pre_tokenizer = pre_tokenizer;
    Write(folder / "tokenizer" / pre_tokenizer, TinyGgufBytes(modern));
  }
  Write(folder / "tokenizer" / "pieces", PieceVocabularyBytes({.tokens = SomePieces(), .name = "phi-3"}));
  Write(folder / "tokenizer" / "few_pieces",
        PieceVocabularyBytes({.tokens = {{"▁", -2}, {"a", -2}, {"▁a", -1}, {"aa", -1}, {"▁▁", 0, 4}, {"<|end|>", 0}},
                              .has_bytes = false,
                              .adds_space = false,
                              .chat_template = "{{ bos_token }}<start_of_turn>"}));
  for (const Architecture& family : Architectures()) Write(folder / "model" / family.name, SmallestModel(family));
  int number = 0;
  for (const char* text :
       {"", "the 42 things\n\n  it's", "<|im_start|>user\nhi<|im_end|>", "\xC3\xA9\xE6\xBC\xA2\xF0\x9F\x98\x80",
        " \t\r\n\xC2\xA0\xE2\x80\xA8 x", "\xED\xA0\x80", "ABC's'll 1\xC2\xBD\xD9\xA3"}) {
    Write(folder / "tokenizer" / ("text" + std::to_string(number++)), text);
  }
  for (const GgufType type : ReadableGgufTypes()) {
    GgufBuilder file(type == GgufType::kF16 ? 2 : 3);
    file.AddString("text", "hello");
    file.AddStrings("texts", {"a", "bb"});
    file.AddInts("ints", {1, 2});
    file.AddFloat("float", 0.5f);
    file.AddInt("general.alignment", 32);
    file.AddTensor("a", type, {256, 2}, std::string(static_cast<size_t>(2 * GgufRowBytes(type, 256)), '\x11'));
    file.AddTensor("b", static_cast<GgufType>(23), {256}, std::string(136, '\x22'));
    Write(folder / "gguf" / GgufTypeName(type), file.Bytes());
    const std::vector<std::string> parts = file.Parts(2);
    Write(folder / "gguf" / (GgufTypeName(type) + "_split"), parts[0] + parts[1]);
  }
}

}  // namespace
}  // namespace kvscope

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  kvscope::WriteAll(argv[1]);
}
