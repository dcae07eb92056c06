// SPDX-License-Identifier: Apache-2.0
// A study: arms of many runs, their results, and the page that says what came out. The arms and the runs are
// replay/live/study_run's; this header is what the page needs to know, so that it can be written from files alone.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/results.h"

namespace kvscope {

// One arm: a question, asked of some policies on some prompts. Rows of `results` have mode live or replay, and
// everything that tells them apart in their columns: policy (the spec as given), keep_fraction_asked, protocol, task,
// context, depth, guard_sinks, guard_recent, trace (the prompt's name; `text` prompts begin with the text's name).
struct StudyArm {
  std::string name;      // "main", "length", "fractions", "doors", "perplexity", "ablation"
  std::string question;  // one sentence
  Results results;
  int prompts_done = 0, prompts_planned = 0;  // a study may be read while it runs
};

struct Study {
  std::string method;   // "adkvc": the policy whose claims are tested
  std::string command;  // as one could type it again
  std::string machine;
  double hours = 0;  // of computing
  std::vector<StudyArm> arms;
  const StudyArm* Find(std::string_view name) const;
};

// The page (self-contained HTML) and its pictures as PNGs in `pictures`. Throws Error. Returns the paths of the
// pictures.
std::vector<std::string> WriteStudyPage(const Study& study, const std::string& path, const std::string& pictures);

// A page of Markdown with the hypotheses and their figures, for replay/policies/STUDY.md: every figure in it is made
// from the data.
std::string StudyMarkdown(const Study& study);

}  // namespace kvscope
