// SPDX-License-Identifier: Apache-2.0
// Prefill chunks go straight to the file. Decode tokens and rows come one by one for every layer, so they wait in
// memory until some dozens can be written at once or a flush is due.
#include "core/trace_writer.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <numeric>
#include <optional>

#include "core/h5.h"
#include "core/memory_trace.h"
#include "core/query_rows.h"
#include "core/trace_columns.h"
#include "core/trace_lock.h"
#include "core/trace_metadata.h"
#include "core/trace_schema.h"

namespace kvscope {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kPendingTokens = 64;                    // per layer
constexpr size_t kPendingRowsBytes = 64 << 20;        // of all layers together, at about the prompt's length
constexpr size_t kVectorChunkBytes = 64 << 10;        // aim for q, k and v
constexpr uint64_t kRowSteps = 8, kRowTokens = 1024;  // chunk of rows

uint64_t RoundUp(uint64_t value, uint64_t unit) {
  return (value + unit - 1) / unit * unit;
}

// A chunk extent not far above `most` of which a whole number covers the expected length closely: the last chunk is
// stored whole, and a run just above a power of two would otherwise leave half of the file empty.
uint64_t ChunkExtent(uint64_t expected, uint64_t most, uint64_t unit) {
  const uint64_t chunks = std::max<uint64_t>(1, (expected + most / 4) / most);
  return RoundUp(std::max<uint64_t>((expected + chunks - 1) / chunks, 1), unit);
}

LayerChunk Concatenate(const std::vector<LayerChunk>& chunks, const LayerInfo& layer) {
  LayerChunk all;
  size_t num_rows = 0;
  for (const LayerChunk& chunk : chunks) {
    all.num_tokens += chunk.num_tokens;
    num_rows += chunk.lse.size() / layer.heads.size();
  }
  const auto join = [&](Buffer LayerChunk::*part, size_t heads, size_t total, size_t dim) {
    Buffer& to = all.*part;
    to = Buffer((chunks[0].*part).dtype(), heads * total * dim);
    size_t at = 0;
    for (const LayerChunk& chunk : chunks) {
      const Buffer& from = chunk.*part;
      const size_t count = from.size() / (heads * dim);
      for (size_t head = 0; count && head < heads; ++head) {
        std::memcpy(to.At((head * total + at) * dim), from.At(head * count * dim),
                    count * dim * ElementBytes(from.dtype()));
      }
      at += count;
    }
  };
  join(&LayerChunk::q, layer.heads.size(), num_rows, layer.head_dim_k);
  join(&LayerChunk::k, layer.kv_heads.size(), all.num_tokens, layer.head_dim_k);
  join(&LayerChunk::v, layer.kv_heads.size(), all.num_tokens, layer.head_dim_v);
  for (size_t head = 0; head < layer.heads.size(); ++head) {
    for (const LayerChunk& chunk : chunks) {
      const size_t count = chunk.lse.size() / layer.heads.size();
      all.lse.insert(all.lse.end(), chunk.lse.begin() + head * count, chunk.lse.begin() + (head + 1) * count);
    }
  }
  return all;
}

struct LayerTables {
  h5::Dataset q, k, v, lse, rows, column_sum, column_max;
  Column<int> q_token, rows_token, column_rows;
  int num_tokens = 0;  // appended
  std::vector<LayerChunk> pending;
  std::vector<int> pending_q_token;
  int pending_tokens = 0;
  // Steps of the last chunk of rows, which is always written whole: [step] -> [head, query_token + 1].
  std::vector<std::vector<Half>> pending_rows;
  std::vector<int> pending_rows_token;
  int rows_appended = 0, rows_in_file = 0;
};

}  // namespace

void CheckTraceTarget(const std::string& path, bool overwrite) {
  struct stat status = {};
  if (stat(path.c_str(), &status) == 0) {
    if (S_ISDIR(status.st_mode)) throw Error(StrCat(path, ": is a folder; give a file name ending in .kvtrace.h5"));
    if (!overwrite)
      throw Error(StrCat(path, ": exists already; remove it, choose another name or ask to overwrite it"));
  }
  const size_t slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  if (stat(folder.c_str(), &status) != 0 || !S_ISDIR(status.st_mode)) {
    throw Error(StrCat(path, ": the folder ", folder, " does not exist; create it first"));
  }
  if (access(folder.c_str(), W_OK | X_OK) != 0) {
    throw Error(StrCat(path, ": the folder ", folder, " is not writable (", std::strerror(errno), ")"));
  }
}

