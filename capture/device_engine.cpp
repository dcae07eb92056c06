// SPDX-License-Identifier: Apache-2.0
#include "capture/device_engine.h"

#include <algorithm>
#include <climits>
#include <cmath>

#include "capture/device_capture.h"
#include "capture/device_weights.h"
#include "core/error.h"
#include "core/units.h"
#include "kernels/add_rows.h"
#include "kernels/attention_decode.h"
#include "kernels/attention_prefill.h"
#include "kernels/cap_logits.h"
#include "kernels/embed.h"
#include "kernels/glu.h"
#include "kernels/rms_norm.h"
#include "kernels/rope.h"
#include "kernels/top_logits.h"

namespace kvscope::KVSCOPE_TWIN {
namespace {

constexpr int kLogitRows = 64;  // rows of logits held at once
constexpr const char* kTryBF16 = "; with --weights f16 activations may have left its range: try --weights bf16";

// [rows, width] f32 of a buffer whose rows have that width.
TensorView Rows(const DeviceBuffer& buffer, int64_t rows, int64_t width) {
  return ContiguousView(buffer.data(), DType::kF32, {rows, width}, 2, kTwinDevice);
}
TensorView Halves(void* data, int64_t heads, int64_t tokens, int64_t dim) {
  return ContiguousView(data, DType::kF16, {heads, tokens, dim}, 3, kTwinDevice);
}

class EngineOnDevice final : public DeviceEngine {
 public:
  EngineOnDevice(DeviceWeights weights, const DeviceOptions& options, bool is_random);

  const ModelConfig& config() const override { return weights_.config(); }
  EngineInfo info() const override {
    const char* const type = weights_.type() == DenseType::kF16 ? "f16" : "bf16";
    return {"cuda", DeviceName(), StrCat("weights=", type, is_random_ ? " random" : "")};
  }
  CaptureMemory capture_memory() const override { return {capture_bytes_, capture_.host_bytes()}; }
  void set_residual_hook(ResidualHook hook) override { residual_hook_ = std::move(hook); }
  int64_t weight_bytes() const override { return static_cast<int64_t>(weights_.bytes()); }

  void Begin(const TraceInfo& info, RunSink* sink, int max_tokens) override;
  void Run(std::span<const int> ids, bool is_step) override;
  std::vector<float> Logprobs(std::span<const int> next) override;
  Alternatives Best(int count) override;
  float LogprobOf(int id) override;
  void SendColumns() override { capture_.SendColumns(); }

 private:
  void Reserve(bool is_recorded);
  size_t WorkspaceBytes(bool has_rows) const;
  void CheckIds(std::span<const int> ids) const;
  void SendInputs(std::span<const int> ids);
  void RunChunk(int tokens);
  void RunStep(int parity);
  void EnqueueStep(int parity, void* stream);
  void Project(int layer, int tokens, const Seen& seen, void* stream);
  void FeedForward(int layer, int tokens, void* stream);
  void Finish(int tokens, void* stream);
  void Multiply(const TensorView& x, const DenseMatrix& matrix, const TensorView& out, bool accumulate, void* stream);
  void AddToResidual(const TensorView& x, const DenseMatrix& matrix, const TensorView& post_norm, void* stream);
  void FindLogits(const TensorView& hidden, const TensorView& logits, void* stream);
  void ShowResidual(int layer, int tokens);
  void Await();
  void FindWanted(const TensorView& logits, size_t first);

  Workspace On(void* stream) const { return {workspace_.data(), workspace_.bytes(), stream}; }
  // A layer's cache with room for the whole run.
  TensorView Cache(const DeviceBuffer& cache, int layer) const {
    Half* const data = static_cast<Half*>(cache.data()) + static_cast<int64_t>(layer) * kv_width_ * capacity_;
    return Halves(data, config().num_kv_heads, capacity_, config().head_dim);
  }
  // A layer's [capacity, head_dim / 2] of cos_ or sin_.
  TensorView Angles(const DeviceBuffer& table, int layer) const {
    TensorView rows = Rows(table, capacity_, config().head_dim / 2);
    rows.data = rows.floats() + config().layers[layer].rope_set * rows.shape[0] * rows.shape[1];
    return rows;
  }
  const int* position() const { return static_cast<const int*>(inputs_.data()); }  // of the chunk's first token
  const int* tokens_after() const { return position() + 1; }                       // the chunk included
  const int* ids() const { return position() + 2; }

  const DeviceWeights weights_;
  const bool is_random_;
  const int q_width_, kv_width_;
  ResidualHook residual_hook_;

