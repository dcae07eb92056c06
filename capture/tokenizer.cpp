// SPDX-License-Identifier: Apache-2.0
#include "capture/tokenizer.h"

#include <algorithm>
#include <optional>

#include "capture/gguf.h"
#include "capture/tokenizer_bpe.h"
#include "capture/tokenizer_spm.h"
#include "capture/tokenizer_vocabulary.h"
#include "core/error.h"

namespace kvscope {

// One of the two.
struct Tokenizer::Joiner {
  std::optional<BytePairJoiner> pairs;
  std::optional<SentencePieceJoiner> sentence;
};

Tokenizer::Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Tokenizer Tokenizer::FromGguf(const GgufFile& gguf) {
  Tokenizer tokenizer;
  tokenizer.vocabulary_ = std::make_unique<const Vocabulary>(ReadVocabulary(gguf));
  const Vocabulary& vocabulary = *tokenizer.vocabulary_;
  auto joiner = std::make_unique<Joiner>();
  if (vocabulary.is_sentence_piece) {
    joiner->sentence.emplace(gguf, vocabulary);
  } else {
    joiner->pairs.emplace(gguf, vocabulary);
  }
  tokenizer.joiner_ = std::move(joiner);
  tokenizer.chat_template_ = gguf.String("tokenizer.chat_template").value_or("");
  return tokenizer;
}

const std::string& Tokenizer::path() const {
  return vocabulary_->path;
}
int Tokenizer::VocabSize() const {
  return vocabulary_->size();
}
bool Tokenizer::AddsBos() const {
  return vocabulary_->adds_bos;
}
int Tokenizer::bos_id() const {
  return vocabulary_->bos_id;
}
int Tokenizer::eos_id() const {
  return vocabulary_->eos_id;
}
int Tokenizer::end_of_turn_id() const {
  return vocabulary_->end_of_turn_id;
}

std::string_view Tokenizer::Piece(int id) const {
  KVSCOPE_CHECK_LE(0, id);
  KVSCOPE_CHECK_LT(id, VocabSize());
  return vocabulary_->Piece(id);
}

std::string Tokenizer::Decode(std::span<const int> ids) const {
  std::string text;
  for (const int id : ids) text += Piece(id);
  return text;
}

bool Tokenizer::IsSpecial(int id) const {
  return id >= 0 && id < VocabSize() && vocabulary_->is_special[static_cast<size_t>(id)];
}
bool Tokenizer::IsEnd(int id) const {
  return id >= 0 && id < VocabSize() && vocabulary_->is_end[static_cast<size_t>(id)];
}

std::optional<int> Tokenizer::FindSpecial(std::string_view text) const {
  return vocabulary_->specials.Find(text);
}

std::vector<int> Tokenizer::Encode(std::string_view text, bool parse_special) const {
  return EncodeFrom(text, parse_special, /*is_after_text=*/false).ids;
}
Encoding Tokenizer::EncodeWithOffsets(std::string_view text, bool parse_special) const {
  return EncodeFrom(text, parse_special, /*is_after_text=*/false);
}
std::vector<int> Tokenizer::EncodeAfter(int previous, std::string_view text) const {
  return EncodeFrom(text, /*parse_special=*/false, !IsSpecial(previous)).ids;
}

Encoding Tokenizer::EncodeFrom(std::string_view text, bool parse_special, bool is_after_text) const {
  ValidateUtf8(text, "text");
  if (text.size() > size_t{1} << 30) {
    throw Error(StrCat("text: expected at most 1 GiB, found ", text.size(), " bytes; encode it in parts"));
  }
  Encoding encoding;
  encoding.ids.reserve(text.size() / 3 + 1);
  std::optional<BytePairJoiner::Scratch> scratch;
  if (joiner_->pairs) scratch.emplace(*joiner_->pairs);
  for (const SpecialTokens::Part& part : vocabulary_->specials.Cut(text, parse_special)) {
    const std::string_view plain = text.substr(part.begin, part.end - part.begin);
    if (part.id >= 0) {
      encoding.Add(part.id, part.begin);
    } else if (joiner_->pairs) {
      joiner_->pairs->Encode(plain, part.begin, &*scratch, &encoding);
    } else {
      joiner_->sentence->Encode(plain, part.begin, vocabulary_->adds_space && !is_after_text, &encoding);
    }
    is_after_text = part.id < 0;
  }
  encoding.byte_offsets.push_back(static_cast<int64_t>(text.size()));
  return encoding;
}

void ValidateUtf8(std::string_view text, std::string_view place) {
  const auto* bytes = reinterpret_cast<const unsigned char*>(text.data());
  const size_t size = text.size();
  for (size_t i = 0; i < size;) {
    const unsigned char first = bytes[i];
    if (first < 0x80) {
      ++i;
      continue;
    }
    const size_t length = first < 0xC2 ? 0 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : first < 0xF5 ? 4 : 0;
    // The second byte's range excludes overlong forms, surrogates and what lies above U+10FFFF.
    const unsigned char low = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
    const unsigned char high = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
    bool is_valid = length > 0 && length <= size - i && bytes[i + 1] >= low && bytes[i + 1] <= high;
    for (size_t k = 2; is_valid && k < length; ++k) is_valid = (bytes[i + k] & 0xC0) == 0x80;
    if (!is_valid) {
      throw Error(StrCat(place, ": expected UTF-8 text, found ", Printable(text.substr(i, 1)), " at byte ", i,
                         "; convert the text to UTF-8, for example with iconv"));
    }
    i += length;
  }
}

TokenRange TokensCovering(std::span<const int64_t> byte_offsets, int64_t byte_begin, int64_t byte_end) {
  KVSCOPE_CHECK(!byte_offsets.empty());
  KVSCOPE_CHECK_LE(0, byte_begin);
  KVSCOPE_CHECK_LE(byte_begin, byte_end);
  KVSCOPE_CHECK_LE(byte_end, byte_offsets.back());
  // The first token: the last one that begins at or before byte_begin. The end: the first that begins at or after the
  // end.
  const auto first =
      std::upper_bound(byte_offsets.begin(), byte_offsets.end() - 1, byte_begin) - byte_offsets.begin() - 1;
  const auto end = std::lower_bound(byte_offsets.begin(), byte_offsets.end(), byte_end) - byte_offsets.begin();
  const int64_t token_begin = std::max<int64_t>(first, 0);
  return {token_begin, byte_begin == byte_end ? token_begin : end};
}

}  // namespace kvscope
