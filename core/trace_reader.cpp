// SPDX-License-Identifier: Apache-2.0
// A file that is complete must agree with itself. One that is still growing, or was left by a kill, is cut back to the
// tokens, rows and steps that all of its arrays have.
#include "core/trace_reader.h"

#include <sys/stat.h>

#include <algorithm>
#include <climits>
#include <cmath>
#include <tuple>

#include "core/h5.h"
#include "core/trace_columns.h"
#include "core/trace_metadata.h"
#include "core/trace_schema.h"

namespace kvscope {
namespace {

constexpr uint64_t kMostTokens = INT_MAX / 2;

struct LayerData {
  h5::Dataset q, k, v, lse, rows, column_sum, column_max;
  std::vector<int> q_token, rows_token;
  int column_tokens = 0, column_rows = 0;
};

// Extents [outer, grows, dim]; returns the extent that grows.
uint64_t CheckShape(const h5::Dataset& dataset, uint64_t outer, uint64_t dim) {
  const h5::Extents& found = dataset.extents();
  const bool fits = found[0] == outer && (found.size() < 3 || found[2] == dim) && found[1] <= kMostTokens;
  if (!fits) {
    throw Error(StrCat(dataset.place(), ": expected [", outer, ", any", found.size() == 3 ? StrCat(", ", dim) : "",
                       "], found ", h5::Text(found), "; the file is damaged"));
  }
  return found[1];
}

void CheckAscending(const std::string& place, const std::vector<int>& tokens) {
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0 || (i && tokens[i] <= tokens[i - 1])) {
      throw Error(
          StrCat(place, ": expected ascending tokens, found ", tokens[i], " at entry ", i, "; the file is damaged"));
    }
  }
}

}  // namespace

struct TraceReader::State {
  std::string path;
  h5::File file;
  struct stat seen = {};
  TraceStatus status = TraceStatus::kRecording;
  Trust trust = Trust::kWhole;
  TraceInfo info;
  TraceTokens tokens;
  TraceAnswer answer;
  std::vector<StepInfo> steps;
  std::vector<LayerData> layers;
  int num_tokens = 0;

  explicit State(const std::string& file_path);
  void CheckLength() const;
  void ReadStatus();
  void ReadTokens();
  void ReadAnswer();
  uint64_t OpenLayer(const LayerInfo& layer);
  void OpenColumns(const LayerInfo& layer, LayerData& data);
  void OpenLayers();
};

TraceReader::State::State(const std::string& file_path) : path(file_path) {
  stat(path.c_str(), &seen);
  file = h5::File::OpenToRead(path);
  CheckLength();
  // The version comes first: a newer file may differ in everything else.
  info = ReadMetadata(file, Trust::kGrowing);
  ReadStatus();
  trust = status == TraceStatus::kComplete ? Trust::kWhole : Trust::kGrowing;
  ReadTokens();
  OpenLayers();
  ReadSegments(file, trust, info);
  ReadAnswer();
  steps = ReadSteps(file, trust);
}

// HDF5 gives zeros for what lies behind the end of a file.
void TraceReader::State::CheckLength() const {
  struct stat now = {};
  if (stat(path.c_str(), &now) != 0) return;  // removed since it was opened: still readable
  if (file.end_of_data() > static_cast<uint64_t>(now.st_size)) {
    throw Error(StrCat(path, ": expected ", file.end_of_data(), " bytes, found ", now.st_size,
                       "; the file was cut short, copy or record it again"));
  }
}

void TraceReader::State::ReadStatus() {
  const auto values = ReadColumn<uint8_t>(file, schema::kStatus);
  if (values.size() != 1 || values[0] > static_cast<uint8_t>(TraceStatus::kRecovered)) {
    throw Error(StrCat(path, ":", schema::kStatus, ": expected one number from 0 to 2; the file is damaged"));
  }
  status = static_cast<TraceStatus>(values[0]);
}

void TraceReader::State::ReadTokens() {
  tokens.ids = ReadColumn<int>(file, "/tokens/id");
  tokens.positions = ReadColumn<int>(file, "/tokens/position");
  tokens.pieces = ReadTexts(file, "/tokens/piece", trust);
  tokens.logprobs = ReadColumn<float>(file, "/tokens/logprob");
  const uint64_t length =
      CommonLength(path + ":/tokens",
                   {tokens.ids.size(), tokens.positions.size(), tokens.pieces.size(), tokens.logprobs.size()}, trust);
  if (length > kMostTokens) throw Error(StrCat(path, ":/tokens: ", length, " tokens are too many"));
  num_tokens = static_cast<int>(length);
}