  // Of a run.
  int capacity_ = 0, max_chunk_ = 0;
  int num_tokens_ = 0, first_of_chunk_ = 0, chunk_tokens_ = 0, num_steps_ = 0;
  int64_t capture_bytes_ = 0;
  DeviceBuffer k_, v_;                                  // [layers, kv_heads, capacity, head_dim] f16
  DeviceBuffer cos_, sin_;                              // [rope sets, capacity, head_dim / 2]
  DeviceBuffer inputs_;                                 // int: position, tokens after, ids
  DeviceBuffer x_, normed_, qkv_, attended_, gate_up_;  // [chunk, width] f32
  DeviceBuffer logits_, many_logits_;                   // [vocab], [kLogitRows, vocab]
  DeviceBuffer wanted_, wanted_logprobs_;               // [chunk]
  DeviceBuffer workspace_;
  PinnedBuffer host_inputs_;
  Graph graphs_[2];  // a decode step, once for each stage

  DeviceBuffer bad_tokens_;  // [layers] int: the first token of a chunk outside f16's range
  DeviceBuffer top_ids_, top_logprobs_, unused_ids_, unused_logprobs_;
  PinnedBuffer results_;  // bad_tokens_, top_ids_ and top_logprobs_
  DeviceCapture capture_;
  Event inputs_sent_;
  Stream stream_;
};

EngineOnDevice::EngineOnDevice(DeviceWeights weights, const DeviceOptions& options, bool is_random)
    : weights_(std::move(weights)),
      is_random_(is_random),
      q_width_(config().num_heads * config().head_dim),
      kv_width_(config().num_kv_heads * config().head_dim),
      bad_tokens_(config().num_layers * sizeof(int)),
      top_ids_(kMaxTop * sizeof(int)),
      top_logprobs_(kMaxTop * sizeof(float)),
      unused_ids_(kLogitRows * sizeof(int)),
      unused_logprobs_(kLogitRows * sizeof(float)),
      results_(bad_tokens_.bytes() + top_ids_.bytes() + top_logprobs_.bytes()),
      capture_(options.ring_bytes) {}

void EngineOnDevice::Begin(const TraceInfo& info, RunSink* sink, int max_tokens) {
  KVSCOPE_CHECK(info.model.kv_dtype == DType::kF16);
  Synchronize(stream_.get());
  for (Graph& graph : graphs_) graph = Graph();
  num_tokens_ = chunk_tokens_ = num_steps_ = 0;
  capacity_ = (max_tokens + 63) / 64 * 64;
  max_chunk_ = std::max(1, std::min(info.model.prefill_chunk, max_tokens));
  capture_.Begin(config(), info, sink, capacity_, max_chunk_, [this](int layer, int kv_head) {
    return static_cast<const Half*>(Cache(k_, layer).data) + int64_t{kv_head} * capacity_ * config().head_dim;
  });
  Reserve(sink != nullptr);
  capture_.Start(stream_.get());

  std::vector<float> cos, sin;
  for (const RopeSet& set : config().rope_sets) {
    for (int token = 0; token < capacity_; ++token) {
      const RopeAngles angles = RopeAnglesAt(token, set.inv_freq, set.attention_scaling);
      cos.insert(cos.end(), angles.cos.begin(), angles.cos.end());
      sin.insert(sin.end(), angles.sin.begin(), angles.sin.end());
    }
  }
  cos_.CopyFromHost(cos.data(), cos_.bytes(), stream_.get());
  sin_.CopyFromHost(sin.data(), sin_.bytes(), stream_.get());
  const std::vector<int> no_token(config().num_layers, INT_MAX);
  bad_tokens_.CopyFromHost(no_token.data(), bad_tokens_.bytes(), stream_.get());
}

// What the operations need for their own sums, at most.
size_t EngineOnDevice::WorkspaceBytes(bool has_rows) const {
  const ModelConfig& c = config();
  const DeviceBuffer none;  // sizes count, nothing is read
  size_t most = TopLogitsWorkspaceBytes({.logits = Rows(none, kLogitRows, c.vocab)});
  const auto product = [&](int rows, const DenseMatrix& matrix) {
    const DenseMatmulProblem problem{Rows(none, rows, matrix.inputs), matrix, Rows(none, rows, matrix.outputs), false};
    most = std::max(most, DenseWorkspaceBytes(problem));
  };
  product(kLogitRows, weights_.head());
  const DeviceWeights::Layer& layer = weights_.layers()[0];
  for (const DenseMatrix* const matrix : {&layer.qkv, &layer.attn_out, &layer.gate_up, &layer.down})
    product(max_chunk_, *matrix), product(1, *matrix);
  int any = 0;
  DecodeAttention attention;
  attention.q = ContiguousView(nullptr, DType::kF16, {c.num_heads, c.head_dim}, 2, kTwinDevice);
  attention.k = attention.v = Halves(nullptr, c.num_kv_heads, capacity_, c.head_dim);
  if (has_rows) attention.weights = ContiguousView(&any, DType::kF16, {c.num_heads, capacity_}, 2, kTwinDevice);
  attention.num_tokens = &any;
  return std::max(most, DecodeWorkspaceBytes(attention));
}

// Every buffer of a run. What it takes is known before the first is made.
void EngineOnDevice::Reserve(bool is_recorded) {
  const ModelConfig& c = config();
  const size_t layers = c.num_layers, capacity = capacity_, chunk = max_chunk_, f = sizeof(float), vocab = c.vocab;
  std::vector<BufferRequest> model{{&k_, sizeof(Half) * layers * kv_width_ * capacity},
                                   {&v_, sizeof(Half) * layers * kv_width_ * capacity},
                                   {&cos_, f * c.rope_sets.size() * capacity * c.head_dim / 2},
                                   {&sin_, f * c.rope_sets.size() * capacity * c.head_dim / 2},
                                   {&inputs_, sizeof(int) * (2 + chunk)},
                                   {&x_, f * chunk * c.hidden},
                                   {&normed_, f * chunk * c.hidden},
                                   {&qkv_, f * chunk * (q_width_ + 2 * kv_width_)},
                                   {&attended_, f * chunk * q_width_},
                                   {&gate_up_, f * chunk * 2 * c.ffn},
                                   {&logits_, f * vocab},
                                   {&many_logits_, f * kLogitRows * vocab},
                                   {&wanted_, sizeof(int) * chunk},
                                   {&wanted_logprobs_, f * chunk},
                                   {&workspace_, WorkspaceBytes(is_recorded)}};
  std::vector<BufferRequest> capture = capture_.Requests();
  size_t bytes[2] = {};
  for (const BufferRequest& request : model) *request.buffer = DeviceBuffer(), bytes[0] += request.bytes;
  for (const BufferRequest& request : capture) *request.buffer = DeviceBuffer(), bytes[1] += request.bytes;
  const size_t free = FreeDeviceBytes();
  if (bytes[0] + bytes[1] > free) {
    const auto format = [](size_t count) { return FormatBytes(static_cast<int64_t>(count)); };
    throw Error(StrCat(c.name, ": a run of ", capacity_, " tokens takes ", format(bytes[0]),
                       " on the device for the cache and activations and ", format(bytes[1]), " for capture; ",
                       format(free), " are free; expected a shorter --context or a smaller --prefill-chunk"));
  }
  for (const std::vector<BufferRequest>* const requests : {&model, &capture}) {
    for (const BufferRequest& request : *requests) *request.buffer = DeviceBuffer(request.bytes);
  }
  host_inputs_ = PinnedBuffer(inputs_.bytes());
  capture_bytes_ = is_recorded ? static_cast<int64_t>(bytes[1]) : 0;
}

void EngineOnDevice::Run(std::span<const int> ids, bool is_step) {
  chunk_tokens_ = static_cast<int>(ids.size());
  first_of_chunk_ = num_tokens_;
  KVSCOPE_CHECK_LE(num_tokens_ + chunk_tokens_, capacity_);
  KVSCOPE_CHECK_LE(chunk_tokens_, max_chunk_);
  SendInputs(ids);
  if (is_step) {
    KVSCOPE_CHECK_EQ(chunk_tokens_, 1);
    RunStep(num_steps_++ % 2);
  } else {
    RunChunk(chunk_tokens_);
  }
  num_tokens_ += chunk_tokens_;
}

// Kernels read a table at these rows and check nothing.
void EngineOnDevice::CheckIds(std::span<const int> ids) const {
  for (const int id : ids) KVSCOPE_CHECK(id >= 0 && id < config().vocab);
}

void EngineOnDevice::SendInputs(std::span<const int> ids) {
  CheckIds(ids);
  inputs_sent_.Synchronize();  // those before have left their place
  int* const host = static_cast<int*>(host_inputs_.data());
  host[0] = num_tokens_;
  host[1] = num_tokens_ + chunk_tokens_;
  std::copy(ids.begin(), ids.end(), host + 2);
  CopyAsync(inputs_.data(), host, sizeof(int) * (2 + ids.size()), stream_.get());
  inputs_sent_.Record(stream_.get());
}

void EngineOnDevice::Multiply(const TensorView& x, const DenseMatrix& matrix, const TensorView& out, bool accumulate,
                              void* stream) {
  DenseMatmul({x, matrix, out, accumulate}, On(stream));
}

// x_ += x W^T, normed before where the family does that.
void EngineOnDevice::AddToResidual(const TensorView& x, const DenseMatrix& matrix, const TensorView& post_norm,
                                   void* stream) {
  const ModelConfig& c = config();
  const TensorView residual = Rows(x_, x.shape[0], c.hidden);
  if (!post_norm.data) return Multiply(x, matrix, residual, /*accumulate=*/true, stream);
  const TensorView block = Rows(normed_, x.shape[0], c.hidden);  // what it held has been used
  Multiply(x, matrix, block, /*accumulate=*/false, stream);
  RmsNorm(block, post_norm, c.rms_epsilon, block, On(stream));
  AddRows(block, residual, On(stream));
}

// Norm, projections and rotation: q to where it is recorded, k and v into the cache and there too.
void EngineOnDevice::Project(int layer, int tokens, const Seen& seen, void* stream) {
  const ModelConfig& c = config();
  const DeviceWeights::Layer& w = weights_.layers()[layer];
  const int width = q_width_ + 2 * kv_width_;
  const TensorView normed = Rows(normed_, tokens, c.hidden);
  RmsNorm(Rows(x_, tokens, c.hidden), w.attn_norm, c.rms_epsilon, normed, On(stream));
  Multiply(normed, w.qkv, Rows(qkv_, tokens, width), /*accumulate=*/false, stream);
  if (w.qkv_bias.data) AddRows(w.qkv_bias, Rows(qkv_, tokens, width), On(stream));
  const auto heads_at = [&](int first_column, int heads) {
    TensorView view = ContiguousView(static_cast<float*>(qkv_.data()) + first_column, DType::kF32,
                                     {tokens, heads, c.head_dim}, 3, kTwinDevice);
    view.strides[0] = width;
    return view;
  };
  const TensorView q_heads = heads_at(0, c.num_heads), k_heads = heads_at(q_width_, c.num_kv_heads);
  if (w.q_norm.data) RmsNorm(q_heads, w.q_norm, c.rms_epsilon, q_heads, On(stream));
  if (w.k_norm.data) RmsNorm(k_heads, w.k_norm, c.rms_epsilon, k_heads, On(stream));
  RopeRows ropes[kMaxRopes];
  auto& [q, k, v] = ropes;
  q = {.x = q_heads,
       .cos = Angles(cos_, layer),
       .sin = Angles(sin_, layer),
       .out = seen.q,
       .first_position = position(),
       .bad_token = static_cast<int*>(bad_tokens_.data()) + layer};
  k = v = q;
  k.x = k_heads;
  k.out = Cache(k_, layer), k.copy = seen.k, k.first_out = position();
  v.x = heads_at(q_width_ + kv_width_, c.num_kv_heads);
  v.out = Cache(v_, layer), v.copy = seen.v, v.first_out = position();
  v.cos = v.sin = {};
  Rope(ropes, On(stream));
}

void EngineOnDevice::FeedForward(int layer, int tokens, void* stream) {
  const ModelConfig& c = config();
  const DeviceWeights::Layer& w = weights_.layers()[layer];
  const TensorView x = Rows(x_, tokens, c.hidden), normed = Rows(normed_, tokens, c.hidden);
  AddToResidual(Rows(attended_, tokens, q_width_), w.attn_out, w.post_attn_norm, stream);
  RmsNorm(x, w.ffn_norm, c.rms_epsilon, normed, On(stream));
  Multiply(normed, w.gate_up, Rows(gate_up_, tokens, 2 * c.ffn), false, stream);
  TensorView gate = Rows(gate_up_, tokens, c.ffn), up = gate;
  gate.strides[0] = up.strides[0] = 2 * c.ffn;
  up.data = gate.floats() + c.ffn;
  Glu(c.architecture.gate, gate, up, gate, On(stream));
  AddToResidual(gate, w.down, w.post_ffn_norm, stream);
}

void EngineOnDevice::FindLogits(const TensorView& hidden, const TensorView& logits, void* stream) {
  Multiply(hidden, weights_.head(), logits, /*accumulate=*/false, stream);
  if (config().logit_softcap > 0) CapLogits(config().logit_softcap, logits, On(stream));
}

// Norm of all rows, logits of the last one and its best ids.
void EngineOnDevice::Finish(int tokens, void* stream) {
  const ModelConfig& c = config();
  const TensorView normed = Rows(normed_, tokens, c.hidden);
  RmsNorm(Rows(x_, tokens, c.hidden), weights_.output_norm(), c.rms_epsilon, normed, On(stream));
  TensorView last = Rows(normed_, 1, c.hidden);
  last.data = normed.floats() + static_cast<int64_t>(tokens - 1) * c.hidden;
  FindLogits(last, Rows(logits_, 1, c.vocab), stream);
  FindTopLogits({.logits = Rows(logits_, 1, c.vocab),
                 .count = std::min(kMaxTop, c.vocab),
                 .ids = static_cast<int*>(top_ids_.data()),
                 .logprobs = static_cast<float*>(top_logprobs_.data())},
                On(stream));
}

void EngineOnDevice::RunChunk(int tokens) {
  const ModelConfig& c = config();
  void* const stream = stream_.get();
  Embed(ids(), weights_.embedding(), c.embedding_scale, Rows(x_, tokens, c.hidden), On(stream));
  for (int layer = 0; layer < c.num_layers; ++layer) {
    ShowResidual(layer, tokens);
    const Seen seen = capture_.BeginLayer(layer, tokens);
    Project(layer, tokens, seen, stream);
    PrefillAttention attention;
    attention.q = seen.q;
    attention.k = Cache(k_, layer), attention.v = Cache(v_, layer);
    attention.k.shape[1] = attention.v.shape[1] = num_tokens_ + tokens;
    attention.first_query = num_tokens_;
    attention.rule = c.layers[layer].attention;
    attention.out = ContiguousView(attended_.data(), DType::kF32, {c.num_heads, tokens, c.head_dim}, 3, kTwinDevice);
    attention.out.strides[0] = c.head_dim, attention.out.strides[1] = q_width_;
    attention.lse = seen.lse;
    AttendPrefill(attention, On(stream));
    capture_.EndLayer(layer, num_tokens_, tokens);
    FeedForward(layer, tokens, stream);
  }
  ShowResidual(c.num_layers, tokens);
  Finish(tokens, stream);
  Await();
}

void EngineOnDevice::ShowResidual(int layer, int tokens) {
  if (!residual_hook_) return;
  std::vector<float> residual(static_cast<size_t>(tokens) * config().hidden);
  x_.CopyToHost(residual.data(), residual.size() * sizeof(float), stream_.get());
  residual_hook_(layer, residual);
  x_.CopyFromHost(residual.data(), residual.size() * sizeof(float), stream_.get());
}

// One token's way through all layers; what changes from step to step is read from inputs_.
void EngineOnDevice::EnqueueStep(int parity, void* stream) {
  const ModelConfig& c = config();
  Embed(ids(), weights_.embedding(), c.embedding_scale, Rows(x_, 1, c.hidden), On(stream));
  for (int layer = 0; layer < c.num_layers; ++layer) {
    const Seen seen = capture_.SeenAt(parity, layer);
    Project(layer, 1, seen, stream);
    DecodeAttention attention;
    attention.q = ContiguousView(seen.q.data, DType::kF16, {c.num_heads, c.head_dim}, 2, kTwinDevice);
    attention.k = Cache(k_, layer), attention.v = Cache(v_, layer);
    attention.rule = c.layers[layer].attention;
    attention.out = ContiguousView(attended_.data(), DType::kF32, {c.num_heads, c.head_dim}, 2, kTwinDevice);
    attention.lse = ContiguousView(seen.lse.data, DType::kF32, {c.num_heads}, 1, kTwinDevice);
    attention.weights = seen.rows;
    attention.num_tokens = tokens_after();
    AttendDecode(attention, On(stream));
    FeedForward(layer, 1, stream);
  }
  Finish(1, stream);
}

void EngineOnDevice::RunStep(int parity) {
  capture_.BeginStep(parity);
  // The first two run as they are, which loads all that a graph's recording may not.
  if (num_steps_ <= 2) {
    EnqueueStep(parity, stream_.get());
  } else {
    if (!graphs_[parity].is_recorded()) graphs_[parity] = Graph([&](void* stream) { EnqueueStep(parity, stream); });
    graphs_[parity].Launch(stream_.get());
  }
  capture_.EndStep(parity, num_tokens_);
}

// Waits for the chunk; what it left in results_ is there then. Throws when q, k or v left f16's range.
void EngineOnDevice::Await() {
  auto* const results = static_cast<std::byte*>(results_.data());
  CopyAsync(results, bad_tokens_.data(), bad_tokens_.bytes(), stream_.get());
  CopyAsync(results + bad_tokens_.bytes(), top_ids_.data(), top_ids_.bytes(), stream_.get());
  CopyAsync(results + bad_tokens_.bytes() + top_ids_.bytes(), top_logprobs_.data(), top_logprobs_.bytes(),
            stream_.get());
  Synchronize(stream_.get());
  const auto* const bad_tokens = reinterpret_cast<const int*>(results);
  for (int layer = 0; layer < config().num_layers; ++layer) {
    if (bad_tokens[layer] == INT_MAX) continue;
    throw Error(StrCat("layer ", layer, ", token ", first_of_chunk_ + bad_tokens[layer],
                       ": q, k or v is outside f16's range; capture with --device cpu --kv-dtype f32", kTryBF16));
  }
}

Alternatives EngineOnDevice::Best(int count) {
  Await();
  const auto* const ids = reinterpret_cast<const int*>(static_cast<std::byte*>(results_.data()) + bad_tokens_.bytes());
  const auto* const logprobs = reinterpret_cast<const float*>(ids + kMaxTop);
  count = std::min({count, kMaxTop, config().vocab});
  for (int i = 0; i < count; ++i) {
    if (!std::isfinite(logprobs[i]))
      throw Error(StrCat("token ", num_tokens_ - 1, ": the logits are not finite", kTryBF16));
  }
  return {{ids, ids + count}, {logprobs, logprobs + count}};
}

std::vector<float> EngineOnDevice::Logprobs(std::span<const int> next) {
  const ModelConfig& c = config();
  KVSCOPE_CHECK_LE(static_cast<int>(next.size()), chunk_tokens_);
  CheckIds(next);
  wanted_.CopyFromHost(next.data(), next.size_bytes(), stream_.get());
  for (size_t first = 0; first < next.size(); first += kLogitRows) {
    const int rows = static_cast<int>(std::min<size_t>(kLogitRows, next.size() - first));
    TensorView hidden = Rows(normed_, rows, c.hidden);
    hidden.data = hidden.floats() + first * c.hidden;
    const TensorView logits = Rows(many_logits_, rows, c.vocab);
    FindLogits(hidden, logits, stream_.get());
    FindWanted(logits, first);
  }
  std::vector<float> logprobs(next.size());
  wanted_logprobs_.CopyToHost(logprobs.data(), logprobs.size() * sizeof(float), stream_.get());
  return logprobs;
}

float EngineOnDevice::LogprobOf(int id) {
  CheckIds({&id, 1});
  wanted_.CopyFromHost(&id, sizeof id, stream_.get());
  FindWanted(Rows(logits_, 1, config().vocab), 0);
  float logprob = 0;
  wanted_logprobs_.CopyToHost(&logprob, sizeof logprob, stream_.get());
  return logprob;
}

// Log-probabilities of the ids from wanted_[first] on, one per row of logits.
void EngineOnDevice::FindWanted(const TensorView& logits, size_t first) {
  FindTopLogits({.logits = logits,
                 .count = 1,
                 .ids = static_cast<int*>(unused_ids_.data()),
                 .logprobs = static_cast<float*>(unused_logprobs_.data()),
                 .wanted = static_cast<const int*>(wanted_.data()) + first,
                 .wanted_logprobs = static_cast<float*>(wanted_logprobs_.data()) + first},
                On(stream_.get()));
}

}  // namespace

std::unique_ptr<DeviceEngine> MakeDeviceEngine(const Model& model, const DeviceOptions& options) {
  if (const std::string why = WhyNotOnDevice(model.config); !why.empty())
    throw Error(StrCat(model.config.name, ": has ", why, ", which no device computes yet; use --device cpu"));
  return std::make_unique<EngineOnDevice>(DeviceWeights(model, options.weights), options, /*is_random=*/false);
}

std::unique_ptr<DeviceEngine> MakeRandomEngine(const ModelConfig& config, const DeviceOptions& options) {
  return std::make_unique<EngineOnDevice>(DeviceWeights(config, /*seed=*/1, options.weights), options,
                                          /*is_random=*/true);
}

}  // namespace kvscope::KVSCOPE_TWIN