struct TraceWriter::State {
  State(const std::string& path, const TraceInfo& trace_info, const Options& trace_options)
      : target(path),
        info(trace_info),
        options(trace_options),
        query_rows(info.model.query_rows, info.prompt_tokens, info.segments),
        vector_type(info.model.kv_dtype == DType::kF16 ? h5::Type::kF16 : h5::Type::kF32) {}

  void Create(const std::string& temporary);
  void CreateLayer(const LayerInfo& layer);
  void WriteVectors(size_t layer_index, const LayerChunk& chunk, std::span<const int> q_token);
  void DrainLayer(size_t layer_index);
  void DrainRows(size_t layer_index);
  void DrainAll();
  void CloseTables();
  // Runs a step that touches the file; after one failure the file is left alone, so that what it holds stays readable.
  template <typename Step>
  void Guard(const Step& step) {
    KVSCOPE_CHECK(file.has_value());
    if (failed) throw Error(StrCat(target, ": an earlier write failed; the file is readable up to its last flush"));
    try {
      step();
    } catch (const Error& error) {
      failed = true;
      throw Error(StrCat(error.what(), "; the file is readable up to its last flush"));
    }
  }

  std::string target;
  TraceInfo info;
  Options options;
  QueryRows query_rows;
  h5::Type vector_type;
  std::optional<WriterLock> lock;
  std::optional<h5::File> file;
  Column<uint8_t> status;
  Column<int> id, position;
  TextColumn piece;
  Column<float> logprob;
  TextColumn answer_text;
  Column<double> answer_score;
  SegmentTables segments;
  StepTables steps;
  std::vector<LayerTables> layers;
  TraceTokens pending_tokens;
  uint64_t num_tokens = 0;  // appended
  std::vector<StepInfo> pending_steps;
  int64_t closed_bytes = 0;
  Clock::time_point last_flush = Clock::now();
  bool failed = false;
};

void TraceWriter::State::CreateLayer(const LayerInfo& layer) {
  const std::string path = schema::LayerPath(layer.layer);
  const uint64_t heads = layer.heads.size(), kv_heads = layer.kv_heads.size(), group = layer.HeadsPerKvHead();
  const uint64_t dim_k = layer.head_dim_k, dim_v = layer.head_dim_v, bytes = h5::ElementBytes(vector_type);
  const uint64_t expected = info.prompt_tokens + 32;
  const auto extent = [&](uint64_t token_bytes, uint64_t unit) {
    return ChunkExtent(expected, std::clamp<uint64_t>(kVectorChunkBytes / token_bytes, 64, 1024), unit);
  };
  const auto growing = [&](const char* name, h5::Type type, uint64_t outer, uint64_t dim, h5::Extents chunk) {
    return file->CreateDataset(path + name, {type, {outer, 0, dim}, {outer, h5::kUnlimited, dim}, chunk, false});
  };
  LayerTables tables;
  if (HoldsVectors(info.level)) {
    tables.q = growing("/q", vector_type, heads, dim_k, {group, extent(group * dim_k * bytes, 16), dim_k});
    tables.k = growing("/k", vector_type, kv_heads, dim_k, {1, extent(dim_k * bytes, 16), dim_k});
    tables.v = growing("/v", vector_type, kv_heads, dim_v, {1, extent(dim_v * bytes, 16), dim_v});
    tables.lse = file->CreateDataset(
        path + "/lse",
        {h5::Type::kF32, {heads, 0}, {heads, h5::kUnlimited}, {heads, ChunkExtent(expected, 1024, 16)}, false});
    tables.q_token = Column<int>(*file, path + "/q_token", ChunkExtent(expected, 1024, 16));
  }
  if (HoldsRows(info.level)) {
    const uint64_t step_bytes = expected * heads * sizeof(Half) * info.layers.size();
    const uint64_t row_steps = std::clamp<uint64_t>(kPendingRowsBytes / step_bytes, 1, kRowSteps);
    tables.rows = file->CreateDataset(path + "/rows", {h5::Type::kF16,
                                                       {heads, 0, 0},
                                                       {heads, h5::kUnlimited, h5::kUnlimited},
                                                       {1, row_steps, ChunkExtent(expected, kRowTokens, 32)},
                                                       true});
    tables.rows_token = Column<int>(*file, path + "/rows_token", 64);
  }
  if (HoldsColumns(info.level)) {
    const h5::DatasetShape shape{
        h5::Type::kF32, {heads, 0}, {heads, h5::kUnlimited}, {heads, ChunkExtent(expected, 1024, 16)}, true};
    tables.column_sum = file->CreateDataset(path + schema::kColumnSum, shape);
    tables.column_max = file->CreateDataset(path + schema::kColumnMax, shape);
    tables.column_rows = Column<int>(*file, path + schema::kColumnRows, 1);
    tables.column_rows.Append(0);
  }
  layers.push_back(std::move(tables));
}

