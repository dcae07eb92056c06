// SPDX-License-Identifier: Apache-2.0
#include "replay/live/forks.h"

#include <tbb/parallel_for.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace kvscope {
namespace {

constexpr int kBlock = 16;  // positions of one chunk of a chain

// log softmax in place of logits, and the best id.
int Normalize(std::span<float> logits) {
  NormalizeLogits(logits);
  return ArgMax(logits);
}

void Score(std::span<const float> reference, int reference_best, std::span<const float> own, int own_best, int id,
           ChainScore& score) {
  score.nll.push_back(-own[id]);
  score.rank.push_back(
      1 + static_cast<int>(std::count_if(own.begin(), own.end(), [&](float value) { return value > own[id]; })));
  score.kl.push_back(KlDivergence(reference, own));
  score.agrees.push_back(own_best == reference_best);
}

}  // namespace

void Feed(Decoder& decoder, std::span<Fork> forks, std::span<const int> ids) {
  if (ids.empty() || forks.empty()) return;
  const ModelConfig& c = decoder.model().config;
  std::vector<DecoderInput> inputs;
  for (Fork& fork : forks) inputs.push_back({fork.cache.get(), ids, {}});
  const std::span<const float> hidden = decoder.Run(inputs);
  std::vector<float> last;
  for (size_t fork = 0; fork < forks.size(); ++fork) {
    const auto row = hidden.begin() + static_cast<int64_t>(((fork + 1) * ids.size() - 1) * c.hidden);
    last.insert(last.end(), row, row + c.hidden);
  }
  std::vector<float> logits(forks.size() * c.vocab);
  decoder.Logits(last, static_cast<int>(forks.size()), logits);
  for (size_t fork = 0; fork < forks.size(); ++fork) {
    forks[fork].logits.assign(logits.begin() + static_cast<int64_t>(fork * c.vocab),
                              logits.begin() + static_cast<int64_t>((fork + 1) * c.vocab));
  }
}

std::vector<ChainScore> ScoreChain(Decoder& decoder, std::span<Fork> forks, std::span<const int> ids) {
  const ModelConfig& c = decoder.model().config;
  const size_t num_forks = forks.size(), vocab = c.vocab;
  std::vector<ChainScore> scores(num_forks);
  for (size_t begin = 0; begin < ids.size(); begin += kBlock) {
    const size_t end = std::min(ids.size(), begin + kBlock);
    // The chunk's last token is fed only when a later one is asked for.
    const std::span<const int> fed = ids.subspan(begin, std::min(end, ids.size() - 1) - begin);
    std::vector<float> logits;
    if (!fed.empty()) {
      std::vector<DecoderInput> inputs;
      for (Fork& fork : forks) inputs.push_back({fork.cache.get(), fed, {}});
      const std::span<const float> hidden = decoder.Run(inputs);
      logits.resize(num_forks * fed.size() * vocab);
      decoder.Logits(hidden, static_cast<int>(num_forks * fed.size()), logits);
    }
    // Row i of a fork's logits follows ids[begin + i]; what precedes the block is the fork's own `logits`.
    const auto row = [&](size_t fork, size_t i) {
      return i == 0 ? std::span<float>(forks[fork].logits)
                    : std::span<float>(logits).subspan((fork * fed.size() + i - 1) * vocab, vocab);
    };
    const size_t count = end - begin;
    std::vector<int> best(num_forks * count);
    tbb::parallel_for(size_t{0}, num_forks * count,
                      [&](size_t task) { best[task] = Normalize(row(task / count, task % count)); });
    tbb::parallel_for(size_t{0}, num_forks, [&](size_t fork) {
      for (size_t i = 0; i < count; ++i)
        Score(row(0, i), best[i], row(fork, i), best[fork * count + i], ids[begin + i], scores[fork]);
    });
    if (fed.size() < count) break;  // the end: nothing follows
    for (size_t fork = 0; fork < num_forks; ++fork) {
      const std::span<float> last = row(fork, count);
      forks[fork].logits.assign(last.begin(), last.end());
    }
  }
  return scores;
}

std::vector<GreedyAnswer> DecodeGreedily(Decoder& decoder, const Tokenizer& tokenizer, std::span<Fork> forks,
                                         int max_new, const StepObserver& on_step) {
  const ModelConfig& c = decoder.model().config;
  std::vector<GreedyAnswer> answers(forks.size());
  std::vector<size_t> running;
  for (size_t fork = 0; fork < forks.size(); ++fork) running.push_back(fork);
  for (int step = 0; step < max_new; ++step) {
    std::vector<size_t> next;
    for (const size_t fork : running) {
      const int id = ArgMax(forks[fork].logits);
      if (tokenizer.IsEnd(id)) continue;
      answers[fork].ids.push_back(id);
      next.push_back(fork);
    }
    running = std::move(next);
    if (running.empty()) break;
    std::vector<DecoderInput> inputs;
    for (const size_t fork : running) inputs.push_back({forks[fork].cache.get(), {&answers[fork].ids.back(), 1}, {}});
    const std::span<const float> hidden = decoder.Run(inputs);
    std::vector<float> logits(running.size() * c.vocab);
    decoder.Logits(hidden, static_cast<int>(running.size()), logits);
    for (size_t i = 0; i < running.size(); ++i) {
      forks[running[i]].logits.assign(logits.begin() + static_cast<int64_t>(i * c.vocab),
                                      logits.begin() + static_cast<int64_t>((i + 1) * c.vocab));
      if (on_step) on_step(running[i]);
    }
  }
  return answers;
}

}  // namespace kvscope
