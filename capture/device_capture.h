// SPDX-License-Identifier: Apache-2.0
// What a run on a device records: where attention puts what it saw, the copies into the pinned ring beside the model's
// work, and, at level relevance, the column statistics. device_engine.cpp drives it on the model's stream.
#pragma once

#include <functional>

#include "capture/device_ring.h"
#include "capture/model.h"
#include "capture/run_sink.h"
#include "kernels/device.h"
#include "kernels/tensor.h"

namespace kvscope::KVSCOPE_TWIN {

// Where q, k, v and lse of `layers` layers and `tokens` tokens lie in a stage, on the device and in the ring:
// q [layers, heads, tokens, head_dim], k and v [layers, kv_heads, tokens, head_dim], f16; lse [layers, heads, tokens].
struct StageLayout {
  int layers = 0, tokens = 0, heads = 0, kv_heads = 0, head_dim = 0;
  size_t QBytes() const { return sizeof(Half) * heads * tokens * head_dim; }  // of a layer
  size_t KvBytes() const { return sizeof(Half) * kv_heads * tokens * head_dim; }
  size_t LseBytes() const { return sizeof(float) * heads * tokens; }
  size_t QAt(int layer) const { return layer * QBytes(); }
  size_t KAt(int layer) const { return layers * QBytes() + layer * KvBytes(); }
  size_t VAt(int layer) const { return layers * (QBytes() + KvBytes()) + layer * KvBytes(); }
  size_t LseAt(int layer) const { return layers * (QBytes() + 2 * KvBytes()) + layer * LseBytes(); }
  size_t Bytes() const { return LseAt(layers); }
};

// Where a layer's attention writes. k and v: once more, beside the cache.
struct Seen {
  TensorView q;     // [heads, tokens, head_dim] f16
  TensorView k, v;  // [kv_heads, tokens, head_dim] f16; null data: not wanted
  TensorView lse;   // [heads, tokens]
  TensorView rows;  // [heads, capacity] f16, steps only; null data: not wanted
};

struct BufferRequest {
  DeviceBuffer* buffer;
  size_t bytes;
};

class DeviceCapture {
 public:
  explicit DeviceCapture(int64_t ring_bytes) : ring_bytes_(ring_bytes) {}

  // A new run of at most `capacity` tokens, chunks of at most max_chunk. keys gives a KV head's keys [capacity,
  // head_dim]. Throws when the ring is too small for the largest piece.
  using Keys = std::function<const Half*(int layer, int kv_head)>;
  void Begin(const ModelConfig& config, const TraceInfo& info, RunSink* sink, int capacity, int max_chunk, Keys keys);
  std::vector<BufferRequest> Requests();  // what the run takes on the device; made by the caller
  void Start(void* stream);               // after that

  // A layer of a chunk of the prompt: two stages take turns.
  Seen BeginLayer(int layer, int tokens);                 // the stage is free for what the stream is given from now on
  void EndLayer(int layer, int first_token, int tokens);  // q, k, v and lse are on their way into the stage
  // A decode step, `parity` saying which of two stages it has. SeenAt can be recorded in a graph.
  void BeginStep(int parity);
  Seen SeenAt(int parity, int layer);
  void EndStep(int parity, int token);

  void SendColumns();
  int64_t host_bytes() const { return sink_ && ring_ ? static_cast<int64_t>(ring_->bytes()) : 0; }

 private:
  // What attention saw, until the ring has it.
  struct Stage {
    DeviceBuffer vectors;  // as StageLayout says
    DeviceBuffer rows;     // [layers, heads, capacity] f16
    Event seen, copied;    // the model has written it; the ring has it
  };
  bool IsRecorded(int layer) const { return layer_index_[layer] < NumRecorded(); }
  int NumRecorded() const { return static_cast<int>(info_->layers.size()); }
  StageLayout ChunkLayout(int tokens) const {
    return {1, tokens, config_->num_heads, config_->num_kv_heads, config_->head_dim};
  }
  // The last layer is for those that are not recorded.
  StageLayout StepLayout() const {
    return {NumRecorded() + 1, 1, config_->num_heads, config_->num_kv_heads, config_->head_dim};
  }
  Seen SeenIn(Stage& stage, const StageLayout& layout, int index) const;
  std::shared_ptr<DeviceRing::Piece> TakePiece(size_t bytes);
  void CopyStep(Stage& stage, int token);
  void CountStep(const Stage& stage, int token);
  void CountHistory();
  void CountRows(int recorded, const void* q, const void* lse, int first_token, int rows, int counted);

  const int64_t ring_bytes_;
  const ModelConfig* config_ = nullptr;
  const TraceInfo* info_ = nullptr;
  RunSink* sink_ = nullptr;
  Keys keys_;
  bool wants_vectors_ = false, wants_rows_ = false, wants_columns_ = false;
  std::vector<int> layer_index_;  // [layer]: among the recorded ones, NumRecorded() when it is not
  int capacity_ = 0, max_chunk_ = 0, num_tokens_ = 0;
  void* stream_ = nullptr;
  Stage chunk_stages_[2], step_stages_[2];
  std::unique_ptr<DeviceRing> ring_;
  Stream copy_stream_;

  // Level relevance.
  DeviceBuffer totals_, maxima_;  // [recorded layers, heads, capacity] f64, f32
  DeviceBuffer found_;            // [2, group, capacity] f32: what one pass found
  DeviceBuffer numbers_;          // int: 0, 1, 2 ..., the tokens of rows
  // Of decode steps that no pass has counted: [recorded layers, heads, kHistorySteps, head_dim] f16 and without the
  // last extent f32; the token of the first, how many.
  DeviceBuffer history_q_, history_lse_;
  int history_first_ = 0, history_rows_ = 0;
  Event columns_copied_;
};

}  // namespace kvscope::KVSCOPE_TWIN
