// SPDX-License-Identifier: Apache-2.0
// What a study runs: arms of prompts, policies, budgets and protocols. Nothing here knows how they are run.
#pragma once

#include <string>
#include <vector>

#include "capture/task_flags.h"
#include "replay/engine.h"

namespace kvscope {

struct ArmPlan {
  std::string name, question;
  std::vector<TaskFlags> tasks;  // their prompts, in turn
  std::vector<PlanRequest> requests;
  std::vector<Protocol> protocols = {Protocol::kPrompt};
  int replayed_prompts = 0;  // the first of these are also captured and replayed
};

enum class StudySize { kQuick, kNormal, kFull };

struct StudyTexts {
  std::string haystack, second;  // files
};

// The study of ADKVC's claims. kQuick: the same arms at 512 tokens, a few minutes; kFull: every policy in every arm and
// every combination of the ablations, without a bound on time.
std::vector<ArmPlan> AdkvcArms(StudySize size, const StudyTexts& texts);

}  // namespace kvscope