void TraceWriter::State::Create(const std::string& temporary) {
  file = h5::File::Create(temporary);
  lock.emplace(temporary);
  WriteMetadata(*file, info, options.flush_interval_secs);
  const uint64_t token_chunk = ChunkExtent(info.prompt_tokens + 32, 4096, 16);
  status = Column<uint8_t>(*file, schema::kStatus, 1);
  status.Append(static_cast<uint8_t>(TraceStatus::kRecording));
  id = Column<int>(*file, "/tokens/id", token_chunk);
  position = Column<int>(*file, "/tokens/position", token_chunk);
  piece = TextColumn(*file, "/tokens/piece", token_chunk);
  logprob = Column<float>(*file, "/tokens/logprob", token_chunk);
  answer_text = TextColumn(*file, "/answer/text", 64);
  answer_score = Column<double>(*file, "/answer/score", 1);
  segments = SegmentTables(*file);
  segments.Replace(info.segments, info.spans);
  steps = StepTables(*file);
  for (const LayerInfo& layer : info.layers) CreateLayer(layer);
  file->StartSwmr();
  file->SetPath(target);
}

void TraceWriter::State::WriteVectors(size_t layer_index, const LayerChunk& chunk, std::span<const int> q_token) {
  const LayerInfo& layer = info.layers[layer_index];
  LayerTables& tables = layers[layer_index];
  const uint64_t heads = layer.heads.size(), kv_heads = layer.kv_heads.size();
  const uint64_t rows = q_token.size(), first_row = tables.q_token.size();
  const uint64_t tokens = chunk.num_tokens, first_token = tables.k.extents()[1];
  const auto append = [](h5::Dataset& dataset, uint64_t outer, uint64_t first, uint64_t count, uint64_t dim,
                         const void* data) {
    dataset.SetExtents({outer, first + count, dim});
    dataset.Write({0, first, 0}, {outer, count, dim}, data);
  };
  append(tables.k, kv_heads, first_token, tokens, layer.head_dim_k, chunk.k.data());
  append(tables.v, kv_heads, first_token, tokens, layer.head_dim_v, chunk.v.data());
  append(tables.q, heads, first_row, rows, layer.head_dim_k, chunk.q.data());
  tables.lse.SetExtents({heads, first_row + rows});
  tables.lse.Write({0, first_row}, {heads, rows}, chunk.lse.data());
  tables.q_token.Append(q_token);
}

void TraceWriter::State::DrainLayer(size_t layer_index) {
  LayerTables& tables = layers[layer_index];
  if (tables.pending.empty()) return;
  WriteVectors(layer_index, Concatenate(tables.pending, info.layers[layer_index]), tables.pending_q_token);
  tables.pending.clear();
  tables.pending_q_token.clear();
  tables.pending_tokens = 0;
}

void TraceWriter::State::DrainRows(size_t layer_index) {
  LayerTables& tables = layers[layer_index];
  if (tables.rows_in_file == tables.rows_appended) return;
  tables.rows_in_file = tables.rows_appended;
  const uint64_t heads = info.layers[layer_index].heads.size(), num_steps = tables.pending_rows.size();
  const uint64_t chunk_steps = tables.rows.chunk()[1], chunk_tokens = tables.rows.chunk()[2];
  const uint64_t first_step = tables.rows_token.size() / chunk_steps * chunk_steps;
  const uint64_t tokens = tables.pending_rows_token.back() + 1;
  tables.rows.SetExtents({heads, first_step + num_steps, tokens});
  std::vector<Half> chunk(chunk_steps * chunk_tokens);
  for (uint64_t head = 0; head < heads; ++head) {
    for (uint64_t first = 0; first < tokens; first += chunk_tokens) {
      std::fill(chunk.begin(), chunk.end(), Half{});
      for (uint64_t step = 0; step < num_steps; ++step) {
        const std::vector<Half>& rows = tables.pending_rows[step];
        const uint64_t length = rows.size() / heads;
        if (length <= first) continue;
        std::copy_n(rows.begin() + head * length + first, std::min(chunk_tokens, length - first),
                    chunk.begin() + step * chunk_tokens);
      }
      tables.rows.WriteChunk({head, first_step, first}, chunk.data());
    }
  }
  tables.rows_token.Write(first_step, tables.pending_rows_token);
  if (num_steps < chunk_steps) return;  // the next rows go into the same chunks
  tables.pending_rows.clear();
  tables.pending_rows_token.clear();
}

