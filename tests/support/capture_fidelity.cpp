// SPDX-License-Identifier: Apache-2.0
#include "tests/support/capture_fidelity.h"

#include <algorithm>
#include <cmath>

#include "capture/decoder.h"
#include "capture/full_cache.h"
#include "capture/run.h"
#include "core/error.h"

namespace kvscope {
namespace {

class Difference {
 public:
  void Add(double found, double expected) {
    squares_ += (found - expected) * (found - expected);
    size_ += expected * expected;
    ++count_;
    largest_ = std::max(largest_, std::fabs(found - expected));
  }
  void Add(const Buffer& found, const Buffer& expected) {
    KVSCOPE_CHECK_EQ(found.size(), expected.size());
    for (size_t i = 0; i < found.size(); ++i)
      Add(FloatFromHalf(found.halves()[i]), FloatFromHalf(expected.halves()[i]));
  }
  void Add(const std::vector<float>& found, const std::vector<float>& expected) {
    KVSCOPE_CHECK_EQ(found.size(), expected.size());
    for (size_t i = 0; i < found.size(); ++i) Add(found[i], expected[i]);
  }
  double relative() const { return std::sqrt(squares_ / size_); }
  double absolute() const { return std::sqrt(squares_ / count_); }
  double largest() const { return largest_; }

 private:
  double squares_ = 0, size_ = 0, count_ = 0, largest_ = 0;
};

double Relative(const Buffer& found, const Buffer& expected) {
  Difference difference;
  difference.Add(found, expected);
  return difference.relative();
}

// Keeps what the device saw of the one chunk.
class ChunkSink final : public RunSink {
 public:
  explicit ChunkSink(int layers) : chunks(layers) {}
  void AppendTokens(TraceTokens) override {}
  void AppendChunk(int layer_index, int, LayerChunk chunk) override { chunks[layer_index] = std::move(chunk); }
  bool wants_rows() const override { return false; }
  void AppendRows(int, int, std::vector<Half>) override {}
  void AppendStep(StepInfo) override {}
  void SetLogprobs(int, std::vector<float>) override {}
  void SetSegments(std::vector<Segment>, std::vector<Span>) override {}
  void SetAnswer(TraceAnswer) override {}

  std::vector<LayerChunk> chunks;
};

}  // namespace

FidelityErrors Worst(const FidelityErrors& a, const FidelityErrors& b) {
  return {std::max(a.q, b.q),     std::max(a.k, b.k),     std::max(a.v, b.v),
          std::max(a.out, b.out), std::max(a.lse, b.lse), std::max(a.largest_lse, b.largest_lse)};
}

std::vector<FidelityErrors> CompareLayers(const Model& model, DeviceEngine& engine, std::span<const int> ids) {
  const ModelConfig& c = model.config;
  std::vector<std::vector<float>> residuals(1);  // before each layer, and behind the last
  for (const int id : ids) {
    for (int i = 0; i < c.hidden; ++i) residuals[0].push_back(model.embedding.At(id, i));
  }
  std::vector<LayerChunk> expected(c.num_layers);
  FullCache cache(c, DType::kF16);
  Decoder decoder(model);
  DecoderInput input{&cache, ids, [&](int layer, LayerChunk& chunk) { expected[layer] = std::move(chunk); }};
  input.residual_observer = [&](int, std::span<const float> residual) {
    residuals.emplace_back(residual.begin(), residual.end());
  };
  decoder.Run({&input, 1});

  std::vector<FidelityErrors> errors(c.num_layers);
  engine.set_residual_hook([&](int layer, std::span<float> residual) {
    if (layer > 0) {
      Difference difference;
      for (size_t i = 0; i < residual.size(); ++i) {
        const double before = residuals[layer - 1][i];
        difference.Add(residual[i] - before, residuals[layer][i] - before);
      }
      errors[layer - 1].out = difference.relative();
    }
    std::copy(residuals[layer].begin(), residuals[layer].end(), residual.begin());
  });
  RunOptions options;
  options.level = TraceLevel::kQkv;
  options.prefill_chunk = static_cast<int>(ids.size());
  const TraceInfo info = MakeTraceInfo(c, engine.info(), "", Prompt{}, options);
  ChunkSink sink(c.num_layers);
  engine.Begin(info, &sink, static_cast<int>(ids.size()));
  engine.Run(ids, /*is_step=*/false);
  engine.set_residual_hook({});
  for (int layer = 0; layer < c.num_layers; ++layer) {
    const LayerChunk &found = sink.chunks[layer], &wanted = expected[layer];
    errors[layer].q = Relative(found.q, wanted.q);
    errors[layer].k = Relative(found.k, wanted.k);
    errors[layer].v = Relative(found.v, wanted.v);
    Difference lse;
    lse.Add(found.lse, wanted.lse);
    errors[layer].lse = lse.absolute(), errors[layer].largest_lse = lse.largest();
  }
  return errors;
}

FidelityErrors CompareTraces(const TraceSource& device, const TraceSource& cpu) {
  FidelityErrors worst;
  for (int layer = 0; layer < static_cast<int>(cpu.info().layers.size()); ++layer) {
    Difference q, k, v, lse;
    for (int kv_head = 0; kv_head < static_cast<int>(cpu.info().layers[layer].kv_heads.size()); ++kv_head) {
      const auto found = device.ReadKvHead(layer, kv_head), expected = cpu.ReadKvHead(layer, kv_head);
      q.Add(found->q, expected->q), k.Add(found->k, expected->k), v.Add(found->v, expected->v);
      lse.Add(found->lse, expected->lse);
    }
    worst = Worst(worst, {q.relative(), k.relative(), v.relative(), 0, lse.absolute(), lse.largest()});
  }
  return worst;
}

}  // namespace kvscope