void TraceReader::State::ReadAnswer() {
  const auto texts = ReadTexts(file, "/answer/text", trust);
  const auto scores = ReadColumn<double>(file, "/answer/score");
  if (!texts.empty()) answer.text = texts[0];
  answer.score = scores.empty() ? NAN : scores[0];
}

// Returns the number of tokens that this layer holds.
uint64_t TraceReader::State::OpenLayer(const LayerInfo& layer) {
  const std::string place = schema::LayerPath(layer.layer);
  const h5::Type type = info.model.kv_dtype == DType::kF16 ? h5::Type::kF16 : h5::Type::kF32;
  const uint64_t heads = layer.heads.size(), kv_heads = layer.kv_heads.size();
  uint64_t length = kMostTokens;
  LayerData data;
  if (HoldsVectors(info.level)) {
    data.q = OpenChecked(file, place + "/q", type, 3);
    data.k = OpenChecked(file, place + "/k", type, 3);
    data.v = OpenChecked(file, place + "/v", type, 3);
    data.lse = OpenChecked(file, place + "/lse", h5::Type::kF32, 2);
    data.q_token = ReadColumn<int>(file, place + "/q_token");
    length = CommonLength(
        StrCat(path, ":", place),
        {CheckShape(data.k, kv_heads, layer.head_dim_k), CheckShape(data.v, kv_heads, layer.head_dim_v)}, trust);
    data.q_token.resize(CommonLength(
        StrCat(path, ":", place),
        {CheckShape(data.q, heads, layer.head_dim_k), CheckShape(data.lse, heads, 0), uint64_t(data.q_token.size())},
        trust));
    CheckAscending(StrCat(path, ":", place, "/q_token"), data.q_token);
  }
  if (HoldsRows(info.level)) {
    data.rows = file.OpenDataset(place + "/rows");
    const h5::Extents& extents = data.rows.extents();
    data.rows_token = ReadColumn<int>(file, place + "/rows_token");
    if (data.rows.type() != h5::Type::kF16 || extents.size() != 3 || extents[0] != heads || extents[1] > kMostTokens ||
        extents[2] > kMostTokens) {
      throw Error(StrCat(data.rows.place(), ": expected f16 [", heads, ", steps, tokens], found ",
                         h5::Name(data.rows.type()), " ", h5::Text(extents), "; the file is damaged"));
    }
    data.rows.CheckStored(8);  // early steps do not have the later tokens
    data.rows_token.resize(CommonLength(StrCat(path, ":", place), {extents[1], data.rows_token.size()}, trust));
    CheckAscending(StrCat(path, ":", place, "/rows_token"), data.rows_token);
  }
  if (HoldsColumns(info.level)) OpenColumns(layer, data);
  layers.push_back(std::move(data));
  return length;
}

void TraceReader::State::OpenColumns(const LayerInfo& layer, LayerData& data) {
  const std::string layer_path = schema::LayerPath(layer.layer), place = StrCat(path, ":", layer_path);
  const uint64_t heads = layer.heads.size();
  data.column_sum = OpenChecked(file, layer_path + schema::kColumnSum, h5::Type::kF32, 2);
  data.column_max = OpenChecked(file, layer_path + schema::kColumnMax, h5::Type::kF32, 2);
  const auto rows = ReadColumn<int>(file, layer_path + schema::kColumnRows);
  const uint64_t length =
      CommonLength(place, {CheckShape(data.column_sum, heads, 0), CheckShape(data.column_max, heads, 0)}, trust);
  const bool is_whole = trust == Trust::kWhole;
  if (is_whole && length > static_cast<uint64_t>(num_tokens)) {
    throw Error(
        StrCat(place, schema::kColumnSum, ": ", length, " columns for ", num_tokens, " tokens; the file is damaged"));
  }
  data.column_tokens = static_cast<int>(std::min<uint64_t>(length, num_tokens));
  if (rows.size() != 1 || rows[0] < 0 || (is_whole && rows[0] > data.column_tokens)) {
    throw Error(StrCat(place, schema::kColumnRows, ": expected one number from 0 to ", data.column_tokens,
                       "; the file is damaged"));
  }
  data.column_rows = std::min(rows[0], data.column_tokens);
}

