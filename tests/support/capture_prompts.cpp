// SPDX-License-Identifier: Apache-2.0
#include "tests/support/capture_prompts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cctype>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <set>
#include <span>
#include <vector>

#include "capture/gguf.h"
#include "tests/support/capture_tiny_gguf.h"

namespace kvscope {
namespace {

std::vector<std::string> NumbersIn(std::string_view text) {
  std::vector<std::string> numbers;
  bool is_inside = false;
  for (const char c : text) {
    const bool is_digit = c >= '0' && c <= '9';
    if (is_digit && !is_inside) numbers.emplace_back();
    if (is_digit) numbers.back() += c;
    is_inside = is_digit;
  }
  return numbers;
}

}  // namespace

const Tokenizer& TinyTokenizer() {
  static const Tokenizer tokenizer = Tokenizer::FromGguf(GgufFile::FromBytes("tiny.gguf", TinyGgufBytes()));
  return tokenizer;
}

const Tokenizer& RealTokenizer() {
  static const Tokenizer tokenizer = Tokenizer::FromGguf(GgufFile::Open(RealModelPath()));
  return tokenizer;
}

const std::string& KingJames() {
  static const std::string text = [] {
    const std::string folder = testing::TempDir() + "/kvscope_texts";
    const std::string command = "'" KVSCOPE_SOURCE_DIR "/traces/make_texts' '" + folder + "' >/dev/null 2>&1";
    [[maybe_unused]] const int exit_code = std::system(command.c_str());  // austen.txt may fail without a network
    std::ifstream file(folder + "/kjv.txt", std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(file), {});
  }();
  return text;
}

std::string Prose(int sentences) {
  const char* const words[] = {
      "the", "river", "Mahershalalhashbaz", "and", "mountains,", "of", "Nebuchadnezzar", "went", "löwe", "by"};
  std::string text;
  for (int sentence = 0; sentence < sentences; ++sentence) {
    const int num_words = 5 + sentence * 7 % 11;
    text += "So";
    for (int word = 0; word < num_words; ++word) text += std::string(" ") + words[(sentence * 3 + word * word) % 10];
    text += sentence % 5 == 4 ? "!\n\n" : ". ";
  }
  return text;
}

std::string Decoded(const Tokenizer& tokenizer, const Prompt& prompt, int begin, int end) {
  return tokenizer.Decode(std::span(prompt.ids).subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin)));
}

std::string Trimmed(std::string text) {
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.front()))) text.erase(0, 1);
  return text;
}

void ExpectWellFormed(const Tokenizer& tokenizer, const Prompt& prompt, int context) {
  SCOPED_TRACE(prompt.file_stem);
  ASSERT_EQ(prompt.ids.size(), static_cast<size_t>(context));
  const std::string text = tokenizer.Decode(prompt.ids);
  EXPECT_EQ(tokenizer.Encode(text, true), prompt.ids);

  // Segments tile the prompt; the plan is made where the question begins.
  ASSERT_EQ(prompt.segments.size(), 3u);
  int at = 0;
  for (const Segment& segment : prompt.segments) {
    EXPECT_EQ(segment.token_begin, at);
    EXPECT_LT(segment.token_begin, segment.token_end);
    EXPECT_EQ(segment.decide_at, segment.role == "context");
    at = segment.token_end;
  }
  EXPECT_EQ(at, context);
  const Segment& body = prompt.segments[1];
  const Segment& question = prompt.segments[2];
  EXPECT_EQ(Decoded(tokenizer, prompt, body.token_begin, body.token_end).find("Read the text and answer"), 0u);

  const nlohmann::json parameters = nlohmann::json::parse(prompt.task.parameters_json);
  const std::string value = parameters["needle_value"];
  EXPECT_EQ(Decoded(tokenizer, prompt, question.token_begin, question.token_end),
            parameters["question"].get<std::string>() + "<|im_end|>\n<|im_start|>assistant\n");

  // Spans hold exactly what they say.
  const Span& needle = SpanOf(prompt, "needle");
  EXPECT_EQ(Trimmed(Decoded(tokenizer, prompt, needle.token_begin, needle.token_end)), needle.label);
  EXPECT_EQ(needle.label, prompt.task.priming_text + prompt.task.scored_text + ".");
  const Span& digits = SpanOf(prompt, "needle_value");
  EXPECT_EQ(Trimmed(Decoded(tokenizer, prompt, digits.token_begin, digits.token_end)), value);
  EXPECT_GE(digits.token_begin, needle.token_begin);
  EXPECT_LT(digits.token_end, needle.token_end);
  EXPECT_GE(needle.token_begin, body.token_begin);
  EXPECT_LE(needle.token_end, body.token_end);

  // Every number is five digits; they differ, the prompt holds no others, and the scorer looks for the needle's.
  std::vector<std::string> values = parameters.value("distractor_values", std::vector<std::string>());
  values.push_back(value);
  for (const std::string& number : values) {
    EXPECT_EQ(number.size(), 5u);
    EXPECT_NE(number[0], '0');
  }
  EXPECT_THAT(NumbersIn(text), testing::UnorderedElementsAreArray(values));
  EXPECT_EQ(std::set<std::string>(values.begin(), values.end()).size(), values.size());
  EXPECT_THAT(prompt.task.expected_answers, testing::ElementsAre(value));
  EXPECT_EQ(prompt.task.scored_text, " " + value);

  // Before the needle a sentence ends, and it is not deeper than asked.
  const std::string before = Decoded(tokenizer, prompt, body.token_begin, needle.token_begin);
  EXPECT_NE(std::string(".!?)'").find(before[before.find_last_not_of(" \n")]), std::string::npos) << before;
  const double asked = parameters["depth_asked"];
  const double depth = parameters["depth"];
  EXPECT_LE(depth, asked);
  EXPECT_GE(depth, 0);
  if (asked == 0 || asked == 1) {
    EXPECT_EQ(depth, asked);
  }
}

}  // namespace kvscope
