// SPDX-License-Identifier: Apache-2.0
// Text to tokens and back, as a GGUF file describes it. Special tokens are cut out first; the rest is tokenised by
// byte-level byte-pair encoding ("gpt2": Llama 3, Qwen, Mistral NeMo, SmolLM2 ...) or SentencePiece's ("llama": Llama
// 2, Mistral, Phi-3, Gemma). Ids equal those of llama.cpp, the reference. Every token stands for a range of the text's
// bytes; the ranges lie one after another without gaps, and spans are found by them, never by decoding.
//
// Byte-level: what decodes is what was encoded, Decode(Encode(text)) == text. SentencePiece vocabularies change the
// text by design, as their models were trained, and a token's piece then differs from the text of its range in three
// ways:
//   a dummy space stands before the text and behind special tokens where the vocabulary asks for one (Gemma does not):
//     the first piece has it, its range does not (the range is empty when the space is a token of its own);
//   a special token of Phi-3 also takes the white space behind it: the range has it, the piece does not;
//   U+2581, the sign by which these vocabularies write a space, comes back as a space.
// So a trace's pieces put together may show a space more than the text has; token ranges and spans stay exact.
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

// Token i stands for bytes [byte_offsets[i], byte_offsets[i + 1]) of the text: ids.size() + 1 numbers, first 0, last
// the text's size.
struct Encoding {
  std::vector<int> ids;
  std::vector<int64_t> byte_offsets;

  void Add(int id, size_t byte_begin) {
    ids.push_back(id);
    byte_offsets.push_back(static_cast<int64_t>(byte_begin));
  }
};

struct Vocabulary;

class Tokenizer {
 public:
  // Copies what it needs. Error when the vocabulary is of another kind, has a pre-tokenizer that is not known, or is
  // inconsistent.
  static Tokenizer FromGguf(const GgufFile& gguf);

  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  // No token is put before or after the text: where AddsBos(), a prompt begins with bos_id(), which is the caller's to
  // put (capture/task.h does); an end token before an answer would make no sense, so add_eos_token is not followed.
  // With parse_special, the texts of control tokens ("<|im_end|>") become those tokens; user-defined tokens always do.
  // Error with the byte offset when the text is not UTF-8 or holds a byte that this vocabulary has no token for (a few
  // control characters in some vocabularies; llama.cpp drops those silently). n bytes take O(n log n), however long the
  // words. Safe to call from several threads.
  std::vector<int> Encode(std::string_view text, bool parse_special) const;
  Encoding EncodeWithOffsets(std::string_view text, bool parse_special) const;
  // The same for a text that goes on where token `previous` ended: no dummy space unless that is a special token.
  std::vector<int> EncodeAfter(int previous, std::string_view text) const;

  std::string Decode(std::span<const int> ids) const;  // ids in [0, VocabSize())
  std::string_view Piece(int id) const;                // raw bytes, not always whole characters
  int VocabSize() const;

  bool IsSpecial(int id) const;  // control, user-defined or unknown
  std::optional<int> FindSpecial(std::string_view text) const;
  bool AddsBos() const;        // a text begins with bos_id(), which then is a token
  int bos_id() const;          // -1 when the model has none
  int eos_id() const;          // -1 when the model has none
  int end_of_turn_id() const;  // eos_id unless the model has another; -1 when neither
  bool IsEnd(int id) const;    // generation stops here: ends of text, turn and message by key or by their texts, and
                               // the tokens that pad or part files of code, as in llama.cpp

  const std::string& chat_template() const { return chat_template_; }  // as in the file, empty when it has none
  const std::string& path() const;                                     // of the model, for messages

 private:
  struct Joiner;

  Tokenizer();
  Encoding EncodeFrom(std::string_view text, bool parse_special, bool is_after_text) const;

  std::string chat_template_;
  std::unique_ptr<const Vocabulary> vocabulary_;  // the joiner refers to it
  std::unique_ptr<const Joiner> joiner_;
};

// Half-open range of the tokens that hold any of the bytes [byte_begin, byte_end); empty range for no bytes.
struct TokenRange {
  int64_t token_begin = 0;
  int64_t token_end = 0;
  friend bool operator==(const TokenRange&, const TokenRange&) = default;
};
TokenRange TokensCovering(std::span<const int64_t> byte_offsets, int64_t byte_begin, int64_t byte_end);

}  // namespace kvscope
