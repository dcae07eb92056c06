// SPDX-License-Identifier: Apache-2.0
// Runs a study's arms prompt by prompt. Each (arm, prompt, protocol) is a results file of its own that appears only
// when complete, so a study that was stopped goes on where it was, and can be read while it runs.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "capture/decoder.h"
#include "capture/tokenizer.h"
#include "replay/live/study_arms.h"
#include "replay/study.h"

namespace kvscope {

struct StudyRunOptions {
  std::string folder;  // of the parts
  double minutes = 0;  // no new part begins after so many; 0: no bound
  std::function<void(const std::string& arm, const std::string& prompt, int done, int total)> progress{};
};

// Runs what is not there yet. A part made by other requests or another version is made again. Throws Error.
void RunStudyArms(Decoder& decoder, const Tokenizer& tokenizer, const std::vector<ArmPlan>& arms,
                  const StudyRunOptions& options);

// What is there, arm by arm.
std::vector<StudyArm> ReadStudyArms(const Tokenizer& tokenizer, int context_limit, const std::vector<ArmPlan>& arms,
                                    const std::string& folder, double* hours);

}  // namespace kvscope
