// SPDX-License-Identifier: Apache-2.0
#include "capture/device_capture.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "capture/recorded_heads.h"
#include "core/error.h"
#include "core/units.h"
#include "kernels/column_stats.h"
#include "kernels/column_totals.h"

namespace kvscope::KVSCOPE_TWIN {
namespace {

constexpr int kHistorySteps = 64;  // level relevance: decode rows that one pass over the keys counts

LayerChunk ChunkFrom(const std::byte* stage, const StageLayout& layout, int layer) {
  const auto buffer = [&](size_t at, size_t bytes) {
    Buffer halves(DType::kF16, bytes / sizeof(Half));
    std::memcpy(halves.At(0), stage + at, bytes);
    return halves;
  };
  LayerChunk chunk;
  chunk.num_tokens = layout.tokens;
  chunk.q = buffer(layout.QAt(layer), layout.QBytes());
  chunk.k = buffer(layout.KAt(layer), layout.KvBytes());
  chunk.v = buffer(layout.VAt(layer), layout.KvBytes());
  const auto* const lse = reinterpret_cast<const float*>(stage + layout.LseAt(layer));
  chunk.lse.assign(lse, lse + static_cast<size_t>(layout.heads) * layout.tokens);
  return chunk;
}

}  // namespace

void DeviceCapture::Begin(const ModelConfig& config, const TraceInfo& info, RunSink* sink, int capacity, int max_chunk,
                          Keys keys) {
  Synchronize(copy_stream_.get());
  config_ = &config;
  info_ = &info;
  sink_ = sink;
  keys_ = std::move(keys);
  wants_columns_ = sink && info.level == TraceLevel::kRelevance;
  wants_vectors_ = sink && !wants_columns_ && sink->wants_vectors();
  wants_rows_ = sink && !wants_columns_ && sink->wants_rows();
  layer_index_.assign(config.num_layers, NumRecorded());
  for (int i = 0; i < NumRecorded(); ++i) layer_index_[info.layers[i].layer] = i;
  capacity_ = capacity, max_chunk_ = max_chunk, num_tokens_ = history_rows_ = 0;
  if (!sink) return;

  const size_t rows = static_cast<size_t>(config.num_heads) * capacity;  // of a layer
  size_t piece = wants_vectors_ ? std::max(ChunkLayout(max_chunk).Bytes(), StepLayout().Bytes()) : 0;
  if (wants_rows_) piece += NumRecorded() * rows * sizeof(Half);
  if (wants_columns_) piece = rows * (sizeof(double) + sizeof(float));
  // Two of the largest, so that one is written while the next arrives.
  if (static_cast<int64_t>(2 * piece) > ring_bytes_) {
    throw Error(StrCat("--queue-mib ", ring_bytes_ >> 20, ": this run brings ",
                       FormatBytes(static_cast<int64_t>(piece)), " at a time; expected ", (2 * piece >> 20) + 1,
                       " or more"));
  }
  if (ring_) return;
  try {
    ring_ = std::make_unique<DeviceRing>(ring_bytes_);
  } catch (const Error& error) {
    throw Error(StrCat("--queue-mib ", ring_bytes_ >> 20, ": the system does not pin so much memory; expected less (",
                       error.what(), ")"));
  }
}

std::vector<BufferRequest> DeviceCapture::Requests() {
  const size_t capacity = capacity_, recorded = NumRecorded(), heads = config_->num_heads;
  std::vector<BufferRequest> requests;
  for (Stage& stage : chunk_stages_) requests.push_back({&stage.vectors, ChunkLayout(max_chunk_).Bytes()});
  for (Stage& stage : step_stages_) {
    requests.push_back({&stage.vectors, StepLayout().Bytes()});
    requests.push_back({&stage.rows, wants_rows_ ? sizeof(Half) * recorded * heads * capacity : 0});
  }
  const size_t columns = wants_columns_ ? recorded * heads * capacity : 0;
  const size_t history = wants_columns_ ? recorded * heads * kHistorySteps : 0;
  requests.push_back({&totals_, sizeof(double) * columns});
  requests.push_back({&maxima_, sizeof(float) * columns});
  requests.push_back({&found_, wants_columns_ ? 2 * sizeof(float) * (heads / config_->num_kv_heads) * capacity : 0});
  requests.push_back({&numbers_, wants_columns_ ? sizeof(int) * (capacity + kHistorySteps) : 0});
  requests.push_back({&history_q_, sizeof(Half) * history * config_->head_dim});
  requests.push_back({&history_lse_, sizeof(float) * history});
  return requests;
}

void DeviceCapture::Start(void* stream) {
  stream_ = stream;
  if (!wants_columns_) return;
  std::vector<int> numbers(capacity_ + kHistorySteps);
  std::iota(numbers.begin(), numbers.end(), 0);
  numbers_.CopyFromHost(numbers.data(), numbers_.bytes(), stream);
  totals_.Clear(stream);
  maxima_.Clear(stream);
}

Seen DeviceCapture::SeenIn(Stage& stage, const StageLayout& layout, int index) const {
  auto* const at = static_cast<std::byte*>(stage.vectors.data());
  const auto halves = [&](size_t offset, int heads) {
    return ContiguousView(at + offset, DType::kF16, {heads, layout.tokens, layout.head_dim}, 3, kTwinDevice);
  };
  Seen seen;
  seen.q = halves(layout.QAt(index), layout.heads);
  seen.lse = ContiguousView(at + layout.LseAt(index), DType::kF32, {layout.heads, layout.tokens}, 2, kTwinDevice);
  if (!wants_vectors_) return seen;
  seen.k = halves(layout.KAt(index), layout.kv_heads);
  seen.v = halves(layout.VAt(index), layout.kv_heads);
  return seen;
}

Seen DeviceCapture::BeginLayer(int layer, int tokens) {
  Stage& stage = chunk_stages_[layer % 2];
  stage.copied.Delay(stream_);
  return SeenIn(stage, ChunkLayout(tokens), 0);
}

void DeviceCapture::EndLayer(int layer, int first_token, int tokens) {
  num_tokens_ = first_token + tokens;
  if (!IsRecorded(layer)) return;
  Stage& stage = chunk_stages_[layer % 2];
  const StageLayout layout = ChunkLayout(tokens);
  const int recorded = layer_index_[layer];
  if (wants_columns_) {
    const auto* const vectors = static_cast<const std::byte*>(stage.vectors.data());
    CountRows(recorded, vectors, vectors + layout.LseAt(0), first_token, tokens, tokens);
  }
  if (!wants_vectors_) return;
  void* const copy = copy_stream_.get();
  const std::shared_ptr<DeviceRing::Piece> piece = TakePiece(layout.Bytes());
  stage.seen.Record(stream_);
  stage.seen.Delay(copy);
  CopyAsync(piece->data(), stage.vectors.data(), layout.Bytes(), copy);
  stage.copied.Record(copy);
  piece->CopiedOn(copy);
  const LayerInfo& info = info_->layers[recorded];
  sink_->Defer([piece, layout, recorded, first_token, &info](RunSink& sink) {
    piece->Await();
    sink.AppendChunk(recorded, first_token, SelectHeads(ChunkFrom(piece->data(), layout, 0), info));
  });
}

void DeviceCapture::BeginStep(int parity) {
  step_stages_[parity].copied.Delay(stream_);
}

Seen DeviceCapture::SeenAt(int parity, int layer) {
  Stage& stage = step_stages_[parity];
  Seen seen = SeenIn(stage, StepLayout(), layer_index_[layer]);
  if (!wants_rows_ || !IsRecorded(layer)) return seen;
  Half* const rows =
      static_cast<Half*>(stage.rows.data()) + int64_t{layer_index_[layer]} * config_->num_heads * capacity_;
  seen.rows = ContiguousView(rows, DType::kF16, {config_->num_heads, capacity_}, 2, kTwinDevice);
  return seen;
}

void DeviceCapture::EndStep(int parity, int token) {
  num_tokens_ = token + 1;
  if (wants_vectors_ || wants_rows_) CopyStep(step_stages_[parity], token);
  if (wants_columns_) CountStep(step_stages_[parity], token);
}

std::shared_ptr<DeviceRing::Piece> DeviceCapture::TakePiece(size_t bytes) {
  int64_t stall_ns = 0;
  std::shared_ptr<DeviceRing::Piece> piece = ring_->Take(bytes, &stall_ns);
  sink_->CountStall(stall_ns);
  return piece;
}

// All layers as one piece: the stage's vectors, then the rows [layers, heads, tokens].
void DeviceCapture::CopyStep(Stage& stage, int token) {
  void* const copy = copy_stream_.get();
  const StageLayout layout = StepLayout();
  const size_t num_rows = static_cast<size_t>(NumRecorded()) * layout.heads, row_bytes = sizeof(Half) * (token + 1);
  const size_t vector_bytes = wants_vectors_ ? layout.Bytes() : 0;
  const std::shared_ptr<DeviceRing::Piece> piece = TakePiece(vector_bytes + (wants_rows_ ? num_rows * row_bytes : 0));
  stage.seen.Record(stream_);
  stage.seen.Delay(copy);
  CopyAsync(piece->data(), stage.vectors.data(), vector_bytes, copy);
  if (wants_rows_) {
    CopyRowsAsync(piece->data() + vector_bytes, row_bytes, stage.rows.data(), sizeof(Half) * capacity_, row_bytes,
                  num_rows, copy);
  }
  stage.copied.Record(copy);
  piece->CopiedOn(copy);
  sink_->Defer([piece, layout, vector_bytes, token, has_rows = wants_rows_, &info = *info_](RunSink& sink) {
    piece->Await();
    for (size_t i = 0; i < info.layers.size(); ++i) {
      const int index = static_cast<int>(i);
      if (has_rows) {
        std::vector<Half> rows(static_cast<size_t>(layout.heads) * (token + 1));
        const size_t bytes = sizeof(Half) * rows.size();
        std::memcpy(rows.data(), piece->data() + vector_bytes + i * bytes, bytes);
        sink.AppendRows(index, token, SelectHeads(std::move(rows), info.layers[i]));
      }
      if (vector_bytes > 0)
        sink.AppendChunk(index, token, SelectHeads(ChunkFrom(piece->data(), layout, index), info.layers[i]));
    }
  });
}

// q and lse of a step join those of the steps before, until one pass over the keys counts them all.
void DeviceCapture::CountStep(const Stage& stage, int token) {
  const StageLayout layout = StepLayout();
  const auto* const vectors = static_cast<const std::byte*>(stage.vectors.data());
  const size_t rows = static_cast<size_t>(NumRecorded()) * layout.heads, row = sizeof(Half) * layout.head_dim;
  if (history_rows_ == 0) history_first_ = token;
  CopyRowsAsync(static_cast<std::byte*>(history_q_.data()) + history_rows_ * row, kHistorySteps * row, vectors, row,
                row, rows, stream_);
  CopyRowsAsync(static_cast<float*>(history_lse_.data()) + history_rows_, kHistorySteps * sizeof(float),
                vectors + layout.LseAt(0), sizeof(float), sizeof(float), rows, stream_);
  if (++history_rows_ == kHistorySteps) CountHistory();
}

void DeviceCapture::CountHistory() {
  for (int recorded = 0; recorded < NumRecorded(); ++recorded) {
    const int64_t row = int64_t{recorded} * config_->num_heads * kHistorySteps;
    CountRows(recorded, static_cast<const Half*>(history_q_.data()) + row * config_->head_dim,
              static_cast<const float*>(history_lse_.data()) + row, history_first_, kHistorySteps, history_rows_);
  }
  history_rows_ = 0;
}

// Adds the first `counted` of `rows` consecutive rows, q [heads, rows, head_dim] and lse [heads, rows], to a layer's
// statistics.
void DeviceCapture::CountRows(int recorded, const void* q, const void* lse, int first_token, int rows, int counted) {
  const LayerInfo& layer = info_->layers[recorded];
  const int heads = config_->num_heads, group = heads / config_->num_kv_heads, end = first_token + counted;
  const StatisticSpec specs[] = {{.kind = StatisticSpec::Kind::kSum}, {.kind = StatisticSpec::Kind::kMax}};
  float* const found = static_cast<float*>(found_.data());
  const Workspace on_stream{nullptr, 0, stream_};
  columns_copied_.Delay(stream_);
  for (const int kv_head : layer.kv_heads) {
    const int64_t head = int64_t{kv_head} * group;
    ColumnStatsProblem problem;
    problem.q = static_cast<const Half*>(q) + head * rows * config_->head_dim;
    problem.k = keys_(layer.layer, kv_head);
    problem.lse = static_cast<const float*>(lse) + head * rows;
    problem.q_token = {static_cast<const int*>(numbers_.data()) + first_token, static_cast<size_t>(rows)};
    problem.group = group;
    problem.num_rows = rows;
    problem.num_tokens = problem.row_end = end;
    problem.head_dim = config_->head_dim;
    problem.rule = RuleOf(layer);
    ColumnStats(problem, specs, found, on_stream);
    const int64_t at = (int64_t{recorded} * heads + head) * capacity_;
    AddColumns({.sums = found,
                .maxima = found + int64_t{group} * end,
                .rows = group,
                .num_tokens = end,
                .total = static_cast<double*>(totals_.data()) + at,
                .highest = static_cast<float*>(maxima_.data()) + at,
                .stride = capacity_},
               on_stream);
  }
}

void DeviceCapture::SendColumns() {
  if (!wants_columns_) return;
  if (history_rows_ > 0) CountHistory();
  void* const copy = copy_stream_.get();
  const size_t heads = config_->num_heads, tokens = num_tokens_, capacity = capacity_;
  Event counted;
  counted.Record(stream_);
  counted.Delay(copy);
  for (int recorded = 0; recorded < NumRecorded(); ++recorded) {
    const std::shared_ptr<DeviceRing::Piece> piece = TakePiece(heads * tokens * (sizeof(double) + sizeof(float)));
    std::byte* const maxima = piece->data() + heads * tokens * sizeof(double);
    const size_t at = recorded * heads * capacity;
    CopyRowsAsync(piece->data(), tokens * sizeof(double), static_cast<const double*>(totals_.data()) + at,
                  capacity * sizeof(double), tokens * sizeof(double), heads, copy);
    CopyRowsAsync(maxima, tokens * sizeof(float), static_cast<const float*>(maxima_.data()) + at,
                  capacity * sizeof(float), tokens * sizeof(float), heads, copy);
    piece->CopiedOn(copy);
    const LayerInfo& layer = info_->layers[recorded];
    sink_->Defer([piece, maxima, tokens, recorded, &layer](RunSink& sink) {
      piece->Await();
      ColumnStatistics statistics;
      statistics.num_rows = statistics.num_tokens = static_cast<int>(tokens);
      for (const int head : layer.heads) {
        const double* const sum = reinterpret_cast<const double*>(piece->data()) + head * tokens;
        const float* const max = reinterpret_cast<const float*>(maxima) + head * tokens;
        for (size_t token = 0; token < tokens; ++token) statistics.sum.push_back(static_cast<float>(sum[token]));
        statistics.max.insert(statistics.max.end(), max, max + tokens);
      }
      sink.SetColumnStatistics(recorded, std::move(statistics));
    });
  }
  columns_copied_.Record(copy);
}

}  // namespace kvscope::KVSCOPE_TWIN
