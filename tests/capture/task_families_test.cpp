// SPDX-License-Identifier: Apache-2.0
// Tasks on vocabularies that begin every text with a token and put dummy spaces, and on models without turns.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <span>

#include "capture/gguf.h"
#include "capture/task.h"
#include "core/error.h"
#include "tests/support/capture_prompts.h"
#include "tests/support/capture_vocabularies.h"

namespace kvscope {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

Tokenizer PieceTokenizer(bool adds_bos = true,
                         const std::string& chat_template = "{{ bos_token + '[INST] <<SYS>>' }}") {
  return Tokenizer::FromGguf(GgufFile::FromBytes(
      "pieces.gguf",
      PieceVocabularyBytes({.tokens = SomePieces(), .adds_bos = adds_bos, .chat_template = chat_template})));
}

std::vector<std::string> RolesOf(const Prompt& prompt) {
  std::vector<std::string> roles;
  int at = 0;
  for (const Segment& segment : prompt.segments) {
    EXPECT_EQ(segment.token_begin, at);
    EXPECT_LT(segment.token_begin, segment.token_end);
    at = segment.token_end;
    roles.push_back(segment.role);
  }
  EXPECT_EQ(at, static_cast<int>(prompt.ids.size() + prompt.forced_ids.size()));
  return roles;
}

// What a span's tokens decode to, without the space that the first may have.
std::string TextOf(const Tokenizer& tokenizer, const Prompt& prompt, std::string_view kind) {
  const Span& span = SpanOf(prompt, kind);
  return Trimmed(Decoded(tokenizer, prompt, span.token_begin, span.token_end));
}

void ExpectNeedle(const Tokenizer& tokenizer, const Prompt& prompt, int context) {
  SCOPED_TRACE(prompt.file_stem);
  EXPECT_EQ(prompt.ids.size(), static_cast<size_t>(context));
  EXPECT_EQ(std::count(prompt.ids.begin(), prompt.ids.end(), tokenizer.bos_id()), tokenizer.AddsBos() ? 1 : 0);
  EXPECT_EQ(prompt.ids[0] == tokenizer.bos_id(), tokenizer.AddsBos());
  EXPECT_EQ(TextOf(tokenizer, prompt, "needle"), SpanOf(prompt, "needle").label);
  EXPECT_EQ(TextOf(tokenizer, prompt, "needle_value"), prompt.task.expected_answers[0]);
  EXPECT_EQ(TextOf(tokenizer, prompt, "question"), SpanOf(prompt, "question").label);
}

NiahOptions SomeNeedles(const std::string& chat_template) {
  NiahOptions options;
  options.haystack_text = Prose(200);
  options.depths = {0, 0.3, 1};
  options.contexts = {500, 501, 502, 503, 504, 505, 506, 507};
  options.chat_template = chat_template;
  return options;
}

TEST(TaskFamilies, CountAndMarkNeedlesWithDummySpaces) {
  const Tokenizer tokenizer = PieceTokenizer();
  const NiahOptions options = SomeNeedles("auto");
  size_t at = 0;
  for (const Prompt& prompt : NiahPrompts(tokenizer, options)) {
    ExpectNeedle(tokenizer, prompt, options.contexts[at++ / options.depths.size()]);
    EXPECT_THAT(RolesOf(prompt), ElementsAre("system", "context", "question"));
    EXPECT_EQ(Decoded(tokenizer, prompt, 0, 3), "<s> [");
    EXPECT_TRUE(tokenizer.Decode(prompt.ids).ends_with("? [/INST]"));
    EXPECT_TRUE(prompt.task.priming_text.starts_with(" The secret number"));
  }
}

TEST(TaskFamilies, HideNeedlesInPlainTextForModelsWithoutTurns) {
  for (const bool adds_bos : {true, false}) {
    const Tokenizer tokenizer = PieceTokenizer(adds_bos, "");
    EXPECT_THAT(MessageOf([&] { NiahPrompts(tokenizer, SomeNeedles("auto")); }), HasSubstr("--template none"));
    const NiahOptions options = SomeNeedles("none");
    size_t at = 0;
    for (const Prompt& prompt : NiahPrompts(tokenizer, options)) {
      ExpectNeedle(tokenizer, prompt, options.contexts[at++ / options.depths.size()]);
      const std::vector<std::string> roles = RolesOf(prompt);
      EXPECT_THAT(std::span(roles).last(2), ElementsAre("context", "question"));
      EXPECT_EQ(roles.size(), adds_bos ? 3u : 2u);
      EXPECT_EQ(prompt.segments[0].token_end == 1, adds_bos);  // only the begin-of-text token
      EXPECT_TRUE(tokenizer.Decode(prompt.ids).ends_with("?\n\nAnswer:"));
      EXPECT_EQ(nlohmann::json::parse(prompt.task.parameters_json)["template"], "none");
    }
  }
}

TEST(TaskFamilies, HideNeedlesInPlainTextOfAByteVocabularyToo) {
  NiahOptions options = SomeNeedles("none");
  options.doors = 3;
  options.contexts = {600};
  for (const Prompt& prompt : NiahPrompts(TinyTokenizer(), options)) {
    EXPECT_EQ(prompt.ids.size(), 600u);
    EXPECT_EQ(TinyTokenizer().Decode(prompt.ids).find("Read the text"), 0u);
    EXPECT_EQ(TextOf(TinyTokenizer(), prompt, "distractor"), SpanOf(prompt, "distractor").label);
  }
}

TEST(TaskFamilies, BeginEveryTextWindowWithTheToken) {
  const Tokenizer tokenizer = PieceTokenizer();
  TextOptions options;
  options.text = Prose(60);
  options.context = 101;
  options.windows = 3;
  const std::vector<int> ids = tokenizer.Encode(options.text, false);
  std::vector<int> joined;
  for (const Prompt& prompt : TextPrompts(tokenizer, options)) {
    EXPECT_EQ(prompt.ids.size(), 50u);
    EXPECT_EQ(prompt.forced_ids.size(), 51u);
    EXPECT_THAT(RolesOf(prompt), ElementsAre("context", "continuation"));
    EXPECT_EQ(prompt.ids[0], tokenizer.bos_id());
    EXPECT_EQ(nlohmann::json::parse(prompt.task.parameters_json)["text_token_begin"], joined.size());
    joined.insert(joined.end(), prompt.ids.begin() + 1, prompt.ids.end());
    joined.insert(joined.end(), prompt.forced_ids.begin(), prompt.forced_ids.end());
  }
  EXPECT_EQ(joined.size(), 300u);
  EXPECT_TRUE(std::equal(joined.begin(), joined.end(), ids.begin()));  // no token of the text is lost between windows
  options.windows = static_cast<int>(ids.size() / 100) + 1;
  EXPECT_THAT(MessageOf([&] { TextPrompts(tokenizer, options); }), HasSubstr("expected a text of at least"));
}

TEST(TaskFamilies, BeginAPromptOnce) {
  const Tokenizer tokenizer = PieceTokenizer();
  const auto prompt = [&](const std::string& text, bool chat, const std::string& chat_template) {
    return tokenizer.Decode(PlainPrompt(tokenizer, {.text = text, .chat = chat, .chat_template = chat_template}).ids);
  };
  EXPECT_EQ(prompt("the", false, "auto"), "<s> the");
  EXPECT_EQ(prompt("<s>the", false, "auto"), "<s> the");
  EXPECT_EQ(prompt("the", true, "auto"), "<s> [INST] the [/INST]");
  EXPECT_EQ(prompt("the", true, "none"), "<s> the");
  EXPECT_EQ(prompt("the", true, "mistral-v1"), "<s>  [INST] the [/INST]");
}

}  // namespace
}  // namespace kvscope
