// SPDX-License-Identifier: Apache-2.0
// The needle task with several doors: one sentence is asked for, the others lead astray.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>
#include <span>
#include <vector>

#include "capture/task.h"
#include "core/sha256.h"
#include "tests/support/capture_prompts.h"
#include "tests/support/capture_tiny_gguf.h"

namespace kvscope {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

std::vector<Span> SpansOf(const Prompt& prompt, std::string_view kind) {
  std::vector<Span> spans;
  for (const Span& span : prompt.spans) {
    if (span.kind == kind) spans.push_back(span);
  }
  return spans;
}

// "red" of "... for the red door ...".
std::string ColourIn(const std::string& sentence) {
  const size_t begin = sentence.find(" for the ") + 9;
  return sentence.substr(begin, sentence.find(' ', begin) - begin);
}

// Every distractor's span holds its sentence, behind the end of another and within the haystack; none meets another.
void ExpectDistractors(const Tokenizer& tokenizer, const Prompt& prompt, int doors) {
  SCOPED_TRACE(prompt.file_stem);
  const nlohmann::json parameters = nlohmann::json::parse(prompt.task.parameters_json);
  EXPECT_EQ(parameters["doors"], doors);
  const std::vector<std::string> values = parameters["distractor_values"];
  const std::vector<Span> distractors = SpansOf(prompt, "distractor");
  ASSERT_EQ(distractors.size(), static_cast<size_t>(doors) - 1);
  ASSERT_EQ(values.size(), distractors.size());
  const Segment& body = prompt.segments[1];
  std::vector<Span> sentences = distractors;
  sentences.push_back(SpanOf(prompt, "needle"));
  std::set<std::string> colours;
  for (size_t i = 0; i < distractors.size(); ++i) {
    EXPECT_THAT(distractors[i].label, HasSubstr(" is " + values[i] + "."));
  }
  for (const Span& sentence : sentences) {
    EXPECT_EQ(Trimmed(Decoded(tokenizer, prompt, sentence.token_begin, sentence.token_end)), sentence.label);
    const std::string before = Decoded(tokenizer, prompt, body.token_begin, sentence.token_begin);
    EXPECT_NE(std::string(".!?)'").find(before[before.find_last_not_of(" \n")]), std::string::npos) << before;
    EXPECT_LE(sentence.token_end, body.token_end);
    colours.insert(ColourIn(sentence.label));
  }
  EXPECT_EQ(colours.size(), sentences.size());
  EXPECT_EQ(ColourIn(prompt.task.priming_text), ColourIn(parameters["question"]));
  std::sort(sentences.begin(), sentences.end(),
            [](const Span& a, const Span& b) { return a.token_begin < b.token_begin; });
  for (size_t i = 1; i < sentences.size(); ++i) EXPECT_LE(sentences[i - 1].token_end, sentences[i].token_begin);
}

TEST(NiahDoors, CountsEveryTokenExactlyAndKeepsItsSpans) {
  if (RealModelPath().empty()) GTEST_SKIP() << "no model; run traces/fetch_model or set KVSCOPE_MODEL";
  NiahOptions options;
  options.haystack_text = KingJames().empty() ? Prose(2000) : KingJames();
  options.contexts = {400, 1024, 2048};
  options.depths = {0, 0.1, 0.25, 0.5, 0.75, 0.99, 1};
  options.repeats = 3;
  for (const int doors : {2, 3, 8}) {
    options.doors = doors;
    const std::vector<Prompt> prompts = NiahPrompts(RealTokenizer(), options);
    ASSERT_EQ(prompts.size(), options.contexts.size() * options.depths.size() * 3);
    size_t at = 0;
    for (const int context : options.contexts) {
      for (size_t cell = 0; cell < options.depths.size() * 3; ++cell, ++at) {
        ExpectWellFormed(RealTokenizer(), prompts[at], context);
        ExpectDistractors(RealTokenizer(), prompts[at], doors);
      }
    }
  }
}

TEST(NiahDoors, CountsExactlyWithOneTokenPerByteToo) {
  NiahOptions options;
  options.haystack_text = Prose(400);
  options.depths = {0, 0.3, 0.5, 0.98, 1};
  options.repeats = 2;
  options.contexts.clear();
  for (int context = 900; context < 930; ++context) options.contexts.push_back(context);
  for (const int doors : {2, 3, 5}) {
    options.doors = doors;
    const std::vector<Prompt> prompts = NiahPrompts(TinyTokenizer(), options);
    size_t at = 0;
    for (const int context : options.contexts) {
      for (size_t cell = 0; cell < options.depths.size() * 2; ++cell, ++at) {
        ExpectWellFormed(TinyTokenizer(), prompts[at], context);
        ExpectDistractors(TinyTokenizer(), prompts[at], doors);
      }
    }
  }
}

TEST(NiahDoors, SpreadsTheSentencesEvenly) {
  NiahOptions options;
  options.haystack_text = Prose(2000);
  options.contexts = {8000};
  options.doors = 4;
  for (const double depth : {0.1, 0.5, 0.9}) {
    options.depths = {depth};
    const Prompt prompt = NiahPrompts(TinyTokenizer(), options)[0];
    const int needle = SpanOf(prompt, "needle").token_begin;
    double quarters = 0;
    for (const Span& span : SpansOf(prompt, "distractor")) {
      const double away = std::fmod((span.token_begin - needle) / 8000.0 + 1, 1) * 4;
      EXPECT_NEAR(away, std::round(away), 0.1) << depth;  // a sentence of Prose is some 100 of 8000 tokens
      quarters += std::round(away);
    }
    EXPECT_EQ(quarters, 1 + 2 + 3) << depth;
  }
}

TEST(NiahDoors, AsksForAnotherColourInEveryRepeat) {
  NiahOptions options;
  options.haystack_text = Prose(400);
  options.contexts = {1000};
  options.repeats = 4;
  options.doors = 3;
  std::vector<std::string> colours;
  for (const Prompt& prompt : NiahPrompts(TinyTokenizer(), options)) {
    const nlohmann::json parameters = nlohmann::json::parse(prompt.task.parameters_json);
    const std::string colour = ColourIn(prompt.task.priming_text);
    colours.push_back(colour);
    EXPECT_EQ(parameters["wording"], 0);
    EXPECT_EQ(prompt.task.priming_text, "The secret number for the " + colour + " door is");
    EXPECT_EQ(parameters["question"], "What is the secret number for the " + colour + " door?");
  }
  EXPECT_THAT(colours, ElementsAre("red", "blue", "green", "red"));
  const Prompt last = NiahPrompts(TinyTokenizer(), options)[3];
  EXPECT_EQ(last.file_stem, "niah_c1000_d050_k3_r03");

  options.wording = 2;
  EXPECT_EQ(NiahPrompts(TinyTokenizer(), options)[1].task.priming_text, "The secret number for the blue gate is");
}

TEST(NiahDoors, LeavesOneDoorAsItWas) {
  // Prompts as they were before there was a choice of doors: recorded traces must stay comparable with new ones.
  NiahOptions options;
  options.haystack_text = Prose(400);
  options.haystack_name = "prose.txt";
  options.contexts = {300, 900};
  options.depths = {0, 0.3, 1};
  options.repeats = 3;
  std::string everything;
  for (const Prompt& prompt : NiahPrompts(TinyTokenizer(), options)) {
    EXPECT_TRUE(SpansOf(prompt, "distractor").empty());
    everything +=
        prompt.file_stem + "\n" + TinyTokenizer().Decode(prompt.ids) + "\n" + prompt.task.parameters_json + "\n";
  }
  EXPECT_EQ(HexSha256(std::as_bytes(std::span(everything.data(), everything.size()))),
            "e076493725aca289067e21ce1c6771bf8b7ec3020b48ae797518fbfde53e484e");
}

TEST(NiahDoors, SaysWhatIsWrongInOneSentence) {
  const auto message = [](auto&& change) {
    NiahOptions options;
    options.haystack_text = Prose(200);
    options.haystack_name = "prose.txt";
    options.contexts = {1000};
    options.doors = 3;
    change(&options);
    const std::string text = MessageOf([&] { NiahPrompts(TinyTokenizer(), options); });
    EXPECT_EQ(text.find('\n'), std::string::npos);
    return text;
  };
  EXPECT_EQ(message([](NiahOptions*) {}), "");
  EXPECT_THAT(message([](NiahOptions* o) { o->doors = 0; }), HasSubstr("expected 1 to 8 doors, found 0"));
  EXPECT_THAT(message([](NiahOptions* o) { o->doors = 9; }), HasSubstr("found 9; correct --doors"));
  EXPECT_THAT(message([](NiahOptions* o) { o->wording = 1; }),
              AllOf(HasSubstr("names a door or gate for 3 doors, found 1"), HasSubstr("pass --wording 0 or 2")));
  EXPECT_THAT(message([](NiahOptions* o) { o->contexts = {200}; }),
              AllOf(HasSubstr("expected a context of at least"), HasSubstr("or fewer doors")));
}

}  // namespace
}  // namespace kvscope