void TraceWriter::State::DrainAll() {
  for (size_t i = 0; i < layers.size(); ++i) {
    DrainLayer(i);
    DrainRows(i);
  }
  piece.Append(pending_tokens.pieces);
  id.Append(pending_tokens.ids);
  position.Append(pending_tokens.positions);
  logprob.Append(pending_tokens.logprobs);
  pending_tokens = {};
  if (!pending_steps.empty()) steps.Append(pending_steps);
  pending_steps.clear();
}

void TraceWriter::State::CloseTables() {
  layers.clear();
  status = {};
  id = {};
  position = {};
  logprob = {};
  piece = {};
  answer_text = {};
  answer_score = {};
  segments = {};
  steps = {};
}

TraceWriter::TraceWriter(std::string path, const TraceInfo& info, const Options& options) {
  CheckTraceTarget(path, options.overwrite);
  const std::string temporary = StrCat(path, ".new-", getpid());
  unlink(temporary.c_str());  // of an earlier process that had our number
  state_ = std::make_unique<State>(path, info, options);
  try {
    state_->Create(temporary);
    if (std::rename(temporary.c_str(), path.c_str()) != 0) {
      throw Error(StrCat(path, ": cannot be created (", std::strerror(errno), ")"));
    }
  } catch (...) {
    state_.reset();
    unlink(temporary.c_str());
    throw;
  }
}

TraceWriter::~TraceWriter() {
  if (!state_ || !state_->file) return;
  try {
    if (!state_->failed) Flush();
  } catch (const Error&) {
    // The caller gave up already; the file keeps its last flush.
  }
}

void TraceWriter::AppendTokens(const TraceTokens& tokens) {
  const size_t before = state_->pending_tokens.ids.size();
  AppendTo(state_->pending_tokens, tokens);
  for (size_t i = 0; tokens.positions.empty() && i < tokens.ids.size(); ++i) {
    state_->pending_tokens.positions[before + i] = static_cast<int>(state_->num_tokens + i);
  }
  state_->num_tokens += tokens.ids.size();
}

void TraceWriter::AppendChunk(int layer_index, int first_token, const LayerChunk& chunk) {
  LayerTables& tables = state_->layers.at(layer_index);
  const LayerInfo& layer = state_->info.layers[layer_index];
  const DType dtype = state_->info.model.kv_dtype;
  KVSCOPE_CHECK(HoldsVectors(state_->info.level));
  KVSCOPE_CHECK_EQ(first_token, tables.num_tokens);
  KVSCOPE_CHECK(chunk.q.dtype() == dtype && chunk.k.dtype() == dtype && chunk.v.dtype() == dtype);
  KVSCOPE_CHECK_EQ(chunk.q.size(), layer.heads.size() * chunk.num_tokens * layer.head_dim_k);
  KVSCOPE_CHECK_EQ(chunk.k.size(), layer.kv_heads.size() * chunk.num_tokens * layer.head_dim_k);
  KVSCOPE_CHECK_EQ(chunk.v.size(), layer.kv_heads.size() * chunk.num_tokens * layer.head_dim_v);
  KVSCOPE_CHECK_EQ(chunk.lse.size(), layer.heads.size() * chunk.num_tokens);
  tables.num_tokens += chunk.num_tokens;
  const bool is_small = chunk.num_tokens < kPendingTokens;
  if (is_small || !state_->query_rows.all()) {
    LayerChunk part = chunk;
    std::vector<int> q_token;
    SelectRows(state_->query_rows, layer, first_token, part, q_token);
    tables.pending.push_back(std::move(part));
    tables.pending_q_token.insert(tables.pending_q_token.end(), q_token.begin(), q_token.end());
    tables.pending_tokens += chunk.num_tokens;
    if (tables.pending_tokens < kPendingTokens) return;
    state_->Guard([&] { state_->DrainLayer(layer_index); });
    return;
  }
  std::vector<int> q_token(chunk.num_tokens);
  std::iota(q_token.begin(), q_token.end(), first_token);
  state_->Guard([&] {
    state_->DrainLayer(layer_index);
    state_->WriteVectors(layer_index, chunk, q_token);
  });
}

