// SPDX-License-Identifier: Apache-2.0
#include "core/trace_metadata.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/trace_schema.h"

namespace kvscope {
namespace {

using schema::LayerPath;
using schema::RopePath;

constexpr int kMostLayers = 4096, kMostHeads = 1 << 16, kMostHeadDim = 1 << 16;

bool IsSetName(const std::string& name) {
  const auto legal = [](unsigned char c) { return std::isalnum(c) || c == '_' || c == '-'; };
  return !name.empty() && name.size() <= 64 && std::all_of(name.begin(), name.end(), legal);
}

template <typename Element>
void WriteFixed(h5::File& file, const std::string& object, const std::vector<Element>& values) {
  h5::Dataset dataset = file.CreateDataset(object, {TypeOf<Element>(), {values.size()}, {}, {}, false});
  dataset.Write({0}, {values.size()}, values.data());
}

// An integer attribute within [least, most].
int ReadCount(const h5::File& file, const std::string& object, const char* name, int least, int most) {
  const int64_t value = file.ReadInteger(object, name);
  if (value < least || value > most) {
    throw Error(StrCat(file.path(), ":", object, "@", name, ": expected ", least, " to ", most, ", found ", value,
                       "; the file is damaged"));
  }
  return static_cast<int>(value);
}

double ReadFinite(const h5::File& file, const std::string& object, const char* name) {
  const double value = file.ReadReal(object, name);
  if (!std::isfinite(value)) throw Error(StrCat(file.path(), ":", object, "@", name, ": expected a finite number"));
  return value;
}

void WriteModel(h5::File& file, const TraceInfo& info) {
  const ModelInfo& model = info.model;
  file.CreateGroup(schema::kModel);
  file.WriteText(schema::kModel, "name", model.name);
  file.WriteText(schema::kModel, "architecture", model.architecture);
  file.WriteInteger(schema::kModel, "layers", model.num_layers);
  file.WriteInteger(schema::kModel, "vocab", model.vocab);
  file.WriteText(schema::kModel, "file_sha256", model.file_sha256);
  file.WriteReal(schema::kModel, "norm_epsilon", model.norm_epsilon);
  file.WriteText(schema::kModel, "backend", model.backend);
  file.WriteText(schema::kModel, "device", model.device);
  file.WriteText(schema::kModel, "engine_flags", model.engine_flags);
  file.WriteText(schema::kModel, "kv_dtype", Name(model.kv_dtype));
  file.WriteInteger(schema::kModel, "prefill_chunk", model.prefill_chunk);
  file.WriteText(schema::kModel, "query_rows", model.query_rows);
  std::vector<int> layers, heads;
  for (const LayerInfo& layer : info.layers) {
    layers.push_back(layer.layer);
    heads.push_back(static_cast<int>(layer.heads.size()));
  }
  file.WriteIntegers(schema::kModel, "layers_recorded", layers);
  file.WriteIntegers(schema::kModel, "heads_recorded", heads);
}

void WriteLayer(h5::File& file, const LayerInfo& layer) {
  const std::string path = LayerPath(layer.layer);
  file.CreateGroup(path);
  file.WriteText(path, "kind", layer.kind);
  file.WriteInteger(path, "window", layer.window);
  file.WriteInteger(path, "heads", layer.num_heads);
  file.WriteInteger(path, "kv_heads", layer.num_kv_heads);
  file.WriteInteger(path, "head_dim_k", layer.head_dim_k);
  file.WriteInteger(path, "head_dim_v", layer.head_dim_v);
  file.WriteReal(path, "scale", layer.scale);
  file.WriteReal(path, "softcap", layer.softcap);
  file.WriteInteger(path, "sink", layer.sink);
  file.WriteText(path, "rope_set", layer.rope_set);
  WriteFixed(file, path + "/head", layer.heads);
  WriteFixed(file, path + "/kv_head", layer.kv_heads);
}

ModelInfo ReadModel(const h5::File& file) {
  ModelInfo model;
  model.name = file.ReadText(schema::kModel, "name");
  model.architecture = file.ReadText(schema::kModel, "architecture");
  model.num_layers = ReadCount(file, schema::kModel, "layers", 1, kMostLayers);
  model.vocab = ReadCount(file, schema::kModel, "vocab", 0, 1 << 30);
  model.file_sha256 = file.ReadText(schema::kModel, "file_sha256");
  model.norm_epsilon = ReadFinite(file, schema::kModel, "norm_epsilon");
  model.backend = file.ReadText(schema::kModel, "backend");
  model.device = file.ReadText(schema::kModel, "device");
  model.engine_flags = file.ReadText(schema::kModel, "engine_flags");
  const std::string dtype = file.ReadText(schema::kModel, "kv_dtype");
  if (dtype != Name(DType::kF16) && dtype != Name(DType::kF32)) {
    throw Error(StrCat(file.path(), ":/model@kv_dtype: expected f16 or f32, found '", dtype, "'"));
  }
  model.kv_dtype = dtype == Name(DType::kF16) ? DType::kF16 : DType::kF32;
  model.prefill_chunk = ReadCount(file, schema::kModel, "prefill_chunk", 0, 1 << 30);
  model.query_rows = file.ReadText(schema::kModel, "query_rows");
  return model;
}

void CheckHeads(const std::string& place, const LayerInfo& layer) {
  const int group = layer.HeadsPerKvHead();
  if (layer.num_heads % layer.num_kv_heads || layer.heads.size() != layer.kv_heads.size() * group ||
      layer.kv_heads.empty()) {
    throw Error(StrCat(place, ": expected ", layer.num_heads, " heads in groups of ", layer.num_kv_heads,
                       " KV heads, whole groups stored; found ", layer.heads.size(), " heads and ",
                       layer.kv_heads.size(), " KV heads"));
  }
  for (size_t i = 0; i < layer.kv_heads.size(); ++i) {
    const int kv_head = layer.kv_heads[i];
    bool fits = kv_head >= 0 && kv_head < layer.num_kv_heads && (i == 0 || kv_head > layer.kv_heads[i - 1]);
    for (int j = 0; fits && j < group; ++j) fits = layer.heads[i * group + j] == kv_head * group + j;
    if (!fits) throw Error(StrCat(place, "/kv_head: expected ascending KV heads with all their heads, at entry ", i));
  }
}

LayerInfo ReadLayer(const h5::File& file, int number) {
  const std::string path = LayerPath(number), place = StrCat(file.path(), ":", path);
  LayerInfo layer;
  layer.layer = number;
  layer.kind = file.ReadText(path, "kind");
  if (layer.kind != "full" && layer.kind != "window" && layer.kind != "linear") {
    throw Error(StrCat(place, "@kind: expected full, window or linear, found '", layer.kind, "'; update kvscope"));
  }
  layer.window = ReadCount(file, path, "window", 0, 1 << 30);
  layer.num_heads = ReadCount(file, path, "heads", 1, kMostHeads);
  layer.num_kv_heads = ReadCount(file, path, "kv_heads", 1, layer.num_heads);
  layer.head_dim_k = ReadCount(file, path, "head_dim_k", 1, kMostHeadDim);
  layer.head_dim_v = ReadCount(file, path, "head_dim_v", 1, kMostHeadDim);
  layer.scale = static_cast<float>(ReadFinite(file, path, "scale"));
  layer.softcap = static_cast<float>(ReadFinite(file, path, "softcap"));
  layer.sink = ReadCount(file, path, "sink", 0, 1) == 1;
  layer.rope_set = file.ReadText(path, "rope_set");
  layer.heads = ReadColumn<int>(file, path + "/head");
  layer.kv_heads = ReadColumn<int>(file, path + "/kv_head");
  CheckHeads(place, layer);
  return layer;
}

std::vector<RopeSet> ReadRopeSets(const h5::File& file) {
  std::vector<RopeSet> sets;
  const std::string names = file.ReadText(schema::kRope, "sets");
  for (size_t begin = 0; begin < names.size();) {
    const size_t end = std::min(names.find(',', begin), names.size());
    RopeSet set;
    set.name = names.substr(begin, end - begin);
    if (!IsSetName(set.name)) throw Error(StrCat(file.path(), ":/rope@sets: '", set.name, "' is not a name"));
    set.attention_scaling = ReadFinite(file, RopePath(set.name), "attention_scaling");
    set.inv_freq = ReadColumn<double>(file, RopePath(set.name) + "/inv_freq");
    sets.push_back(std::move(set));
    begin = end + 1;
  }
  return sets;
}

void CheckVersion(const h5::File& file) {
  if (!file.HasAttribute("/", "format") || file.ReadText("/", "format") != schema::kFormat) {
    throw Error(StrCat(file.path(), ": an HDF5 file, but not a trace; expected one written by kvscope capture"));
  }
  const std::vector<int> version = file.ReadIntegers("/", "version");
  if (version.size() != 2 || version[0] < 1) throw Error(StrCat(file.path(), ":/@version: expected two numbers"));
  if (version[0] > schema::kMajorVersion) {
    throw Error(StrCat(file.path(), ": trace format ", version[0], ".", version[1], ", this program reads up to ",
                       schema::kMajorVersion, "; update kvscope"));
  }
}

}  // namespace

bool HoldsVectors(TraceLevel level) {
  return level == TraceLevel::kQkvRows || level == TraceLevel::kQkv;
}
bool HoldsRows(TraceLevel level) {
  return level == TraceLevel::kQkvRows || level == TraceLevel::kRows;
}
bool HoldsColumns(TraceLevel level) {
  return level == TraceLevel::kRelevance;
}

void WriteMetadata(h5::File& file, const TraceInfo& info, double flush_interval_secs) {
  file.WriteText("/", "format", schema::kFormat);
  file.WriteIntegers("/", "version", {schema::kMajorVersion, schema::kMinorVersion});
  file.WriteText("/", "run_id", info.run_id);
  file.WriteText("/", "created_utc", info.created_utc);
  file.WriteText("/", "generator", info.generator);
  file.WriteText("/", "level", Name(info.level));
  file.WriteReal("/", "flush_interval_secs", flush_interval_secs);
  WriteModel(file, info);
  file.CreateGroup(schema::kRope);
  std::string names;
  for (const RopeSet& set : info.rope_sets) {
    KVSCOPE_CHECK(IsSetName(set.name));
    names += (names.empty() ? "" : ",") + set.name;
    file.CreateGroup(RopePath(set.name));
    file.WriteReal(RopePath(set.name), "attention_scaling", set.attention_scaling);
    WriteFixed(file, RopePath(set.name) + "/inv_freq", set.inv_freq);
  }
  file.WriteText(schema::kRope, "sets", names);
  file.CreateGroup(schema::kTokens);
  file.WriteInteger(schema::kTokens, "prompt_tokens", info.prompt_tokens);
  for (const char* group : {schema::kAnswer, schema::kSegments, schema::kSpans, schema::kSteps, schema::kLayers}) {
    file.CreateGroup(group);
  }
  file.CreateGroup(schema::kTask);
  file.WriteText(schema::kTask, "name", info.task.name);
  file.WriteText(schema::kTask, "parameters", info.task.parameters_json);
  file.WriteUnsigned(schema::kTask, "seed", info.task.seed);
  file.WriteText(schema::kTask, "scorer", info.task.scorer);
  file.WriteText(schema::kTask, "priming_text", info.task.priming_text);
  file.WriteText(schema::kTask, "scored_text", info.task.scored_text);
  TextColumn(file, StrCat(schema::kTask, "/expected"), 8).Append(info.task.expected_answers);
  for (const LayerInfo& layer : info.layers) {
    CheckHeads(StrCat(file.path(), ":", LayerPath(layer.layer)), layer);
    WriteLayer(file, layer);
  }
}

TraceInfo ReadMetadata(const h5::File& file, Trust trust) {
  CheckVersion(file);
  TraceInfo info;
  info.run_id = file.ReadText("/", "run_id");
  info.created_utc = file.ReadText("/", "created_utc");
  info.generator = file.ReadText("/", "generator");
  info.level = TraceLevelFromName(file.ReadText("/", "level"));
  info.model = ReadModel(file);
  info.rope_sets = ReadRopeSets(file);
  info.prompt_tokens = ReadCount(file, schema::kTokens, "prompt_tokens", 0, 1 << 30);
  info.task.name = file.ReadText(schema::kTask, "name");
  info.task.parameters_json = file.ReadText(schema::kTask, "parameters");
  info.task.seed = file.ReadUnsigned(schema::kTask, "seed");
  info.task.scorer = file.ReadText(schema::kTask, "scorer");
  info.task.priming_text = file.ReadText(schema::kTask, "priming_text");
  info.task.scored_text = file.ReadText(schema::kTask, "scored_text");
  info.task.expected_answers = ReadTexts(file, StrCat(schema::kTask, "/expected"), trust);
  int previous = -1;
  for (const int number : file.ReadIntegers(schema::kModel, "layers_recorded")) {
    if (number <= previous || number >= info.model.num_layers) {
      throw Error(StrCat(file.path(), ":/model@layers_recorded: expected ascending layers below ",
                         info.model.num_layers, ", found ", number));
    }
    previous = number;
    info.layers.push_back(ReadLayer(file, number));
  }
  return info;
}

SegmentTables::SegmentTables(h5::File& file)
    : role_(file, "/segments/role", 32),
      kind_(file, "/spans/kind", 32),
      label_(file, "/spans/label", 128),
      turn_(file, "/segments/turn", 32),
      segment_begin_(file, "/segments/token_begin", 32),
      segment_end_(file, "/segments/token_end", 32),
      span_begin_(file, "/spans/token_begin", 32),
      span_end_(file, "/spans/token_end", 32),
      decide_at_(file, "/segments/decide_at", 32) {}

void SegmentTables::Replace(const std::vector<Segment>& segments, const std::vector<Span>& spans) {
  std::vector<std::string> roles, kinds, labels;
  std::vector<int> turns, segment_begins, segment_ends, span_begins, span_ends;
  std::vector<uint8_t> decide_at;
  for (const Segment& segment : segments) {
    roles.push_back(segment.role);
    turns.push_back(segment.turn);
    segment_begins.push_back(segment.token_begin);
    segment_ends.push_back(segment.token_end);
    decide_at.push_back(segment.decide_at);
  }
  for (const Span& span : spans) {
    kinds.push_back(span.kind);
    labels.push_back(span.label);
    span_begins.push_back(span.token_begin);
    span_ends.push_back(span.token_end);
  }
  role_.Replace(roles);
  turn_.Replace(turns);
  segment_begin_.Replace(segment_begins);
  segment_end_.Replace(segment_ends);
  decide_at_.Replace(decide_at);
  kind_.Replace(kinds);
  label_.Replace(labels);
  span_begin_.Replace(span_begins);
  span_end_.Replace(span_ends);
}

void ReadSegments(const h5::File& file, Trust trust, TraceInfo& info) {
  const auto roles = ReadTexts(file, "/segments/role", trust);
  const auto turns = ReadColumn<int>(file, "/segments/turn");
  auto begins = ReadColumn<int>(file, "/segments/token_begin"), ends = ReadColumn<int>(file, "/segments/token_end");
  const auto decide_at = ReadColumn<uint8_t>(file, "/segments/decide_at");
  const auto check = [&](const char* where, size_t i) {
    if (begins[i] >= 0 && ends[i] >= begins[i]) return true;
    if (trust == Trust::kGrowing) return false;
    throw Error(StrCat(file.path(), ":", where, ": entry ", i, " is the range ", begins[i], "..", ends[i],
                       "; the file is damaged"));
  };
  info.segments.clear();
  size_t count = CommonLength(StrCat(file.path(), ":/segments"),
                              {roles.size(), turns.size(), begins.size(), ends.size(), decide_at.size()}, trust);
  for (size_t i = 0; i < count && check(schema::kSegments, i); ++i) {
    info.segments.push_back({roles[i], turns[i], begins[i], ends[i], decide_at[i] != 0});
  }
  const auto kinds = ReadTexts(file, "/spans/kind", trust), labels = ReadTexts(file, "/spans/label", trust);
  begins = ReadColumn<int>(file, "/spans/token_begin");
  ends = ReadColumn<int>(file, "/spans/token_end");
  info.spans.clear();
  count =
      CommonLength(StrCat(file.path(), ":/spans"), {kinds.size(), labels.size(), begins.size(), ends.size()}, trust);
  for (size_t i = 0; i < count && check(schema::kSpans, i); ++i) {
    info.spans.push_back({kinds[i], begins[i], ends[i], labels[i]});
  }
}

StepTables::StepTables(h5::File& file)
    : time_ns_(file, "/steps/time_ns", 64),
      stall_ns_(file, "/steps/stall_ns", 64),
      top_offsets_(file, "/steps/top_offsets", 64),
      sampled_id_(file, "/steps/sampled_id", 64),
      queue_depth_(file, "/steps/queue_depth", 64),
      top_id_(file, "/steps/top_id", 256),
      top_logprob_(file, "/steps/top_logprob", 256) {
  top_offsets_.Append(0);
}

void StepTables::Append(const std::vector<StepInfo>& steps) {
  std::vector<int64_t> times, stalls, offsets;
  std::vector<int> sampled, depths, top_ids;
  std::vector<float> top_logprobs;
  for (const StepInfo& step : steps) {
    KVSCOPE_CHECK_EQ(step.top_ids.size(), step.top_logprobs.size());
    times.push_back(step.time_ns);
    stalls.push_back(step.stall_ns);
    sampled.push_back(step.sampled_id);
    depths.push_back(step.queue_depth);
    top_ids.insert(top_ids.end(), step.top_ids.begin(), step.top_ids.end());
    top_logprobs.insert(top_logprobs.end(), step.top_logprobs.begin(), step.top_logprobs.end());
    offsets.push_back(static_cast<int64_t>(top_id_.size() + top_ids.size()));
  }
  top_id_.Append(top_ids);
  top_logprob_.Append(top_logprobs);
  top_offsets_.Append(offsets);
  time_ns_.Append(times);
  stall_ns_.Append(stalls);
  sampled_id_.Append(sampled);
  queue_depth_.Append(depths);
}

std::vector<StepInfo> ReadSteps(const h5::File& file, Trust trust) {
  const auto times = ReadColumn<int64_t>(file, "/steps/time_ns"), stalls = ReadColumn<int64_t>(file, "/steps/stall_ns");
  const auto sampled = ReadColumn<int>(file, "/steps/sampled_id");
  const auto depths = ReadColumn<int>(file, "/steps/queue_depth");
  const auto offsets = ReadColumn<int64_t>(file, "/steps/top_offsets");
  const auto top_ids = ReadColumn<int>(file, "/steps/top_id");
  const auto top_logprobs = ReadColumn<float>(file, "/steps/top_logprob");
  const size_t num_offsets = std::max<size_t>(offsets.size(), 1) - 1;
  const size_t count = CommonLength(StrCat(file.path(), ":/steps"),
                                    {times.size(), stalls.size(), sampled.size(), depths.size(), num_offsets}, trust);
  const auto num_tops = static_cast<int64_t>(std::min(top_ids.size(), top_logprobs.size()));
  std::vector<StepInfo> steps;
  for (size_t i = 0; i < count; ++i) {
    StepInfo step{times[i], sampled[i], {}, {}, depths[i], stalls[i]};
    const int64_t begin = offsets[i], end = offsets[i + 1];
    if (begin < 0 || end < begin || end > num_tops) {
      if (trust == Trust::kGrowing) break;
      throw Error(StrCat(file.path(), ":/steps/top_offsets: entry ", i, " is the range ", begin, "..", end, " of ",
                         num_tops, "; the file is damaged"));
    }
    step.top_ids.assign(top_ids.begin() + begin, top_ids.begin() + end);
    step.top_logprobs.assign(top_logprobs.begin() + begin, top_logprobs.begin() + end);
    steps.push_back(std::move(step));
  }
  return steps;
}

}  // namespace kvscope
