// SPDX-License-Identifier: Apache-2.0
// One run of a model over a prompt, recorded. The steps are those of every decode in kvscope: prefill in chunks that
// break at segment boundaries, then one token at a time, step 0 feeding back the first generated token.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "capture/decoder.h"
#include "capture/engine.h"
#include "capture/run_sink.h"
#include "capture/task.h"
#include "capture/tokenizer.h"

namespace kvscope {

struct RunOptions {
  DType kv_dtype = DType::kF16;
  TraceLevel level = TraceLevel::kQkvRows;
  int prefill_chunk = 512;      // tokens
  bool logprobs = false;        // of every prompt token; always computed for forced tokens
  std::vector<int> layers{};    // absolute; empty: all
  std::vector<int> kv_heads{};  // absolute; empty: all
  std::string query_rows = "all";
  std::function<void(int tokens_done, int tokens_total)> progress{};
};

// What a trace of this run says about it, before it starts. model_sha256 may be empty.
TraceInfo MakeTraceInfo(const ModelConfig& config, const EngineInfo& engine, const std::string& model_sha256,
                        const Prompt& prompt, const RunOptions& options);
TraceInfo MakeTraceInfo(const Model& model, const std::string& model_sha256, const Prompt& prompt,
                        const RunOptions& options);  // on the CPU

// Tokens of the longest run, everything that may be generated included.
int LongestRun(std::span<const Prompt> prompts);

struct RunOutcome {
  std::vector<int> answer_ids;  // generated or forced
  std::string answer;           // text; empty for forced runs
  double score = 0;             // NaN when the task has no scorer
  double mean_nll = 0;          // of forced tokens, nats; NaN otherwise
  int prompt_tokens = 0, steps = 0;
  double prefill_secs = 0, decode_secs = 0;
};

// info must be what MakeTraceInfo gave; sink may be nullptr. Without a tokenizer (random weights) ids have no text, and
// nothing ends the run before max_new.
RunOutcome RunPrompt(Engine& engine, const Tokenizer* tokenizer, const Prompt& prompt, const RunOptions& options,
                     const TraceInfo& info, RunSink* sink);

// Ends of the prefill chunks of tokens [begin, end): multiples of chunk tokens from each segment's start, and segment
// ends. Ascending, the last is `end`.
std::vector<int> ChunkEnds(int begin, int end, int chunk, const std::vector<Segment>& segments);

// Feeds tokens [cache.num_tokens(), end) of ids; returns the hidden state of the last one. on_hidden sees each chunk's
// hidden rows, on_residual the residual stream after each of its layers.
using HiddenObserver = std::function<void(int first_token, std::span<const float> hidden)>;
std::vector<float> Prefill(Decoder& decoder, KvCache& cache, std::span<const int> ids, int end, int chunk,
                           const std::vector<Segment>& segments, const LayerObserver& observer,
                           const HiddenObserver& on_hidden, const ResidualObserver& on_residual = {});

// The tokens as a trace holds them; without a tokenizer their pieces are their numbers.
TraceTokens TokensFromIds(const Tokenizer* tokenizer, std::span<const int> ids, int first_position);

}  // namespace kvscope
