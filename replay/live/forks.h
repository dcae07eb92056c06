// SPDX-License-Identifier: Apache-2.0
// Many caches of one prompt that advance as one batch: weights are read once a step for all of them. Each fork's
// numbers are those it would give alone, bit for bit (kernels/matmul.h).
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "capture/decoder.h"
#include "capture/tokenizer.h"

namespace kvscope {

struct Fork {
  std::unique_ptr<KvCache> cache;
  std::vector<float> logits;  // [vocab] for the token after the last one fed

  Fork Clone() const { return {cache->Fork(), logits}; }
};

// Feeds the same tokens to every fork as one chunk each; logits follow.
void Feed(Decoder& decoder, std::span<Fork> forks, std::span<const int> ids);

// What a fork says of a given continuation.
struct ChainScore {
  std::vector<double> nll;   // [position] of ids[position], nats
  std::vector<int> rank;     // [position] of ids[position] among the vocabulary, 1: the most likely
  std::vector<double> kl;    // [position] from forks[0]'s distribution to this one's, nats
  std::vector<bool> agrees;  // [position] same most likely token as forks[0]
};
// Teacher-forces ids through all forks (which advance by ids.size() - 1 tokens). Full distributions are held for a
// block of positions at a time.
std::vector<ChainScore> ScoreChain(Decoder& decoder, std::span<Fork> forks, std::span<const int> ids);

// Greedy answers. on_step sees every fork that was fed a token.
struct GreedyAnswer {
  std::vector<int> ids;
};
using StepObserver = std::function<void(size_t fork)>;
std::vector<GreedyAnswer> DecodeGreedily(Decoder& decoder, const Tokenizer& tokenizer, std::span<Fork> forks,
                                         int max_new, const StepObserver& on_step);

}  // namespace kvscope
