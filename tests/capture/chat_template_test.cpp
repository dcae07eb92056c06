// SPDX-License-Identifier: Apache-2.0
#include "capture/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "capture/gguf.h"
#include "core/error.h"
#include "tests/support/capture_tiny_gguf.h"

namespace kvscope {
namespace {

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

TEST(ChatTemplate, RefusesOtherFamiliesByName) {
  const std::vector<ChatTurn> turns = {{"user", "Hi"}};
  const auto message = [&](const std::string& chat_template, const std::vector<ChatTurn>& said) -> std::string {
    try {
      BuildChat(TokenizerWithTemplate(chat_template), said, true);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_THAT(message("{{ '<|start_header_id|>' }}", turns), HasSubstr("found one of the Llama 3 family"));
  EXPECT_THAT(message("{{ 'Human:' }}", turns), HasSubstr("an unknown one that begins with"));
  EXPECT_THAT(message("", turns), HasSubstr("found none"));
  EXPECT_THAT(message(kWithDefaultSystem, {{"tool", "Hi"}}), HasSubstr("found 'tool'"));
  EXPECT_THAT(message(kWithDefaultSystem, {{"user", "\xFF"}}), HasSubstr("user turn: expected UTF-8"));
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
