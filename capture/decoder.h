// SPDX-License-Identifier: Apache-2.0
// A decoder-only transformer on the CPU, a chunk of tokens at a time, for one sequence or many at once. The many share
// every weight product; each has its own cache. A row's bits do not depend on what else is in the call
// (kernels/matmul.h), so forks of one prompt that advance as a batch give exactly what each would give alone.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "capture/feed_forward.h"
#include "capture/kv_cache.h"
#include "capture/model.h"

namespace kvscope {

// Receives what attention saw of one sequence and layer, after its Attend. May take the chunk.
using LayerObserver = std::function<void(int layer, LayerChunk& chunk)>;

// Sees the residual stream of one sequence after a layer: [token, hidden] of the chunk.
using ResidualObserver = std::function<void(int layer, std::span<const float> residual)>;

struct DecoderInput {
  KvCache* cache = nullptr;
  std::span<const int> ids;              // the chunk; its first token has position cache->num_tokens()
  LayerObserver observer;                // may be empty
  ResidualObserver residual_observer{};  // may be empty
  // For a run that begins above layer 0, instead of ids: what the layer below left, [token, hidden], and the position
  // of each token, ascending. The cache needs no entries below first_layer.
  std::span<const float> residual{};
  std::span<const int> positions{};
};

class Decoder {
 public:
  explicit Decoder(const Model& model, Activations activations = Activations::kFloat)
      : model_(model), activations_(activations), feed_forward_(activations) {}

  // Runs one chunk of each input through layers first_layer and up. Returns the final hidden states, normed, one row of
  // `hidden` floats per token, inputs in order; valid until the next call. Throws Error when q, k or v leave the range
  // of an f16 cache.
  std::span<const float> Run(std::span<const DecoderInput> inputs, int first_layer = 0);

  // logits [rows, vocab] of `rows` rows of hidden states.
  void Logits(std::span<const float> hidden, int rows, std::span<float> logits) const;

  const Model& model() const { return model_; }
  Activations activations() const { return activations_; }

 private:
  struct Chunk;  // one input's place in the batch
  void Embed(const Chunk& chunk);
  void RunLayer(int layer, std::vector<Chunk>& chunks);
  void MakeHeads(int layer, Chunk& chunk);
  void Attend(int layer, std::vector<Chunk>& chunks);
  void AddToResidual(const std::vector<float>& post_norm);

  const Model& model_;
  Activations activations_;  // in products with quantised weights
  int rows_ = 0;
  std::vector<float> x_, normed_, q_, k_, v_, attended_, out_;  // [rows, width]
  FeedForwardRunner feed_forward_;
};

// log softmax of one row of logits, in double; returns the log-sum-exp.
double LogSumExp(std::span<const float> logits);
void NormalizeLogits(std::span<float> logits);  // they become log-probabilities
// KL(reference || other) of two rows of log-probabilities, nats. What the reference gives less than e^-60 is left out.
double KlDivergence(std::span<const float> reference, std::span<const float> other);
int ArgMax(std::span<const float> values);  // ties: the lower index

}  // namespace kvscope
