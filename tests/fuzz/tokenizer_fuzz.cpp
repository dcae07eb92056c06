// SPDX-License-Identifier: Apache-2.0
// links: kvscope_capture_lib
// Two inputs in one. Bytes that begin with "GGUF" are a model file: its vocabulary is refused or encodes and decodes.
// Other bytes are a text for tiny vocabularies that have a token for every byte, byte-level BPE and SentencePiece with
// a dummy space: it is refused as not UTF-8, or every token stands for the bytes it should, also as a chat turn.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "capture/chat_template.h"
#include "capture/gguf.h"
#include "capture/tokenizer.h"
#include "core/error.h"
#include "tests/support/capture_tiny_gguf.h"
#include "tests/support/capture_vocabularies.h"

namespace kvscope {
namespace {

void Require(bool condition) {
  if (!condition) std::abort();
}

// Ranges follow each other over the whole text, and a token's piece is its range's text but for what
// capture/tokenizer.h says.
void CheckRanges(const Tokenizer& tokenizer, std::string_view text, const std::vector<int>& ids,
                 const std::vector<int64_t>& offsets) {
  Require(offsets.size() == ids.size() + 1 && offsets.front() == 0);
  Require(offsets.back() == static_cast<int64_t>(text.size()));
  for (size_t i = 0; i < ids.size(); ++i) {
    Require(offsets[i] <= offsets[i + 1]);
    const auto begin = static_cast<size_t>(offsets[i]);
    const std::string range = SpacesFromSigns(text.substr(begin, static_cast<size_t>(offsets[i + 1]) - begin));
    const std::string piece = SpacesFromSigns(tokenizer.Piece(ids[i]));
    const bool may_begin = i == 0 || tokenizer.IsSpecial(ids[i - 1]);
    const bool strips = tokenizer.IsSpecial(ids[i]) && range.starts_with(piece) &&
                        range.find_first_not_of(" \t\n\v\f\r", piece.size()) == std::string::npos;
    Require(range == piece || (may_begin && " " + range == piece) || strips);
  }
}

void CheckText(const Tokenizer& tokenizer, std::string_view text) {
  for (const bool parse_special : {false, true}) {
    const Encoding encoding = tokenizer.EncodeWithOffsets(text, parse_special);
    CheckRanges(tokenizer, text, encoding.ids, encoding.byte_offsets);
    const auto middle = static_cast<int64_t>(text.size() / 2);
    const TokenRange range = TokensCovering(encoding.byte_offsets, 0, middle);
    Require(range.token_end <= static_cast<int64_t>(encoding.ids.size()));
    Require(encoding.byte_offsets[static_cast<size_t>(range.token_end)] >= middle);
  }
  const std::vector<ChatTurn> turns = {{"system", "5"}, {"user", std::string(text)}};
  for (const char* name : {"auto", "none", "llama-2", "zephyr"}) {
    if (tokenizer.chat_template().empty() && name == std::string_view("auto")) continue;
    const ChatTokens chat = BuildChat(tokenizer, turns, true, name);
    CheckRanges(tokenizer, chat.text, chat.ids, chat.byte_offsets);
    Require(chat.spans.back().turn.token_end == static_cast<int64_t>(chat.ids.size()));
  }
}

}  // namespace
}  // namespace kvscope

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace kvscope;
  static const Tokenizer kTiny = Tokenizer::FromGguf(GgufFile::FromBytes("tiny", TinyGgufBytes({.layers = 0})));
  static const Tokenizer kPieces = Tokenizer::FromGguf(
      GgufFile::FromBytes("pieces", PieceVocabularyBytes({.tokens = SomePieces(), .name = "phi-3"})));
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const bool is_model = input.starts_with("GGUF");
  try {
    if (is_model)
      CheckText(Tokenizer::FromGguf(GgufFile::FromBytes("fuzz", input)), "in the <|im_end|> 42\n  a\xC3\xA9");
    if (!is_model) ValidateUtf8(input, "fuzz");
  } catch (const Error&) {
    return 0;
  }
  if (is_model) return 0;
  CheckText(kTiny, input);  // an Error here is a finding
  CheckText(kPieces, input);
  return 0;
}
