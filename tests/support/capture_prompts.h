// SPDX-License-Identifier: Apache-2.0
// What the tests of tasks share: tokenizers, texts, and what every needle prompt must fulfil.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>

#include "capture/task.h"
#include "capture/tokenizer.h"
#include "tests/support/core_message.h"

namespace kvscope {

const Tokenizer& TinyTokenizer();  // one token per byte
const Tokenizer& RealTokenizer();  // of RealModelPath(), which must not be empty

// The King James Bible where traces/make_texts can make it; else empty.
const std::string& KingJames();

// Prose without digits whose words have one token, many tokens, commas and paragraphs; `sentences` of them.
std::string Prose(int sentences);

std::string Decoded(const Tokenizer& tokenizer, const Prompt& prompt, int begin, int end);

// The first span of this kind, which must exist.
inline const Span& SpanOf(const Prompt& prompt, std::string_view kind) {
  return *std::find_if(prompt.spans.begin(), prompt.spans.end(), [&](const Span& span) { return span.kind == kind; });
}

// Without white space at its beginning.
std::string Trimmed(std::string text);

// Exactly `context` tokens, segments that tile them, and a needle span, number and question that hold what they say.
void ExpectWellFormed(const Tokenizer& tokenizer, const Prompt& prompt, int context);

}  // namespace kvscope
