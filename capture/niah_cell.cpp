// SPDX-License-Identifier: Apache-2.0
#include "capture/niah_cell.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <random>
#include <string_view>
#include <utility>

#include "core/error.h"

namespace kvscope {
namespace {

// "The secret number for the red door is 48213.": the key is colour and noun. No noun: no key.
struct Wording {
  std::string_view noun;
  std::string_view colour;  // with one door
};
constexpr std::array<Wording, 3> kWordings = {{{"door", "red"}, {"", ""}, {"gate", "green"}}};
constexpr std::array<std::string_view, kMaxNiahDoors> kColours = {"red",   "blue",  "green", "yellow",
                                                                  "white", "black", "brown", "purple"};

int WordingOf(const NiahOptions& options, int repeat) {
  if (options.wording >= 0) return options.wording;
  return options.doors > 1 ? 0 : repeat % static_cast<int>(kWordings.size());
}

// One number for each door; they differ, and the haystack holds none of them.
std::vector<std::string> DrawValues(const Haystack& haystack, const NiahCell& cell, const NiahOptions& options) {
  const auto depth_key = static_cast<uint64_t>(std::llround(cell.depth * 1e9));
  std::mt19937_64 random(MixSeed(MixSeed(MixSeed(options.seed, static_cast<uint64_t>(cell.context)), depth_key),
                                 static_cast<uint64_t>(cell.repeat)));
  std::vector<std::string> values;
  for (int tried = 0; tried < 1000; ++tried) {
    std::string value = std::to_string(10000 + random() % 90000);
    if (haystack.text().find(value) != std::string_view::npos) continue;
    if (std::find(values.begin(), values.end(), value) != values.end()) continue;
    values.push_back(std::move(value));
    if (values.size() == static_cast<size_t>(options.doors)) return values;
  }
  throw Error(StrCat(haystack.name(), ": expected a text without most numbers of five digits, found ",
                     "nearly every one of 1000 drawn; pass prose"));
}

// " for the red door", empty in a wording without a key. Door 0 is the one asked for.
std::string KeyOf(const NiahOptions& options, const NiahCell& cell, int door) {
  const Wording& wording = kWordings[static_cast<size_t>(cell.wording)];
  if (wording.noun.empty()) return "";
  const auto rotated = static_cast<size_t>((cell.repeat + door) % options.doors);
  const std::string_view colour = options.doors == 1 ? wording.colour : kColours[rotated];
  return StrCat(" for the ", colour, " ", wording.noun);
}

}  // namespace

void CheckNiahOptions(const NiahOptions& options) {
  if (options.contexts.empty() || options.depths.empty() || options.repeats < 1) {
    throw Error(StrCat("niah: expected at least one context, depth and repeat, found ", options.contexts.size(), ", ",
                       options.depths.size(), " and ", options.repeats, "; pass one of each"));
  }
  if (options.max_new < 0) {
    throw Error(StrCat("niah: expected 0 or more new tokens, found ", options.max_new, "; correct --max-new"));
  }
  if (options.wording < -1 || options.wording >= static_cast<int>(kWordings.size())) {
    throw Error(StrCat("niah: expected a wording from 0 to 2, or -1 for all in turn, found ", options.wording));
  }
  if (options.doors < 1 || options.doors > kMaxNiahDoors) {
    throw Error(StrCat("niah: expected 1 to ", kMaxNiahDoors, " doors, found ", options.doors, "; correct --doors"));
  }
  if (options.doors > 1 && options.wording >= 0 && kWordings[static_cast<size_t>(options.wording)].noun.empty()) {
    throw Error(StrCat("niah: expected a wording that names a door or gate for ", options.doors, " doors, found ",
                       options.wording, "; pass --wording 0 or 2, or leave it out"));
  }
  for (const int context : options.contexts) {
    if (options.context_limit > 0 && context > options.context_limit) {
      throw Error(StrCat("niah: expected a context of at most ", options.context_limit, " tokens, which the model was ",
                         "made for, found ", context, "; ask for a shorter one"));
    }
  }
  for (const double depth : options.depths) {
    if (!(depth >= 0 && depth <= 1)) {
      throw Error(StrCat("niah: expected a depth from 0 to 1, found ", depth, "; correct --depth"));
    }
  }
}

uint64_t MixSeed(uint64_t a, uint64_t b) {
  std::mt19937_64 random(a * 0x9E3779B97F4A7C15u + b);
  random.discard(1);
  return random();
}

NiahCell MakeNiahCell(const Haystack& haystack, const NiahOptions& options, int context, double depth, int repeat) {
  NiahCell cell;
  cell.context = context;
  cell.depth = depth;
  cell.repeat = repeat;
  cell.chat_template = options.chat_template;
  cell.wording = WordingOf(options, repeat);
  cell.question = StrCat("What is the secret number", KeyOf(options, cell, 0), "?");
  const std::vector<std::string> values = DrawValues(haystack, cell, options);
  for (int door = 0; door < options.doors; ++door) {
    HiddenSentence sentence;
    sentence.depth = depth + static_cast<double>(door) / options.doors;
    if (door > 0 && sentence.depth >= 1) sentence.depth -= 1;
    sentence.priming = StrCat("The secret number", KeyOf(options, cell, door), " is");
    sentence.value = values[static_cast<size_t>(door)];
    sentence.text = StrCat(sentence.priming, " ", sentence.value, ".");
    cell.sentences.push_back(std::move(sentence));
  }
  std::sort(cell.sentences.begin(), cell.sentences.end(),
            [](const HiddenSentence& a, const HiddenSentence& b) { return a.depth < b.depth; });
  while (cell.needle().value != values[0]) ++cell.asked;
  return cell;
}

std::string FileStem(const NiahCell& cell) {
  std::array<char, 64> stem{};
  const std::string doors = cell.sentences.size() > 1 ? StrCat("_k", cell.sentences.size()) : "";  // k keys
  std::snprintf(stem.data(), stem.size(), "niah_c%d_d%03d%s_r%02d", cell.context,
                static_cast<int>(std::lround(cell.depth * 100)), doors.c_str(), cell.repeat);
  return stem.data();
}

}  // namespace kvscope
