// SPDX-License-Identifier: Apache-2.0
// Byte-level byte-pair encoding as a GGUF file describes it, in four steps: cut out special tokens; cut the rest into
// words with the model's pre-tokenizer; make every byte of a word a token; join the neighbours with the lowest merge
// rank until none can be joined (Sennrich et al. 2016, arXiv:1508.07909). Ids equal those of llama.cpp, the reference.
// What decodes is what was encoded: Decode(Encode(text)) == text, or Encode refused the text.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace kvscope {

class GgufFile;

// Error naming `place` and the byte offset of the first byte that is not valid UTF-8 (overlong forms, surrogates and
// values above U+10FFFF are not).
void ValidateUtf8(std::string_view text, std::string_view place);

class Tokenizer {
 public:
  // Copies what it needs. Error when the vocabulary is not byte-level BPE with a known pre-tokenizer, or inconsistent.
  static Tokenizer FromGguf(const GgufFile& gguf);

  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  // Nothing is put before or after the text. With parse_special, the texts of control tokens ("<|im_end|>") become
  // those tokens; user-defined tokens always do. Error with the byte offset when the text is not UTF-8 or holds a byte
  // that this vocabulary has no token for (a few control characters in some vocabularies; llama.cpp drops those
  // silently). n bytes take O(n log n), however long the words. Safe to call from several threads.
  std::vector<int> Encode(std::string_view text, bool parse_special) const;

  std::string Decode(std::span<const int> ids) const;  // ids in [0, VocabSize())
  std::string_view Piece(int id) const;                // raw bytes, not always whole characters
  int VocabSize() const;

  bool IsSpecial(int id) const;  // control or user-defined
  std::optional<int> FindSpecial(std::string_view text) const;
  int bos_id() const { return bos_id_; }                  // -1 when the model names none
  int eos_id() const { return eos_id_; }                  // -1 when the model names none
  int end_of_turn_id() const { return end_of_turn_id_; }  // eos_id unless the model names another; -1 when neither
  bool IsEnd(int id) const;                               // generation stops here: eos, end of turn, end of text

  const std::string& chat_template() const { return chat_template_; }  // as in the file, empty when it has none
  const std::string& path() const { return path_; }                    // of the model, for messages

 private:
  struct Vocabulary;
  struct Splitter;
  struct Scratch;

  Tokenizer();
  void EncodePlain(std::string_view text, Scratch* scratch, std::vector<int>* ids) const;
  void EncodeWord(std::string_view word, Scratch* scratch, std::vector<int>* ids) const;

  std::string path_;
  std::string chat_template_;
  int bos_id_ = -1;
  int eos_id_ = -1;
  int end_of_turn_id_ = -1;
  std::unique_ptr<Vocabulary> vocabulary_;
  std::unique_ptr<Splitter> splitter_;
};

// Byte offset of every token in Decode(ids), and the total at the end: ids.size() + 1 numbers.
std::vector<int64_t> ByteOffsets(const Tokenizer& tokenizer, std::span<const int> ids);

// Half-open range of the tokens that hold any of the bytes [byte_begin, byte_end); empty range for no bytes.
struct TokenRange {
  int64_t token_begin = 0;
  int64_t token_end = 0;
  friend bool operator==(const TokenRange&, const TokenRange&) = default;
};
TokenRange TokensCovering(std::span<const int64_t> byte_offsets, int64_t byte_begin, int64_t byte_end);

}  // namespace kvscope