void TraceReader::State::OpenLayers() {
  uint64_t shortest = num_tokens, most_rows = kMostTokens;
  for (const LayerInfo& layer : info.layers) {
    const uint64_t length = OpenLayer(layer);
    if (HoldsVectors(info.level)) {
      shortest =
          CommonLength(path + ":" + schema::LayerPath(layer.layer) + "/k against /tokens", {shortest, length}, trust);
    }
    if (HoldsRows(info.level)) {
      most_rows = layers.size() == 1
                      ? layers[0].rows_token.size()
                      : CommonLength(path + ":/layer rows", {most_rows, layers.back().rows_token.size()}, trust);
    }
  }
  num_tokens = static_cast<int>(shortest);
  tokens.ids.resize(num_tokens);
  tokens.positions.resize(num_tokens);
  tokens.pieces.resize(num_tokens);
  tokens.logprobs.resize(num_tokens);
  // Rows, too, only for tokens that are there. Without them a complete file would be a wrong one.
  for (size_t i = 0; i < layers.size(); ++i) {
    for (std::vector<int>* list : {&layers[i].q_token, &layers[i].rows_token}) {
      const auto end = std::lower_bound(list->begin(), list->end(), num_tokens);
      if (end != list->end() && trust == Trust::kWhole) {
        throw Error(StrCat(path, ":", schema::LayerPath(info.layers[i].layer), ": a row for token ", *end, " of ",
                           num_tokens, "; the file is damaged"));
      }
      list->erase(end, list->end());
    }
    if (layers[i].rows_token.size() > most_rows) layers[i].rows_token.resize(most_rows);
  }
}

TraceReader::TraceReader() = default;
TraceReader::~TraceReader() = default;

std::unique_ptr<TraceReader> TraceReader::Open(const std::string& path) {
  std::unique_ptr<TraceReader> reader(new TraceReader);
  reader->state_ = std::make_unique<State>(path);
  return reader;
}

const TraceInfo& TraceReader::info() const {
  return state_->info;
}
const TraceTokens& TraceReader::tokens() const {
  return state_->tokens;
}
const TraceAnswer& TraceReader::answer() const {
  return state_->answer;
}
TraceStatus TraceReader::status() const {
  return state_->status;
}
const std::vector<StepInfo>& TraceReader::steps() const {
  return state_->steps;
}
bool TraceReader::HasRows() const {
  return HoldsRows(state_->info.level);
}
int TraceReader::num_rows() const {
  return HasRows() && !state_->layers.empty() ? static_cast<int>(state_->layers[0].rows_token.size()) : 0;
}
const std::vector<int>& TraceReader::q_token(int layer_index) const {
  return state_->layers.at(layer_index).q_token;
}
int64_t TraceReader::file_bytes() const {
  return static_cast<int64_t>(state_->file.bytes());
}

std::shared_ptr<const KvHeadData> TraceReader::ReadKvHead(int layer_index, int kv_head_index) const {
  const LayerInfo& layer = state_->info.layers.at(layer_index);
  const LayerData& from = state_->layers[layer_index];
  if (!HoldsVectors(state_->info.level)) {
    throw Error(StrCat(state_->path, ": level ", Name(state_->info.level),
                       " holds no q, k, v; record again with level qkv or qkv+rows"));
  }
  KVSCOPE_CHECK(kv_head_index >= 0 && kv_head_index < static_cast<int>(layer.kv_heads.size()));
  const DType dtype = state_->info.model.kv_dtype;
  auto data = std::make_shared<KvHeadData>();
  const uint64_t tokens = data->num_tokens = state_->num_tokens;
  const uint64_t rows = data->num_rows = static_cast<int>(from.q_token.size());
  const uint64_t group = data->group = layer.HeadsPerKvHead(), kv_head = kv_head_index;
  const uint64_t dim_k = data->head_dim_k = layer.head_dim_k, dim_v = data->head_dim_v = layer.head_dim_v;
  data->q = Buffer(dtype, group * rows * dim_k);
  data->k = Buffer(dtype, tokens * dim_k);
  data->v = Buffer(dtype, tokens * dim_v);
  data->lse.resize(group * rows);
  from.q.Read({kv_head * group, 0, 0}, {group, rows, dim_k}, data->q.data());
  from.k.Read({kv_head, 0, 0}, {1, tokens, dim_k}, data->k.data());
  from.v.Read({kv_head, 0, 0}, {1, tokens, dim_v}, data->v.data());
  from.lse.Read({kv_head * group, 0}, {group, rows}, data->lse.data());
  return data;
}

