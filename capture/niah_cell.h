// SPDX-License-Identifier: Apache-2.0
// One prompt of the needle grid before it is composed: which sentences the haystack hides, how deep, and which one the
// question asks for. With several doors the sentences are alike but for colour and number, as the multi-key needles of
// RULER (Hsieh et al. 2024, arXiv 2404.06654): who only looks for a number finds the wrong one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "capture/niah_haystack.h"
#include "capture/task.h"

namespace kvscope {

// The sentence is priming + " " + value + ".".
struct HiddenSentence {
  double depth = 0;     // asked
  std::string priming;  // "The secret number for the red door is"
  std::string value;    // "48213"
  std::string text;
};

struct NiahCell {
  int context = 0;
  double depth = 0;
  int repeat = 0;
  int wording = 0;
  std::vector<HiddenSentence> sentences;  // one for each door, by depth
  size_t asked = 0;                       // the sentence that is the needle
  std::string question;
  std::string chat_template;

  const HiddenSentence& needle() const { return sentences[asked]; }
};

// Throws Error when an option does not fit.
void CheckNiahOptions(const NiahOptions& options);

// The needle stands at `depth`, the others at equal distances from it, round the end of the text. Which colour is asked
// for rotates with the repeat. Throws Error when the haystack holds most numbers.
NiahCell MakeNiahCell(const Haystack& haystack, const NiahOptions& options, int context, double depth, int repeat);

std::string FileStem(const NiahCell& cell);

// A seed that depends on both; the same on every platform.
uint64_t MixSeed(uint64_t a, uint64_t b);

}  // namespace kvscope
