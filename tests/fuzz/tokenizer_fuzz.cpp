// SPDX-License-Identifier: Apache-2.0
// links: kvscope_capture_lib
// Two inputs in one. Bytes that begin with "GGUF" are a model file: its vocabulary is refused or encodes and decodes.
// Other bytes are a text for a tiny vocabulary that has a token for every byte: it is refused as not UTF-8, or comes
// back the same, also as a chat turn.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "capture/chat_template.h"
#include "capture/gguf.h"
#include "capture/tokenizer.h"
#include "core/error.h"
#include "tests/support/capture_tiny_gguf.h"

namespace kvscope {
namespace {

void Require(bool condition) {
  if (!condition) std::abort();
}

void CheckText(const Tokenizer& tokenizer, std::string_view text) {
  for (const bool parse_special : {false, true}) {
    const std::vector<int> ids = tokenizer.Encode(text, parse_special);
    Require(tokenizer.Decode(ids) == text);
    const std::vector<int64_t> offsets = ByteOffsets(tokenizer, ids);
    const auto middle = static_cast<int64_t>(text.size() / 2);
    const TokenRange range = TokensCovering(offsets, 0, middle);
    Require(range.token_begin == 0 && range.token_end <= static_cast<int64_t>(ids.size()));
    Require(offsets[static_cast<size_t>(range.token_end)] >= middle);
  }
  const std::vector<ChatTurn> turns = {{"user", std::string(text)}};
  const ChatTokens chat = BuildChat(tokenizer, turns, true);
  Require(tokenizer.Decode(chat.ids) == chat.text);
  Require(chat.spans.back().turn.token_end == static_cast<int64_t>(chat.ids.size()));
}

}  // namespace
}  // namespace kvscope

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace kvscope;
  static const Tokenizer kTiny = Tokenizer::FromGguf(GgufFile::FromBytes("tiny", TinyGgufBytes({.layers = 0})));
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const bool is_model = input.starts_with("GGUF");
  try {
    if (is_model)
      CheckText(Tokenizer::FromGguf(GgufFile::FromBytes("fuzz", input)), "in the <|im_end|> 42\n  a\xC3\xA9");
    if (!is_model) ValidateUtf8(input, "fuzz");
  } catch (const Error&) {
    return 0;
  }
  if (!is_model) CheckText(kTiny, input);  // an Error here is a finding
  return 0;
}
