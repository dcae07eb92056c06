// SPDX-License-Identifier: Apache-2.0
#include "capture/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "capture/gguf.h"
#include "core/error.h"
#include "tests/support/capture_tiny_gguf.h"
#include "tests/support/capture_vocabularies.h"
#include "tests/support/core_message.h"

namespace kvscope {
namespace {

using testing::AllOf;
using testing::HasSubstr;

Tokenizer TokenizerWithTemplate(const std::string& chat_template) {
  return Tokenizer::FromGguf(GgufFile::FromBytes("tiny.gguf", TinyGgufBytes({.chat_template = chat_template})));
}

// The default model's template in short.
constexpr const char* kWithDefaultSystem =
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nBe kind<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}";

TEST(ChatTemplate, WritesTurnsAndTheDefaultSystemTurn) {
  const Tokenizer tokenizer = TokenizerWithTemplate(kWithDefaultSystem);
  const std::vector<ChatTurn> turns = {{"user", "Hi"}, {"assistant", "Yes?"}, {"user", "5"}};
  const ChatTokens chat = BuildChat(tokenizer, turns, true);
  EXPECT_EQ(
      chat.text,
      "<|im_start|>system\nBe kind<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYes?<|im_end|>\n"
      "<|im_start|>user\n5<|im_end|>\n<|im_start|>assistant\n");
  EXPECT_EQ(chat.ids, tokenizer.Encode(chat.text, true));
  EXPECT_EQ(tokenizer.Decode(chat.ids), chat.text);
  ASSERT_EQ(chat.spans.size(), 5u);
  EXPECT_TRUE(chat.spans.front().is_added && chat.spans.back().is_added && !chat.spans[1].is_added);
  EXPECT_EQ(chat.spans.back().turn.token_end, static_cast<int64_t>(chat.ids.size()));
  int64_t at = 0;
  for (const ChatSpan& span : chat.spans) {
    EXPECT_EQ(span.turn.token_begin, at);  // turns follow each other without gaps
    at = span.turn.token_end;
    EXPECT_EQ(chat.ids[static_cast<size_t>(span.turn.token_begin)], kTinyImStart);
  }
  const ChatSpan& question = chat.spans[1];
  const std::span<const int> ids(chat.ids);
  EXPECT_EQ(tokenizer.Decode(ids.subspan(static_cast<size_t>(question.text.token_begin),
                                         static_cast<size_t>(question.text.token_end - question.text.token_begin))),
            "Hi");
  EXPECT_EQ(chat.text.substr(static_cast<size_t>(question.text_byte_begin), 2), "Hi");
}

TEST(ChatTemplate, LeavesTheSystemTurnToTheCaller) {
  const Tokenizer tokenizer = TokenizerWithTemplate(kWithDefaultSystem);
  const std::vector<ChatTurn> turns = {{"system", "Be brief"}, {"user", "Hi"}};
  EXPECT_EQ(BuildChat(tokenizer, turns, false).text,
            "<|im_start|>system\nBe brief<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n");
}

TEST(ChatTemplate, AddsNoSystemTurnWhenTheTemplateHasNone) {
  const Tokenizer tokenizer = TokenizerWithTemplate(
      "{{'<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n<|im_start|>' + message['role']}}");
  const std::vector<ChatTurn> turns = {{"user", "Hi"}};
  EXPECT_EQ(BuildChat(tokenizer, turns, true).text, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
}

// A vocabulary with the tokens of every family.
Tokenizer TokenizerOfAllFamilies(const std::string& chat_template, bool adds_bos = false) {
  PieceVocabularyOptions options;
  options.tokens = SomePieces();
  options.adds_bos = adds_bos;
  options.chat_template = chat_template;
  for (const char* token : {"<|im_start|>", "<|im_end|>", "<|im_sep|>", "<|start_header_id|>", "<|end_header_id|>",
                            "<|eot_id|>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "<start_of_turn>",
                            "<end_of_turn>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"}) {
    options.tokens.push_back({token, 0, 3});
  }
  return Tokenizer::FromGguf(GgufFile::FromBytes("all.gguf", PieceVocabularyBytes(options)));
}

// Turns follow each other without gaps over all tokens; every text lies where it says.
void ExpectExactSpans(const Tokenizer& tokenizer, const ChatTokens& chat, const std::vector<ChatTurn>& turns) {
  int64_t at = 0;
  size_t number = 0;
  for (const ChatSpan& span : chat.spans) {
    EXPECT_LE(span.turn.token_begin, at);
    EXPECT_GE(span.turn.token_end, at);
    at = span.turn.token_end;
    const std::string text = chat.text.substr(static_cast<size_t>(span.text_byte_begin),
                                              static_cast<size_t>(span.text_byte_end - span.text_byte_begin));
    if (span.is_added || text.empty()) continue;
    while (turns[number].role != span.role) ++number;  // a folded system turn has no span of its own
    EXPECT_NE(turns[number++].text.find(text), std::string::npos);
    std::string decoded;
    for (int64_t token = span.text.token_begin; token < span.text.token_end; ++token)
      decoded += tokenizer.Piece(chat.ids[static_cast<size_t>(token)]);
    EXPECT_NE(decoded.find(text), std::string::npos) << decoded;
    EXPECT_LE(decoded.size(), text.size() + 4) << decoded;  // a space or line break of the markers, in a token with it
  }
  EXPECT_EQ(at, static_cast<int64_t>(chat.ids.size()));
}

TEST(ChatTemplate, WritesEveryFamilyAsItsOwnTemplateDoes) {
  const nlohmann::json entries =
      nlohmann::json::parse(ReadFileBytes(KVSCOPE_SOURCE_DIR "/tests/capture/fixtures/chat_templates.json"));
  size_t compared = 0, skipped = 0;
  for (const nlohmann::json& entry : entries) {
    if (entry.contains("refused")) continue;
    const std::string file = entry.value("file", "");
    SCOPED_TRACE(file + entry.value("name", ""));
    if (!file.empty() && VocabularyFolder().empty()) {
      ++skipped;
      continue;
    }
    const std::string text = file.empty() ? entry["template"].get<std::string>()
                                          : ReadFileBytes(VocabularyFolder() + "/templates/" + file + ".jinja");
    const Tokenizer tokenizer = TokenizerOfAllFamilies(text),
                    plain = TokenizerOfAllFamilies("", text.find("bos_token") != std::string::npos);
    for (const nlohmann::json& conversation : entry["cases"]) {
      std::vector<ChatTurn> turns;
      for (const nlohmann::json& turn : conversation["turns"]) turns.push_back({turn[0], turn[1]});
      const ChatTokens chat = BuildChat(tokenizer, turns, true);
      EXPECT_EQ(chat.text, conversation["text"].get<std::string>());
      EXPECT_EQ(chat.ids, tokenizer.Encode(chat.text, true));
      ExpectExactSpans(tokenizer, chat, turns);
      // By name the same, but for what only the model's template says.
      const ChatTokens named = BuildChat(plain, turns, false, entry["family"].get<std::string>());
      if (chat.spans[0].is_added == named.spans[0].is_added) {
        EXPECT_TRUE(chat.text.starts_with(named.text)) << named.text;
      }
      ++compared;
    }
  }
  EXPECT_GE(compared, 50u);
  if (skipped > 0) GTEST_SKIP() << skipped << " templates are not here; run tests/fetch_vocabularies";
}

TEST(ChatTemplate, RefusesWhatItDoesNotKnowByName) {
  if (VocabularyFolder().empty()) GTEST_SKIP() << "no templates; run tests/fetch_vocabularies";
  const nlohmann::json entries =
      nlohmann::json::parse(ReadFileBytes(KVSCOPE_SOURCE_DIR "/tests/capture/fixtures/chat_templates.json"));
  for (const nlohmann::json& entry : entries) {
    if (!entry.contains("refused")) continue;
    const std::string file = entry["file"], name = entry["refused"];
    const Tokenizer tokenizer =
        TokenizerOfAllFamilies(ReadFileBytes(VocabularyFolder() + "/templates/" + file + ".jinja"));
    const std::vector<ChatTurn> turns = {{"user", "Hi"}};
    EXPECT_THAT(MessageOf([&] { BuildChat(tokenizer, turns, true); }),
                AllOf(HasSubstr(name.empty() ? "found an unknown one" : "found one of the family " + name + ";"),
                      HasSubstr("--template none"), HasSubstr("chatml, llama-3.1")))
        << file;
    EXPECT_EQ(BuildChat(tokenizer, turns, true, "none").text, "Hi");
  }
}

TEST(ChatTemplate, BeginsTheTextOnce) {
  const std::vector<ChatTurn> turns = {{"user", "Hi"}, {"assistant", "a"}, {"user", "b"}};
  const auto first_two = [&](const Tokenizer& tokenizer, const char* name) {
    const ChatTokens chat = BuildChat(tokenizer, turns, true, name);
    EXPECT_EQ(chat.spans[0].turn.token_begin, 0);
    EXPECT_EQ(std::count(chat.ids.begin(), chat.ids.end(), 1), name == std::string("llama-2") ? 2 : chat.ids[0] == 1);
    return tokenizer.Decode(std::span(chat.ids).first(2));
  };
  const std::string writes_it = "{{ bos_token }}{{ '<|im_start|>' }}", does_not = "{{ '<|im_start|>' }}";
  EXPECT_EQ(first_two(TokenizerOfAllFamilies(writes_it, true), "auto"), "<s><|im_start|>");
  EXPECT_EQ(first_two(TokenizerOfAllFamilies(writes_it, false), "auto"), "<s><|im_start|>");
  EXPECT_EQ(first_two(TokenizerOfAllFamilies(does_not, true), "auto"), "<s><|im_start|>");
  EXPECT_EQ(first_two(TokenizerOfAllFamilies(does_not, false), "auto"), "<|im_start|> ");
  EXPECT_EQ(first_two(TokenizerOfAllFamilies("", true), "llama-2"), "<s>[INST]");
  EXPECT_EQ(first_two(TokenizerOfAllFamilies("", true), "none"), "<s> ");
  EXPECT_EQ(first_two(TokenizerOfAllFamilies(writes_it, false), "none"), " H");
}

TEST(ChatTemplate, SaysWhatIsWrong) {
  const std::vector<ChatTurn> turns = {{"user", "Hi"}};
  const auto message = [&](const std::string& chat_template, const std::vector<ChatTurn>& said,
                           std::string_view name = "auto") {
    return MessageOf([&] { BuildChat(TokenizerWithTemplate(chat_template), said, true, name); });
  };
  EXPECT_THAT(message("{{ '<|start_header_id|>' ... '<|eot_id|>' }}", turns),
              HasSubstr("expected a special token '<|start_header_id|>' as the chat template llama-3 uses it"));
  EXPECT_THAT(message("{{ 'Human:' }}", turns), HasSubstr("an unknown one that begins with '{{ 'Human:' }}';"));
  EXPECT_THAT(message("", turns), AllOf(HasSubstr("found none;"), HasSubstr("--template none")));
  EXPECT_THAT(message("", turns, "claude"), HasSubstr("--template: expected auto, none or one of"));
  EXPECT_THAT(message("", turns, "deepseek"), HasSubstr("found 'deepseek'"));
  EXPECT_THAT(message(kWithDefaultSystem, {{"tool", "Hi"}}), HasSubstr("found 'tool'"));
  EXPECT_THAT(message(kWithDefaultSystem, {{"user", "a"}, {"system", "b"}}), HasSubstr("found 'system'"));
  EXPECT_THAT(message(kWithDefaultSystem, {{"user", "\xFF"}}), HasSubstr("user turn: expected UTF-8"));
  EXPECT_THAT(message("", {{"system", "\xFF"}, {"user", "a"}}, "mistral-v1"), HasSubstr("system turn: expected UTF-8"));
  EXPECT_THAT(message("", {{"system", "a"}, {"assistant", "b"}}, "mistral-v1"), HasSubstr("expected a user turn"));
}

TEST(ChatTemplate, EqualsTheRealModelsTemplate) {
  if (RealModelPath().empty()) GTEST_SKIP() << "no model; run traces/fetch_model or set KVSCOPE_MODEL";
  const Tokenizer tokenizer = Tokenizer::FromGguf(GgufFile::Open(RealModelPath()));
  const std::vector<ChatTurn> turns = {{"user", "Hello"}};
  const ChatTokens chat = BuildChat(tokenizer, turns, true);
  EXPECT_EQ(chat.text,
            "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
            "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n");
  EXPECT_EQ(chat.spans[1].text.token_end - chat.spans[1].text.token_begin, 1);
}

}  // namespace
}  // namespace kvscope
