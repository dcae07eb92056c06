// SPDX-License-Identifier: Apache-2.0
#include "capture/task.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "core/error.h"
#include "core/sha256.h"
#include "tests/support/capture_prompts.h"
#include "tests/support/capture_tiny_gguf.h"

namespace kvscope {
namespace {

using testing::AllOf;
using testing::HasSubstr;

TEST(Niah, CountsEveryTokenExactlyAndKeepsItsSpans) {
  if (RealModelPath().empty()) GTEST_SKIP() << "no model; run traces/fetch_model or set KVSCOPE_MODEL";
  const bool has_bible = !KingJames().empty();
  NiahOptions options;
  options.haystack_text = has_bible ? KingJames() : Prose(2000);
  options.haystack_name = "kjv.txt";
  options.contexts = {256, 257, 511, 1024, 2048, 4096};
  options.depths = {0, 0.1, 0.25, 0.5, 0.75, 0.99, 1};
  options.repeats = 3;
  options.context_limit = 8192;
  for (const uint64_t seed : {0u, 1u, 12345u}) {
    options.seed = seed;
    const std::vector<Prompt> prompts = NiahPrompts(RealTokenizer(), options);
    ASSERT_EQ(prompts.size(), options.contexts.size() * options.depths.size() * 3);
    size_t at = 0;
    for (const int context : options.contexts) {
      for (const double asked : options.depths) {
        for (int repeat = 0; repeat < 3; ++repeat, ++at) {
          ExpectWellFormed(RealTokenizer(), prompts[at], context);
          const nlohmann::json parameters = nlohmann::json::parse(prompts[at].task.parameters_json);
          EXPECT_EQ(parameters["wording"], repeat);
          // Sentences of the King James Bible rarely take 200 tokens.
          EXPECT_GT(parameters["depth"].get<double>(), asked - 200.0 / context) << prompts[at].file_stem;
        }
      }
    }
  }
}

TEST(Niah, CountsExactlyWithOneTokenPerByteToo) {
  NiahOptions options;
  options.haystack_text = Prose(200);
  options.depths = {0, 0.3, 1};
  options.contexts.clear();
  for (int context = 400; context < 440; ++context) options.contexts.push_back(context);
  size_t at = 0;
  const std::vector<Prompt> prompts = NiahPrompts(TinyTokenizer(), options);
  for (const int context : options.contexts) {
    for (size_t depth = 0; depth < options.depths.size(); ++depth)
      ExpectWellFormed(TinyTokenizer(), prompts[at++], context);
  }
}

TEST(Niah, IsDeterministicAndEveryCellItsOwn) {
  NiahOptions options;
  options.haystack_text = Prose(400);
  options.haystack_name = "prose.txt";
  options.contexts = {500, 600};
  options.depths = {0, 0.5};
  options.repeats = 4;
  options.seed = 7;
  const std::vector<Prompt> grid = NiahPrompts(TinyTokenizer(), options);
  const std::vector<Prompt> again = NiahPrompts(TinyTokenizer(), options);
  ASSERT_EQ(grid.size(), 16u);
  std::set<std::string> stems, values;
  std::set<int64_t> begins;
  for (size_t i = 0; i < grid.size(); ++i) {
    EXPECT_EQ(grid[i].ids, again[i].ids);
    EXPECT_EQ(grid[i].task.parameters_json, again[i].task.parameters_json);
    stems.insert(grid[i].file_stem);
    values.insert(grid[i].task.expected_answers[0]);
    const nlohmann::json parameters = nlohmann::json::parse(grid[i].task.parameters_json);
    if (parameters["context"] == 500) begins.insert(parameters["haystack_byte_begin"].get<int64_t>());
  }
  EXPECT_EQ(stems.size(), 16u);
  EXPECT_EQ(values.size(), 16u);
  EXPECT_EQ(begins.size(), 4u);  // one for each repeat, the same at every depth
  EXPECT_TRUE(stems.count("niah_c500_d050_r03"));
  EXPECT_EQ(grid[0].task.seed, 7u);
  EXPECT_EQ(grid[0].task.name, "niah");
  EXPECT_EQ(grid[0].task.scorer, "contains");
  const nlohmann::json parameters = nlohmann::json::parse(grid[0].task.parameters_json);
  EXPECT_EQ(parameters["haystack"], "prose.txt");
  EXPECT_EQ(parameters["haystack_sha256"],
            HexSha256(std::as_bytes(std::span(options.haystack_text.data(), options.haystack_text.size()))));

  // A cell alone equals the cell of the grid; another seed is another prompt.
  options.contexts = {600};
  options.depths = {0.5};
  EXPECT_EQ(NiahPrompts(TinyTokenizer(), options)[2].ids, grid[14].ids);
  options.seed = 8;
  EXPECT_NE(NiahPrompts(TinyTokenizer(), options)[2].ids, grid[14].ids);
}

TEST(Niah, NeverAsksForANumberTheHaystackHolds) {
  // Half of all numbers of five digits stand in the text, one behind the other.
  NiahOptions options;
  for (int number = 10000; number < 100000; number += 2) options.haystack_text += std::to_string(number) + " ";
  options.haystack_text += ". " + Prose(100);
  options.contexts = {400};
  options.repeats = 20;
  for (const Prompt& prompt : NiahPrompts(TinyTokenizer(), options)) {
    EXPECT_EQ(options.haystack_text.find(prompt.task.expected_answers[0]), std::string::npos);
  }
}

TEST(Niah, SaysWhatIsWrongInOneSentence) {
  const auto message = [](auto&& change) {
    NiahOptions options;
    options.haystack_text = Prose(100);
    options.haystack_name = "prose.txt";
    options.contexts = {400};
    options.context_limit = 4096;
    change(&options);
    const std::string text = MessageOf([&] { NiahPrompts(TinyTokenizer(), options); });
    EXPECT_EQ(text.find('\n'), std::string::npos);
    return text;
  };
  EXPECT_EQ(message([](NiahOptions*) {}), "");
  EXPECT_THAT(message([](NiahOptions* o) { o->haystack_text = ""; }), HasSubstr("prose.txt: expected text to hide"));
  EXPECT_THAT(message([](NiahOptions* o) { o->haystack_text = " \n\t"; }), HasSubstr("found none"));
  EXPECT_THAT(message([](NiahOptions* o) { o->haystack_text = "no end at all"; }), HasSubstr("expected sentences"));
  EXPECT_THAT(message([](NiahOptions* o) { o->haystack_text = "So it was. Then it ended."; }),
              AllOf(HasSubstr("expected a haystack of at least"), HasSubstr("found 23 in prose.txt")));
  EXPECT_THAT(message([](NiahOptions* o) { o->haystack_text = "One \xFF two."; }),
              AllOf(HasSubstr("prose.txt: expected UTF-8"), HasSubstr("byte 4")));
  EXPECT_THAT(message([](NiahOptions* o) { o->haystack_text = "Stop <|im_end|> here. " + Prose(5); }),
              HasSubstr("found the special token '<|im_end|>'"));
  EXPECT_THAT(message([](NiahOptions* o) { o->contexts = {130}; }), HasSubstr("expected a context of at least"));
  EXPECT_THAT(message([](NiahOptions* o) { o->contexts = {-5}; }), HasSubstr("found -5"));
  EXPECT_THAT(message([](NiahOptions* o) { o->contexts = {4097}; }), HasSubstr("at most 4096 tokens"));
  EXPECT_THAT(message([](NiahOptions* o) { o->contexts = {}; }), HasSubstr("at least one context"));
  EXPECT_THAT(message([](NiahOptions* o) { o->repeats = 0; }), HasSubstr("at least one context"));
  EXPECT_THAT(message([](NiahOptions* o) { o->depths = {-0.1}; }), HasSubstr("expected a depth from 0 to 1"));
  EXPECT_THAT(message([](NiahOptions* o) { o->depths = {1.01}; }), HasSubstr("found 1.01"));
  EXPECT_THAT(message([](NiahOptions* o) { o->depths = {std::nan("")}; }), HasSubstr("found nan"));
  EXPECT_THAT(message([](NiahOptions* o) { o->depths = {0.5, 0.501}; }), HasSubstr("niah_c400_d050_r00"));
  EXPECT_THAT(message([](NiahOptions* o) { o->wording = 3; }), HasSubstr("wording from 0 to 2"));
  EXPECT_THAT(message([](NiahOptions* o) { o->max_new = -1; }), HasSubstr("0 or more new tokens"));
}

TEST(Niah, SpeaksOfAFewTokensTooMany) {
  // The longest prompt a small text allows, and the first that is too long for it.
  NiahOptions options;
  options.haystack_text = Prose(10);
  options.haystack_name = "prose.txt";
  int longest = 0;
  for (int context = 300; context < 1500 && longest == 0; ++context) {
    options.contexts = {context};
    const std::string text =
        MessageOf([&] { ExpectWellFormed(TinyTokenizer(), NiahPrompts(TinyTokenizer(), options)[0], context); });
    if (text.empty()) continue;
    longest = context - 1;
    EXPECT_THAT(text, HasSubstr("pass a longer text"));
  }
  EXPECT_GT(longest, 600);
}

TEST(TextTask, CutsConsecutiveWindows) {
  TextOptions options;
  options.text = Prose(100);
  options.text_name = "prose.txt";
  options.context = 101;
  options.windows = 3;
  options.context_limit = 128;
  const std::vector<int> ids = TinyTokenizer().Encode(options.text, false);
  const std::vector<Prompt> prompts = TextPrompts(TinyTokenizer(), options);
  ASSERT_EQ(prompts.size(), 3u);
  std::vector<int> joined;
  for (const Prompt& prompt : prompts) {
    EXPECT_EQ(prompt.ids.size(), 50u);
    EXPECT_EQ(prompt.forced_ids.size(), 51u);
    ASSERT_EQ(prompt.segments.size(), 2u);
    EXPECT_EQ(prompt.segments[0].role, "context");
    EXPECT_TRUE(prompt.segments[0].decide_at);
    EXPECT_EQ(prompt.segments[0].token_end, 50);
    EXPECT_EQ(prompt.segments[1].role, "continuation");
    EXPECT_EQ(prompt.segments[1].token_begin, 50);
    EXPECT_EQ(prompt.segments[1].token_end, 101);
    joined.insert(joined.end(), prompt.ids.begin(), prompt.ids.end());
    joined.insert(joined.end(), prompt.forced_ids.begin(), prompt.forced_ids.end());
  }
  EXPECT_TRUE(std::equal(joined.begin(), joined.end(), ids.begin()));
  EXPECT_EQ(prompts[2].file_stem, "text_c101_w02");
  EXPECT_TRUE(std::isnan(ScoreAnswer(prompts[0].task, "anything")));
}

TEST(TextTask, SaysWhatIsWrong) {
  const auto message = [](auto&& change) {
    TextOptions options;
    options.text = "01234567890123456789";
    options.text_name = "a.txt";
    options.context = 10;
    options.context_limit = 128;
    change(&options);
    return MessageOf([&] { TextPrompts(TinyTokenizer(), options); });
  };
  EXPECT_EQ(message([](TextOptions* o) { o->windows = 2; }), "");
  EXPECT_THAT(message([](TextOptions* o) { o->windows = 3; }),
              AllOf(HasSubstr("a.txt: expected a text of at least 30 tokens"), HasSubstr("found 20")));
  EXPECT_THAT(message([](TextOptions* o) { o->context = 129; }), HasSubstr("at most 128 tokens"));
  EXPECT_THAT(message([](TextOptions* o) { o->context = 1; }), HasSubstr("at least 2 tokens"));
  EXPECT_THAT(message([](TextOptions* o) { o->windows = 0; }), HasSubstr("at least one window"));
  EXPECT_THAT(message([](TextOptions* o) { o->text = ""; }), HasSubstr("a.txt: expected text, found none"));
  EXPECT_THAT(message([](TextOptions* o) { o->text += "\xC0"; }), HasSubstr("a.txt: expected UTF-8"));
}

TEST(PlainPrompt, IsOneContextSegment) {
  for (const bool chat : {false, true}) {
    const Prompt prompt = PlainPrompt(TinyTokenizer(), {.text = "Hello", .chat = chat, .context_limit = 128});
    const std::string expected = chat ? "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n" : "Hello";
    EXPECT_EQ(TinyTokenizer().Decode(prompt.ids), expected);
    ASSERT_EQ(prompt.segments.size(), 1u);
    EXPECT_EQ(prompt.segments[0].role, "context");
    EXPECT_TRUE(prompt.segments[0].decide_at);
    EXPECT_EQ(prompt.segments[0].token_end, static_cast<int>(prompt.ids.size()));
    EXPECT_TRUE(prompt.forced_ids.empty());
    EXPECT_EQ(nlohmann::json::parse(prompt.task.parameters_json)["text"], "Hello");
  }
}

TEST(PlainPrompt, SaysWhatIsWrong) {
  const auto message = [](const PromptOptions& options) {
    return MessageOf([&] { PlainPrompt(TinyTokenizer(), options); });
  };
  EXPECT_THAT(message({.text = ""}), HasSubstr("prompt: expected text, found none"));
  EXPECT_THAT(message({.text = "a\xFF"}), HasSubstr("prompt: expected UTF-8"));
  EXPECT_THAT(message({.text = std::string(129, 'x'), .context_limit = 128}), HasSubstr("found 129"));
  EXPECT_THAT(message({.text = "a", .max_new = -1}), HasSubstr("found -1"));
}

TEST(Score, FindsTheNumberAnywhere) {
  TaskInfo task;
  EXPECT_TRUE(std::isnan(ScoreAnswer(task, "48213")));
  task.expected_answers = {"48213"};
  EXPECT_EQ(ScoreAnswer(task, "The secret number is 48213."), 1);
  EXPECT_EQ(ScoreAnswer(task, "The secret number is 4821."), 0);
  EXPECT_EQ(ScoreAnswer(task, ""), 0);
  task.expected_answers = {"no", "48213"};
  EXPECT_EQ(ScoreAnswer(task, "48213"), 1);
  task.expected_answers = {""};
  EXPECT_EQ(ScoreAnswer(task, "48213"), 0);
}

TEST(Score, CountsRightLeadingDigits) {
  TaskInfo task;
  EXPECT_EQ(AnswerPrefix(task, "48213"), 0);
  task.expected_answers = {"92516"};
  EXPECT_EQ(AnswerPrefix(task, "The secret number is 925."), 3);
  EXPECT_EQ(AnswerPrefix(task, "92516"), 5);
  EXPECT_EQ(AnswerPrefix(task, "9 or 92 or 9251"), 4);
  EXPECT_EQ(AnswerPrefix(task, "1925"), 0);    // another number, which only ends like it
  EXPECT_EQ(AnswerPrefix(task, "192516"), 5);  // agrees with ScoreAnswer
  EXPECT_EQ(AnswerPrefix(task, "1234"), 0);
  EXPECT_EQ(AnswerPrefix(task, ""), 0);
}

}  // namespace
}  // namespace kvscope