void TraceWriter::AppendRows(int layer_index, int query_token, std::span<const Half> weights) {
  LayerTables& tables = state_->layers.at(layer_index);
  KVSCOPE_CHECK(HoldsRows(state_->info.level));
  KVSCOPE_CHECK_EQ(weights.size(), state_->info.layers[layer_index].heads.size() * (query_token + 1));
  tables.pending_rows.emplace_back(weights.begin(), weights.end());
  tables.pending_rows_token.push_back(query_token);
  ++tables.rows_appended;
  if (tables.pending_rows.size() < tables.rows.chunk()[1]) return;
  state_->Guard([&] { state_->DrainRows(layer_index); });
}

void TraceWriter::SetColumnStatistics(int layer_index, int num_rows, std::span<const float> sum,
                                      std::span<const float> max) {
  LayerTables& tables = state_->layers.at(layer_index);
  const uint64_t heads = state_->info.layers[layer_index].heads.size(), tokens = sum.size() / heads;
  KVSCOPE_CHECK(HoldsColumns(state_->info.level));
  KVSCOPE_CHECK(sum.size() == max.size() && sum.size() == heads * tokens);
  KVSCOPE_CHECK(tokens >= tables.column_sum.extents()[1] && tokens <= state_->num_tokens);
  KVSCOPE_CHECK(num_rows >= 0 && uint64_t(num_rows) <= tokens);
  if (tokens == 0) return;
  state_->Guard([&] {
    state_->DrainAll();  // a follower never sees statistics of tokens that are not there
    tables.column_sum.SetExtents({heads, tokens});
    tables.column_sum.Write({0, 0}, {heads, tokens}, sum.data());
    tables.column_max.SetExtents({heads, tokens});
    tables.column_max.Write({0, 0}, {heads, tokens}, max.data());
    tables.column_rows.Replace({&num_rows, 1});
  });
}

void TraceWriter::AppendStep(const StepInfo& step) {
  state_->pending_steps.push_back(step);
}

void TraceWriter::SetLogprobs(int first_token, std::span<const float> logprobs) {
  KVSCOPE_CHECK_LE(first_token + logprobs.size(), state_->num_tokens);
  state_->Guard([&] {
    state_->DrainAll();
    state_->logprob.Write(first_token, logprobs);
  });
}

void TraceWriter::SetAnswer(const TraceAnswer& answer) {
  state_->Guard([&] {
    state_->answer_text.Replace({&answer.text, 1});
    state_->answer_score.Replace({&answer.score, 1});
  });
}

void TraceWriter::SetSegments(const std::vector<Segment>& segments, const std::vector<Span>& spans) {
  state_->Guard([&] { state_->segments.Replace(segments, spans); });
}

void TraceWriter::FlushIfDue() {
  if (Clock::now() - state_->last_flush < std::chrono::duration<double>(state_->options.flush_interval_secs)) return;
  Flush();
}

void TraceWriter::Flush() {
  state_->Guard([&] {
    state_->DrainAll();
    state_->file->Flush();
  });
  state_->last_flush = Clock::now();
}

void TraceWriter::Finish() {
  for (const LayerTables& layer : state_->layers) {
    if (HoldsVectors(state_->info.level)) KVSCOPE_CHECK_EQ(uint64_t(layer.num_tokens), state_->num_tokens);
  }
  Flush();
  state_->Guard([&] {
    const uint8_t complete = static_cast<uint8_t>(TraceStatus::kComplete);
    state_->status.Replace({&complete, 1});
    state_->closed_bytes = static_cast<int64_t>(state_->file->bytes());
    // Data sets close first, so that closing the file writes everything and reports what it could not write.
    state_->CloseTables();
    state_->file->Close();
  });
  state_->file.reset();
  state_->lock.reset();
}

int64_t TraceWriter::bytes_written() const {
  return state_->file ? static_cast<int64_t>(state_->file->bytes()) : state_->closed_bytes;
}

}  // namespace kvscope