RecordedRows TraceReader::ReadRows(int layer_index, int head_index) const {
  const LayerInfo& layer = state_->info.layers.at(layer_index);
  const LayerData& from = state_->layers[layer_index];
  if (!HasRows()) {
    throw Error(StrCat(state_->path, ": level ", Name(state_->info.level),
                       " holds no decode rows; record again with level qkv+rows"));
  }
  KVSCOPE_CHECK(head_index >= 0 && head_index < static_cast<int>(layer.heads.size()));
  RecordedRows rows;
  rows.num_steps = static_cast<int>(from.rows_token.size());
  rows.num_tokens = state_->num_tokens;
  rows.row_token = from.rows_token;
  rows.weights.resize(size_t(rows.num_steps) * rows.num_tokens);
  // The array ends at the last row's token, which may lie before the last token of the trace.
  const uint64_t steps = rows.num_steps, stored = std::min<uint64_t>(from.rows.extents()[2], rows.num_tokens);
  std::vector<Half> packed(steps * stored);
  from.rows.Read({uint64_t(head_index), 0, 0}, {1, steps, stored}, packed.data());
  for (uint64_t step = 0; step < steps; ++step) {
    const uint64_t length = std::min<uint64_t>(stored, rows.row_token[step] + 1);
    std::copy_n(packed.begin() + step * stored, length, rows.weights.begin() + step * rows.num_tokens);
  }
  return rows;
}

bool TraceReader::HasColumns() const {
  return HoldsColumns(state_->info.level);
}

int TraceReader::num_column_tokens(int layer_index) const {
  return state_->layers.at(layer_index).column_tokens;
}
int TraceReader::num_column_rows(int layer_index) const {
  return state_->layers.at(layer_index).column_rows;
}

ColumnStatistics TraceReader::ReadColumnStatistics(int layer_index) const {
  const LayerInfo& layer = state_->info.layers.at(layer_index);
  const LayerData& from = state_->layers[layer_index];
  if (!HasColumns()) {
    throw Error(StrCat(state_->path, ": level ", Name(state_->info.level),
                       " holds no column statistics; record with level relevance"));
  }
  ColumnStatistics statistics;
  statistics.num_rows = from.column_rows;
  statistics.num_tokens = from.column_tokens;
  const uint64_t heads = layer.heads.size(), tokens = from.column_tokens;
  if (tokens == 0) return statistics;
  const auto read = [&](const h5::Dataset& dataset, std::vector<float>& values) {
    values.resize(heads * tokens);
    dataset.Read({0, 0}, {heads, tokens}, values.data());
    const auto bad =
        std::find_if(values.begin(), values.end(), [](float value) { return !(value >= 0) || !std::isfinite(value); });
    if (bad == values.end()) return;
    throw Error(StrCat(dataset.place(), ": expected finite numbers from 0, found ", *bad, " at token ",
                       (bad - values.begin()) % tokens, "; the file is damaged"));
  };
  read(from.column_sum, statistics.sum);
  read(from.column_max, statistics.max);
  return statistics;
}

bool TraceReader::Refresh() {
  if (state_->status != TraceStatus::kRecording) return false;
  struct stat now = {};
  if (stat(state_->path.c_str(), &now) != 0) return false;
  const auto same = [&](const struct stat& a, const struct stat& b) {
    return a.st_ino == b.st_ino && a.st_size == b.st_size && a.st_mtim.tv_sec == b.st_mtim.tv_sec &&
           a.st_mtim.tv_nsec == b.st_mtim.tv_nsec;
  };
  if (same(now, state_->seen)) return false;
  const auto figures = [](const State& state) {
    int64_t column_rows = 0;
    for (const LayerData& layer : state.layers) column_rows += layer.column_rows;
    return std::make_tuple(state.num_tokens, state.steps.size(), state.status, state.answer.text, column_rows);
  };
  const auto before = figures(*state_);
  // HDF5 keeps what it read of an open file; a file that is closed first is read afresh, whatever the writer did.
  const std::string path = state_->path;
  auto old = std::move(state_);
  old->layers.clear();
  old->file.Close();
  state_ = std::make_unique<State>(path);
  return before != figures(*state_);
}

}  // namespace kvscope
