// SPDX-License-Identifier: Apache-2.0
// Live: the policies of replay, run inside the decoder over caches that really shrink. One prefill per prompt, in full;
// every policy decides on what it recorded (the same evidence pass as replay), forks from it, and the forks advance as
// one batch. A policy that lets a part of the tokens go on has its upper layers run again on those (propagation.h); its
// time to the first token counts those and the lower layers of the prefill. Measured per fork: the greedy answer, the
// answer's NLL, rank and right prefix under teacher forcing, KL and agreement with the full cache on the full cache's
// own continuation, perplexity of a given continuation, bytes, speed.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "capture/decoder.h"
#include "capture/task.h"
#include "capture/tokenizer.h"
#include "core/results.h"
#include "replay/engine.h"

namespace kvscope {

struct LiveOptions {
  DType kv_dtype = DType::kF16;
  int prefill_chunk = 512;
  Protocol protocol = Protocol::kPrompt;
  uint64_t seed = 0;
  int64_t fork_bytes = int64_t{4} << 30;  // forks advance in groups whose caches fit; their copies for measuring count
  bool measures_speed = true;             // also decodes a few tokens with each fork alone
  bool keeps_kept = true;                 // the arrays of what each policy kept
  std::function<void(const std::string& stage, int done, int total)> progress{};
};

// One prompt, every (policy, budget): one row each in the order of `requests`. Requests' decision tokens are set here.
// Throws Error.
std::vector<Results::Row> RunLive(Decoder& decoder, const Tokenizer& tokenizer, const Prompt& prompt,
                                  std::vector<PlanRequest> requests, const LiveOptions& options);

}  // namespace kvscope
