// SPDX-License-Identifier: Apache-2.0
// How an answer is judged: the digits occur in it, or how far they are right.
#include <algorithm>
#include <cmath>
#include <limits>

#include "capture/task.h"

namespace kvscope {
namespace {

bool IsDigit(char c) {
  return c >= '0' && c <= '9';
}

// The longest beginning of `expected` that stands in `answer`. The end of another number is no beginning: in 1482 the
// expected 48213 does not begin. All of it counts wherever it stands, as in ScoreAnswer.
size_t LongestPrefix(std::string_view expected, std::string_view answer) {
  if (answer.find(expected) != std::string_view::npos) return expected.size();
  size_t longest = 0;
  for (size_t at = 0; at < answer.size(); ++at) {
    if (at > 0 && IsDigit(answer[at - 1]) && !expected.empty() && IsDigit(expected[0])) continue;
    const std::string_view rest = answer.substr(at);
    const auto end = std::mismatch(expected.begin(), expected.end(), rest.begin(), rest.end()).first;
    longest = std::max(longest, static_cast<size_t>(end - expected.begin()));
  }
  return longest;
}

}  // namespace

double ScoreAnswer(const TaskInfo& task, std::string_view answer) {
  if (task.expected_answers.empty()) return std::numeric_limits<double>::quiet_NaN();
  const bool is_found =
      std::any_of(task.expected_answers.begin(), task.expected_answers.end(), [&](const std::string& expected) {
        return !expected.empty() && answer.find(expected) != std::string_view::npos;
      });
  return is_found ? 1 : 0;
}

int AnswerPrefix(const TaskInfo& task, std::string_view answer) {
  size_t longest = 0;
  for (const std::string& expected : task.expected_answers)
    longest = std::max(longest, LongestPrefix(expected, answer));
  return static_cast<int>(longest);
}

}  // namespace kvscope
